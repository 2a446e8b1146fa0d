"""A recipe's dataset in one form."""

from typing import Any

from diffrl.collection import collect as collecting
from diffrl.collection.collect import MINARI, Outcome
from diffrl.collection.recipe import Recipe


def collect(recipe: Recipe, *, format: str = MINARI, **settings: Any) -> Outcome:
    return collecting.collect(recipe, formats=(format,), **settings)[format]

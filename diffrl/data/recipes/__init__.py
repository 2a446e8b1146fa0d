"""All recipes by name. Adding one is adding it here."""

from diffrl.data.recipes import maze_sets
from diffrl.data.recipes.base import Recipe

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in maze_sets.RECIPES}

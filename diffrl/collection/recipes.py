"""All recipes by name, and the suites made of them. Adding a recipe is adding it here."""

from diffrl.collection import blockpush, classic, control, locomotion, maze2d, ogbench, pointmaze
from diffrl.collection.recipe import Recipe

_ALL = (*pointmaze.RECIPES, *locomotion.RECIPES)
# What every method is judged on, but goal-conditioned play: it is imitation, cloning and RL score alike on it.
_SMALL = tuple(recipe for recipe in _ALL if "-goal-" not in recipe.name)
_FULL = tuple(
    recipe._replace(name=recipe.name.replace("-v0", "-1m-v0"), summary=f"{recipe.summary}; 1 M rows", rows=1_000_000)
    for recipe in _ALL
)

_OTHERS = (*maze2d.RECIPES, *control.RECIPES, *classic.RECIPES, *blockpush.RECIPES, *ogbench.RECIPES)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*_ALL, *_FULL, *_OTHERS)}
SUITES: dict[str, tuple[str, ...]] = {
    name: tuple(each.name for each in suite) for name, suite in (("small", _SMALL), ("full", _FULL))
}

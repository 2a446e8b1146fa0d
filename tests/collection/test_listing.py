"""The list of recipes: names whole at any width, by family, with rows, size and time of each."""

import pytest
from rich.filesize import decimal

from diffrl.collection.listing import listing
from diffrl.collection.recipe import Cost
from diffrl.collection.recipes import RECIPES

ALL = list(RECIPES.values())
WIDTHS = (40, 80, 120, 200)


def test_every_recipe_says_what_its_data_cost():
    for recipe in ALL:
        assert recipe.cost is not None, f"{recipe.name}: measure it and give its Cost"
        assert recipe.cost.rows_per_second > 0
        assert recipe.cost.bytes_per_row > 0


@pytest.mark.parametrize("width", WIDTHS)
def test_names_are_whole_and_lines_fit(width):
    lines = listing(ALL, width).splitlines()
    assert all(len(line) <= width or " " not in line.strip() for line in lines)
    words = {word for line in lines for word in line.split()}
    assert words >= RECIPES.keys()


@pytest.mark.parametrize("width", WIDTHS)
def test_longer_names_stay_whole(width):
    longer = [recipe._replace(name=f"{recipe.name}-{'x' * 30}") for recipe in ALL]
    lines = listing(longer, width).splitlines()
    assert {word for line in lines for word in line.split()} >= {recipe.name for recipe in longer}
    assert all(len(line) <= width or " " not in line.strip() for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_recipes_stand_under_their_family_with_rows_size_and_time(width):
    heads = {recipe.family: f"{recipe.family} (" for recipe in ALL}
    text = listing(ALL, width)
    lines = text.splitlines()
    for family, head in heads.items():
        (at,) = [i for i, line in enumerate(lines) if line.startswith(head)]
        end = lines.index("", at)
        below = " ".join(" ".join(lines[at + 1 : end]).split())
        members = [recipe for recipe in ALL if recipe.family == family]
        assert f"({len(members)} dataset" in lines[at]
        for recipe, following in zip(members, [*members[1:], None], strict=True):
            own = below[below.index(f"{recipe.name} ") : below.index(f"{following.name} ") if following else None]
            assert f" {recipe.rows:,} rows" in own
            assert recipe.cost is not None
            assert decimal(round(recipe.rows * recipe.cost.bytes_per_row)) in own
            assert all(word in own for word in recipe.summary.split())


def test_time_is_of_the_recipes_rows_and_says_what_is_shared():
    cost = Cost(rows_per_second=1000.0, bytes_per_row=50.0, once_seconds=300.0)
    recipe = ALL[0]._replace(name="some/thing-v0", summary="a summary", rows=200_000, cost=cost)
    assert "200,000 rows, 10.0 MB, 3m20s + 5m00s" in listing([recipe], 45).replace("\n    ", " ")
    unknown = " ".join(listing([recipe._replace(cost=None)], 100).splitlines()[1].split())
    assert unknown == "some/thing-v0 200,000 rows a summary"
    assert listing([recipe._replace(extra="ogbench")], 100).startswith("some (1 dataset, needing diffrl[ogbench])")

"""What a method can be trained on, and what of a batch it looks at: traced, without an update."""

from typing import Any

import jax
import pytest
from small_trainings import source
from support import unchecked

from diffrl import registry
from diffrl.algorithm import Algorithm
from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig
from diffrl.data.build import build
from diffrl.registry import REGISTRY
from diffrl.training.able import EXTRAS, Verdict, _field, judge
from diffrl.types import Spec


def verdict(name: str, **settings: Any) -> Verdict:
    dataset, spec, _ = build(source(), DatasetConfig())
    with unchecked():
        return judge(Config(REGISTRY[name].config(), DatasetConfig(id="data", **settings)), spec, dataset)


def test_methods_say_what_they_look_at() -> None:
    assert verdict("bc").reads == {"observation", "action"}
    td3_bc, sac = verdict("td3_bc"), verdict("sac")
    assert td3_bc.reads == sac.reads == {"observation", "action", "reward", "next_observation", "terminal"}
    assert (td3_bc.collects, sac.collects) == (False, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beso", "bridger"])
def test_windows_are_looked_at_as_their_rows(name: str) -> None:
    """So that none of them passes for one of a single state."""
    reads = verdict(name).reads
    assert reads >= {"observation", "action"}
    assert "reward" not in reads


def test_paths_into_a_window_are_those_of_its_rows() -> None:
    attribute, key, position = jax.tree_util.GetAttrKey, jax.tree_util.DictKey, jax.tree_util.FlattenedIndexKey
    batch = position(1)
    assert _field((batch, attribute("action"))) == "action"
    assert _field((batch, attribute("extras"), key("window_observation"))) == "observation"
    assert _field((batch, attribute("extras"), key("window_mask"))) == EXTRAS
    assert _field((position(0), attribute("policy"))) == ""


def test_a_method_that_needs_all_rows_says_so_where_they_come_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepares(config: Any, spec: Spec) -> Algorithm:
        algorithm = bc.make(config, spec)
        return algorithm._replace(stages=(algorithm.stages[0]._replace(prepare=lambda state, dataset, key: {}),))

    assert not verdict("bc", slab_rows=8).why_not
    monkeypatch.setitem(REGISTRY, "bc", registry.Method(bc.Config, prepares))
    assert "so all must be on the device" in verdict("bc", slab_rows=8).why_not
    assert not verdict("bc").why_not

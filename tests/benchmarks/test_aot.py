"""Programs compiled for TPU slices that are not there: none lets runs talk to one another."""

import numpy as np
import pytest
from support import unchecked

from diffrl.benchmarks import aot
from diffrl.benchmarks.stages import Problem
from diffrl.config import Config, ConfigError
from diffrl.registry import REGISTRY

LINES = """
  %all-reduce.1 = f32[256,256]{0,1:T(8,128)} all-reduce(%input.4), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %all-gather.2 = bf16[8]{0} all-gather(%x), channel_id=2, replica_groups=[2,4]<=[8], dimensions={0}
  %ar = (f32[3], f32[4]) all-reduce-start(%a, %b), channel_id=3, replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  %cp = f32[] collective-permute(%z), source_target_pairs={{0,1},{1,0}}
  %add.3 = f32[] add(%all-reduce.1, %all-gather.2)
"""


def test_collectives_and_their_groups() -> None:
    found = list(aot.collectives(LINES))
    assert [kind for kind, _ in found] == ["all-reduce", "all-gather", "all-reduce", "collective-permute"]
    rows = [[0, 1, 2, 3], [4, 5, 6, 7]]
    for (_, groups), expected in zip(found, [rows, rows, [[0, 4], [1, 5], [2, 6], [3, 7]], [[0, 1], [1, 0]]], strict=True):
        np.testing.assert_array_equal(groups, expected)


@pytest.mark.parametrize(
    ("batch_devices", "kinds"), [(4, ["all-reduce"]), (8, []), (2, ["all-reduce", "all-gather", "all-reduce"])]
)
def test_which_cross_runs(batch_devices: int, kinds: list[str]) -> None:
    """Devices 0 to 3 are of one run where four share its batch; 0 and 4 never are then."""
    assert aot.crossing(LINES, batch_devices) == kinds


def test_unknown_slices_are_refused() -> None:
    with pytest.raises(ConfigError, match="known chips are v5e, v5p, v6e, as in v5e:2x4"):
        aot.chips("a100:8")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("batch_devices", [1, 4])
@pytest.mark.parametrize("name", REGISTRY)
def test_every_stage_compiles_for_a_slice(name: str, batch_devices: int) -> None:
    """64 runs on eight chips of v5e in 16 GB each; with four chips to a run, only these four talk."""
    pytest.importorskip("libtpu")
    with unchecked():
        found = list(
            aot.ahead_of_time("v5e:2x4", name, Config(REGISTRY[name].config()), Problem(17, 6, 100_000), 64, batch_devices)
        )
    assert len(found) >= 1
    for one in found:
        assert one.crossing == []
        assert bool(one.collectives) == (batch_devices > 1), one
        assert one.memory_bytes < aot.CHIPS["v5e"].memory
        assert one.fitting_runs >= 64

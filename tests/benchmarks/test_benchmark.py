"""The benchmark: what it says of its measurements, and that every section measures. The figures themselves are the machine's."""

import json
import math
from pathlib import Path

import pytest
from programs import run
from support import quick_compilation, unchecked

from diffrl.algorithms import bc, idql, iql, qsm, srpo, swg
from diffrl.benchmarks import claims, page, scaling
from diffrl.benchmarks.scaling import Point, resize
from diffrl.benchmarks.stages import COLUMNS, Problem, StageTime, acting_configs
from diffrl.config import Config, ConfigError

SMALL = iql.Config(hidden_dims=(8, 8), batch_size=16)


def stage_time(way: str, runs: int, rate: float) -> StageTime:
    return StageTime("m", "s", way, runs, rate, rate / 10.0, 1e9, 0.5, 1e6, 0.1, 30, 2.0, 0.2, 10**7)


def test_page_has_a_table_per_section_with_rows(tmp_path: Path) -> None:
    rows = [stage_time("host loop", 1, 10.0), stage_time("scan", 1, 20.0), stage_time("runs", 4, 60.0)]
    sections = [
        page.Section("stages", "Training", COLUMNS, rows, "a note"),
        page.Section("slabs", "Nothing", ("a",), []),
    ]
    text = page.markdown(["`command`", "machine"], sections)
    assert text.startswith("# Benchmark\n\n`command`  \nmachine  \n\n## Training\n\na note\n\n| method |")
    assert "| m | s | runs | 4 | 60.0 | 6.00 | 1.000 | 50 % | 1.0 | 10 % | 30 | 2.0 | 0.2 | 10 |" in text
    assert "Nothing" not in text
    assert page.draw_throughput(rows, tmp_path / "a.png").stat().st_size > 5_000
    alone = [row._replace(of_host_loop=math.nan) for row in rows if row.way == "runs"]  # --nostrategies
    assert page.draw_throughput(alone, tmp_path / "alone.png").stat().st_size > 5_000
    points = [Point(axis, value, 1.0 / value, value) for axis in scaling.AXES for value in (1, 2, 4)]
    assert page.draw_scaling(points, "title", tmp_path / "b.png").stat().st_size > 5_000


def test_claims_follow_from_the_rows() -> None:
    """One run makes 20 updates a second, 64 make 600; of 6 seeds the nearest row is that of one."""
    rows = [stage_time("host loop", 1, 10.0), stage_time("scan", 1, 20.0), stage_time("runs", 64, 600.0)]
    rows = [row._replace(method="bc", stage="policy") for row in rows]
    wanted = {"bc": Config(bc.Config(num_updates=1_000)), "iql": Config(iql.Config())}
    said = claims.sentences(rows, wanted, Problem(3, 2, 10))
    assert said == [
        "bc, policy: 64 runs in one program make 30.0 times the updates of one (aim on an accelerator: 20)",
        "bc, policy: 60.0 times the updates of a host loop, with 64 runs",
        "bc: 6 seeds of 1,000 updates would take 5m00s, compiling and evaluating aside",
    ]
    eight = [rows[0]._replace(way="runs", runs=8)]
    assert "8 runs reach 50% of the rate of products" in claims.sentences(eight, {}, Problem(3, 2, 10))[0]


@pytest.mark.slow
def test_the_clock_stops_what_is_measured(tmp_path: Path) -> None:
    """After the first line, which is written with what it says; nothing after it is begun."""
    flags = ("--config=bc_pointmaze", "--runs=1,2", "--seconds=0.01", "--chunks=1", "--rows=100", f"--out={tmp_path}")
    said = run(tmp_path, "launch/benchmark.py", *flags, "--sections=stages,acting", "--minutes=0.0001").stdout
    assert "0.0001 minutes are over; not measured: the rest of stages, acting" in said
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["way"] for row in results["stages"]] == ["host loop"]
    assert results["claims"] == []


def test_sizes_are_given_to_all_networks_and_stages() -> None:
    method = srpo.Config()
    resize(method, "width", 32)
    resize(method, "batch", 7)
    resize(method, "updates", 2)
    assert (method.behavior_hidden_dim, method.critic_hidden_dims, method.policy_hidden_dims) == (32, (32, 32), (32, 32))
    assert {method.behavior_batch_size, method.critic_batch_size, method.policy_batch_size} == {7}
    assert {method.behavior_updates, method.critic_updates, method.policy_updates} == {2}
    assert method.behavior_blocks == 3


def test_variants_go_to_the_methods_that_have_them() -> None:
    wanted = {"qsm": Config(algorithm=qsm.Config()), "iql": Config(algorithm=iql.Config())}
    found = acting_configs(wanted, ["num_diffusion_steps=2,3"], Problem(3, 2, 10))
    assert [(name, variant) for name, variant, _ in found] == [
        ("qsm", {}),
        ("iql", {}),
        ("qsm", {"num_diffusion_steps": "2"}),
        ("qsm", {"num_diffusion_steps": "3"}),
    ]
    assert [config.algorithm.num_diffusion_steps for name, _, config in found if name == "qsm"] == [5, 2, 3]
    with pytest.raises(ConfigError, match="no method here has these settings"):
        acting_configs(wanted, ["act.nothing=1"], Problem(3, 2, 10))
    assert len(acting_configs(wanted, ["act.nothing=1"], Problem(3, 2, 10), strict=False)) == 2
    with pytest.raises(ConfigError, match="--variants, qsm"):
        acting_configs(wanted, ["act.num_candidates=0"], Problem(3, 2, 10))
    few_levels = {"idql": Config(algorithm=idql.Config()), "swg": Config(algorithm=swg.Config())}  # five, and fifteen
    some = acting_configs(few_levels, ["act.num_denoising_steps=3,15"], Problem(3, 2, 10), strict=False)
    assert [(name, *variant.values()) for name, variant, _ in some] == [
        ("idql",),
        ("swg",),
        ("idql", "3"),
        ("swg", "3"),
        ("swg", "15"),
    ]
    with pytest.raises(ConfigError, match=r"--variants, idql: act\.num_denoising_steps = 15 is more than"):
        acting_configs(few_levels, ["act.num_denoising_steps=3,15"], Problem(3, 2, 10))


@pytest.mark.slow
def test_slabs_are_compared_with_resident_rows() -> None:
    """In one process, pair by pair."""
    with quick_compilation(), unchecked():
        row = scaling.slabs(Config(algorithm=SMALL), Problem(3, 2, 400), 64, 0.01, 2)
    assert (row.stage, row.rows, row.slab_rows, row.updates_per_slab) == ("iql", 400, 64, 4)
    assert row.resident_per_second > 0
    assert row.slabs_per_second > 0
    assert 0.01 < row.ratio < 100.0


@pytest.mark.slow
def test_every_section_measures(tmp_path: Path) -> None:
    """Small sizes throughout; the second start takes its programs from the first's cache."""
    flags = ("--config=bc_pointmaze", "--runs=1,2", "--seconds=0.05", "--chunks=2", "--slab_rows=3000", f"--out={tmp_path}")
    more = ("--sections=stages,acting,starts,host,slabs,environments", "--tasks=PointMaze_UMaze-v3", "--envs=2")
    run(tmp_path, "launch/benchmark.py", *flags, *more, timeout=280.0)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(row["way"], row["runs"]) for row in results["stages"]] == [("host loop", 1), ("scan", 1), ("runs", 2)]
    assert all(row["second_compile_seconds"] < row["compile_seconds"] for row in results["stages"] if row["way"] != "host loop")
    assert [row["programs"] for row in results["starts"]] == ["compiled", "cached"]
    assert all(0.0 < row["seconds_per_chunk"] < 0.1 for row in results["host"])
    assert {"throughput.png", "results.md"} <= {path.name for path in tmp_path.iterdir()}

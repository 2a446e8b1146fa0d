"""What measurements of stages say about the framework's promises, in sentences; the aims stand beside them."""

from collections.abc import Iterator, Mapping, Sequence

from diffrl.benchmarks.stages import HOST_LOOP, Problem, StageTime
from diffrl.config import Config
from diffrl.logging.console import duration
from diffrl.registry import make

GAIN, GAIN_RUNS = 20, 64  # of so many runs in one program over one, on an accelerator
SHARE, SHARE_RUNS = 0.5, 8  # of the rate of matrix products
SEEDS = 6  # that published tables of SRPO average over


def sentences(rows: Sequence[StageTime], wanted: Mapping[str, Config], problem: Problem) -> list[str]:
    """One for each claim that the rows can judge, a stage at a time; then how long whole trainings would take."""
    return [*_of_stages(rows), *_of_trainings(rows, wanted, problem)]


def rates(rows: Sequence[StageTime], method: str, stage: str) -> dict[int, StageTime]:
    """The rows of a stage by their number of runs."""
    return {row.runs: row for row in rows if (row.method, row.stage) == (method, stage) and row.way != HOST_LOOP}


def _of_stages(rows: Sequence[StageTime]) -> Iterator[str]:
    for method, stage in dict.fromkeys((row.method, row.stage) for row in rows):
        found = rates(rows, method, stage)
        if 1 in found and len(found) > 1:
            most = found[max(found)]
            gain = most.updates_per_second / found[1].updates_per_second
            aim = f" (aim on an accelerator: {GAIN})" if most.runs == GAIN_RUNS else ""
            yield f"{method}, {stage}: {most.runs} runs in one program make {gain:.1f} times the updates of one{aim}"
        if SHARE_RUNS in found:
            share = found[SHARE_RUNS].of_ceiling
            yield f"{method}, {stage}: {SHARE_RUNS} runs reach {share:.0%} of the rate of products (aim: {SHARE:.0%})"
        compared = [row for row in found.values() if row.of_host_loop > 0]
        if compared:
            best = max(compared, key=lambda row: row.of_host_loop)
            yield f"{method}, {stage}: {best.of_host_loop:.1f} times the updates of a host loop, with {best.runs} runs"


def _of_trainings(rows: Sequence[StageTime], wanted: Mapping[str, Config], problem: Problem) -> Iterator[str]:
    for method, config in wanted.items():
        algorithm = make(config.algorithm, problem.spec(config.algorithm), config.action_chunk)
        seconds = 0.0
        for stage in algorithm.stages:
            found = rates(rows, method, stage.name)
            if not found:
                break
            # The nearest number of runs: what one of them takes there, they all take.
            near = found[min(found, key=lambda runs: abs(runs - SEEDS))]
            seconds += stage.num_updates * max(SEEDS, near.runs) / near.updates_per_second
        else:
            updates = sum(stage.num_updates for stage in algorithm.stages)
            yield f"{method}: {SEEDS} seeds of {updates:,} updates would take {duration(seconds)}, compiling and evaluating aside"

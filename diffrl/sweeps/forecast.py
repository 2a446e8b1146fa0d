"""The costs of a sweep as a table for people and as JSON for programs."""

from typing import Any, NamedTuple

from rich.table import Column, Table

from diffrl.logging.console import duration
from diffrl.sweeps.costs import Limit, StageCost
from diffrl.sweeps.plan import Group


class Forecast(NamedTuple):
    """Costs of one training, stage by stage."""

    training: Group
    stages: list[StageCost]

    @property
    def seconds(self) -> float:
        """The time of all stages that were measured."""
        return sum(stage.seconds or 0.0 for stage in self.stages)


def table(forecasts: list[Forecast]) -> Table:
    """A row per training and stage."""
    found = Table(
        Column("group", no_wrap=True),
        Column("stage", no_wrap=True),
        *(Column(name, justify="right") for name in ("runs", "distinct", "updates", "memory MB", "updates/s", "time")),
        title="what the sweep will cost",
        title_justify="left",
    )
    for forecast in forecasts:
        for number, stage in enumerate(forecast.stages):
            found.add_row(
                "" if number else forecast.training.label,
                stage.stage,
                str(stage.runs),
                str(stage.distinct_runs),
                f"{stage.updates:,}",
                f"{stage.memory_bytes / 1e6:,.1f}",
                "-" if stage.updates_per_second is None else f"{stage.updates_per_second:,.1f}",
                "-" if stage.seconds is None else duration(stage.seconds),
                end_section=number == len(forecast.stages) - 1,
            )
    return found


def explanation(forecasts: list[Forecast], limit: Limit) -> list[str]:
    """Sentences that go below the table."""
    runs = sum(forecast.training.num_runs for forecast in forecasts)
    seconds = sum(forecast.seconds for forecast in forecasts)
    measured = f", {duration(seconds)} one after another by short measurements here" if seconds else ""
    lines = [
        f"Runs: {runs}; trainings: {len(forecasts)}{measured}. Compiling, checkpoints and evaluation are not counted.",
        f"Memory may be {limit.bytes / 1e6:,.0f} MB {'of all devices together' if limit.shared else 'a device'}: {limit.source}.",
        "Distinct runs are really trained: the others of a stage differ only in what later stages read, and share them.",
    ]
    if any(stage.seconds is None for forecast in forecasts for stage in forecast.stages):
        lines.append(
            "Training by interaction is not measured; its memory is that of states and buffers, without the program's own needs."
        )
    return lines


def to_json(forecasts: list[Forecast], limit: Limit) -> dict[str, Any]:
    """The table in full precision, with each training's command."""
    return {
        "memory_limit_bytes": limit.bytes,
        "memory_limit": limit.source,
        "total_runs": sum(forecast.training.num_runs for forecast in forecasts),
        "total_seconds": sum(forecast.seconds for forecast in forecasts),
        "trainings": [
            {
                "label": forecast.training.label,
                "settings": forecast.training.settings,
                "runs": forecast.training.num_runs,
                "command": ["launch/train.py", *forecast.training.arguments],
                "stages": [stage._asdict() for stage in forecast.stages],
            }
            for forecast in forecasts
        ],
    }

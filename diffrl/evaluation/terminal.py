"""Results on a terminal: a line for each, and a table of the last checkpoint's."""

from rich.console import Console
from rich.table import Table

from diffrl.evaluation import results
from diffrl.evaluation.results import Result
from diffrl.training.runs import in_words


def one_line(result: Result) -> str:
    """Mean score or return, success, and of how much."""
    value, unit = (result.mean_returns, "return") if result.mean_scores is None else (result.mean_scores, "normalised score")
    return (
        f"mean {unit} {value.mean():.2f}, success {100 * result.success_rates.mean():.0f} %"
        f" ({len(result.seeds)} runs × {result.settings.episodes} episodes, acting {result.settings.acting})"
    )


def print_table(found: list[Result], console: Console) -> None:
    """One row per run of one checkpoint, and one per hyper-parameter point with its mean."""
    # Columns in which nothing stands are left out.
    acting = any(result.settings.act for result in found)
    swept = any(point for result in found for point in result.hparams)
    table = Table(title=f"update {found[0].step}: {found[0].settings.simulator}", title_justify="left")
    for name in (*["acting"] * acting, *["hyper-parameters"] * swept):
        table.add_column(name)
    for name in ("seed", "normalised score", "return", "success", "length"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in found:
        scored = result.mean_scores
        for hparams, runs in results.points(result):
            point = in_words(hparams)
            groups = [(str(result.seeds[run]), [run]) for run in runs]
            if len(runs) > 1:
                groups.append((f"mean of {len(runs)}", list(runs)))
            for position, (who, chosen) in enumerate(groups):
                table.add_row(
                    *[result.settings.acting] * acting,
                    *[point] * swept,
                    who,
                    "-" if scored is None else f"{scored[chosen].mean():.2f}",
                    f"{result.mean_returns[chosen].mean():.2f}",
                    f"{100 * result.success_rates[chosen].mean():.0f} %",
                    f"{result.lengths[chosen].mean():.0f}",
                    style="bold" if len(chosen) > 1 else None,
                    end_section=position == len(groups) - 1,
                )
    console.print(table)

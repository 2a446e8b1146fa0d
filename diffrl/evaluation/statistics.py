"""Statistics over runs. Every value is one run's mean over its episodes: episodes of one policy are not independent runs.

A run that diverged has the value NaN, and any statistic that includes it is NaN: leaving it out would flatter the method.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float

Values = Float[np.ndarray, "runs"]


class Summary(NamedTuple):
    """`interval` is the 95 % bootstrap interval of the mean, None for fewer than two runs or where a run is NaN."""

    runs: int
    mean: float
    iqm: float
    interval: tuple[float, float] | None


def mean(values: Values) -> float:
    """Arithmetic mean over runs."""
    return float(np.mean(values))


def iqm(values: Values) -> float:
    """Interquartile mean: the mean of the middle half of the runs (Agarwal et al. 2021).

    A quarter of the runs, rounded down, is cut at either end; below four runs nothing is, and it equals the mean.
    """
    if not np.isfinite(values).all():
        return float("nan")
    return float(scipy.stats.trim_mean(values, 0.25))


def interval(
    values: Values, statistic: Callable[..., np.ndarray] = np.mean, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of a statistic over runs, always from the same random numbers.

    None for fewer than two runs, or where a run is not finite. Equal runs give an interval of width 0: nothing varied, which
    with few runs says little. With few runs (below about 10) percentile intervals are narrower than their level claims.

    Args:
        values: one value per run.
        statistic: takes an array and `axis`, e.g. `np.mean`.
        level: confidence level.
        resamples: bootstrap resamples.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    result = scipy.stats.bootstrap(
        (values,),
        statistic,
        confidence_level=level,
        n_resamples=resamples,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def probability_of_improvement(x: Values, y: Float[np.ndarray, "other_runs"]) -> float:
    """P(a run of x scores above a run of y), ties counting one half: the Mann-Whitney U statistic over len(x) · len(y).

    0.5 means no difference. NaN where a run is.
    """
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    return float(scipy.stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)))


def summarise(values: Values) -> Summary:
    """Mean, interquartile mean and the 95 % interval of the mean."""
    return Summary(len(values), mean(values), iqm(values), interval(values))

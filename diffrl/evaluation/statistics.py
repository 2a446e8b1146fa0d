"""Statistics over runs, of one dataset and of several. Every value is one run's mean over its episodes: episodes of one
policy are not independent runs. Over several datasets each is one stratum (Agarwal et al. 2021, arXiv 2108.13264).

A run that diverged has the value NaN, and any statistic that includes it is NaN: leaving it out would flatter the method.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
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
    band = stratified_interval([values], statistic, level, resamples)
    return None if band is None else (float(band[0]), float(band[1]))


def stratified_interval(
    groups: Sequence[Float[np.ndarray, "*thresholds _"]],
    statistic: Callable[..., np.ndarray],
    level: float = 0.95,
    resamples: int = 2000,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Percentile bootstrap interval of a statistic of several groups of runs, resampling runs within each group.

    The datasets are taken as they are: the interval speaks of other runs on the same datasets. None where a group has fewer
    than two runs or a run that is not finite.

    Args:
        groups: one array per dataset (or per dataset and method), runs last; leading axes are kept and share the resamples.
        statistic: takes as many arrays as there are groups, and `axis`.
        level: confidence level.
        resamples: bootstrap resamples.
    """
    if any(values.shape[-1] < 2 or not np.isfinite(values).all() for values in groups):
        return None
    result = scipy.stats.bootstrap(
        tuple(groups),
        statistic,
        axis=-1,
        confidence_level=level,
        n_resamples=resamples,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return np.asarray(low), np.asarray(high)


def mean_of_groups(*groups: Float[np.ndarray, "*batch _"], axis: int = -1) -> Float[np.ndarray, "*batch"]:
    """The mean over datasets of their runs' means: every dataset counts once, however many runs it has."""
    return np.asarray(np.mean([values.mean(axis=axis) for values in groups], axis=0))


def iqm_of_groups(*groups: Float[np.ndarray, "*batch _"], axis: int = -1) -> Float[np.ndarray, "*batch"]:
    """The interquartile mean of the runs of all datasets together, as Agarwal et al. define it.

    Runs count alike, so that a dataset with more of them weighs more.
    """
    pooled = np.concatenate(groups, axis=axis)
    return np.where(np.isfinite(pooled).all(axis=axis), scipy.stats.trim_mean(pooled, 0.25, axis=axis), np.nan)


def improvement_of_groups(*groups: Float[np.ndarray, "*batch _"], axis: int = -1) -> Float[np.ndarray, "*batch"]:
    """P(a run of x scores above a run of y on the same dataset), averaged over datasets; ties count one half.

    Args:
        groups: x of each dataset, then y of each dataset in the same order.
        axis: of the runs; the last one.
    """
    assert axis in (-1, groups[0].ndim - 1)
    half = len(groups) // 2
    means = []
    for x, y in zip(groups[:half], groups[half:], strict=True):
        difference = x[..., :, None] - y[..., None, :]
        means.append(np.where(np.isnan(difference), np.nan, 0.5 + 0.5 * np.sign(difference)).mean(axis=(-2, -1)))
    return np.asarray(np.mean(means, axis=0))


def best_of(choosing: Float[np.ndarray, "policies"], reported: Float[np.ndarray, "policies"]) -> Float[np.ndarray, "policies"]:
    """What a practitioner gets who tries k of a method's policies online and deploys the best: its expected score, for all k.

    The evaluation budget of Jackson et al. 2025 (arXiv 2504.11453), whose bandit is replaced by an equal number of episodes
    for each policy. The k policies are drawn without replacement from the n given, so that the expectation is exact: sorted by
    the score that chooses, the i-th is the best of the k in C(i - 1, k - 1) of the C(n, k) subsets,

        E[k] = Σ_i reported_(i) C(i - 1, k - 1) / C(n, k).

    The episodes that choose must not be those reported, else luck is counted as skill. Ties are broken at random, which gives
    their mean. A policy that diverged (NaN) is chosen only where all k did; then E[k] is NaN.

    Args:
        choosing: scores of the policies in the episodes that choose.
        reported: scores of the same policies in other episodes.
    """
    n = len(choosing)
    order = np.argsort(np.where(np.isnan(choosing), -np.inf, choosing), kind="stable")
    ranked = np.where(np.isnan(choosing), -np.inf, choosing)[order]
    values = np.array([reported[order][ranked == score].mean() for score in ranked])
    rank = np.arange(1, n + 1)
    weights = np.stack([scipy.special.comb(rank - 1, k - 1) / scipy.special.comb(n, k) for k in rank])  # [k, i]
    return np.array([values[row > 0] @ row[row > 0] for row in weights])


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

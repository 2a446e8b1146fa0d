import itertools

import numpy as np
import pytest

from diffrl.evaluation import statistics


def test_mean_and_iqm_by_hand():
    values = np.array([0.0, 10.0, 20.0, 30.0, 1000.0, -500.0, 15.0, 25.0])
    assert statistics.mean(values) == pytest.approx(75.0)
    # A quarter of eight is two: cut -500, 0 and 30, 1000; the mean of 10, 15, 20, 25 is left.
    assert statistics.iqm(values) == pytest.approx(17.5)


def test_iqm_of_few_runs_is_their_mean():
    assert statistics.iqm(np.array([1.0, 2.0, 9.0])) == pytest.approx(4.0)


def test_interval_matches_the_normal_one_for_many_runs():
    values = np.random.default_rng(1).normal(50.0, 10.0, 400)
    low, high = statistics.interval(values)  # pyright: ignore[reportGeneralTypeIssues]
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.15)
    assert high == pytest.approx(values.mean() + half, abs=0.15)
    assert statistics.interval(values) == (low, high)


def test_interval_covers_about_as_often_as_it_claims():
    rng = np.random.default_rng(2)
    intervals = [statistics.interval(rng.exponential(1.0, 40), resamples=400) for _ in range(200)]
    covered = np.mean([low <= 1.0 <= high for low, high in intervals])  # pyright: ignore[reportGeneralTypeIssues]
    assert 0.87 <= covered <= 0.98


def test_interval_where_there_is_nothing_to_estimate():
    assert statistics.interval(np.array([3.0])) is None
    assert statistics.interval(np.array([1.0, np.nan, 2.0])) is None
    assert statistics.interval(np.full(5, 7.0)) == (7.0, 7.0)


def test_a_diverged_run_is_never_left_out():
    summary = statistics.summarise(np.array([1.0, 2.0, 3.0, 4.0, np.nan]))
    assert np.isnan(summary.mean)
    assert np.isnan(summary.iqm)
    assert summary.interval is None
    assert summary.runs == 5


def test_probability_of_improvement():
    x, y = np.array([3.0, 4.0, 5.0]), np.array([1.0, 3.0])
    # Pairs: 3>1, 3=3, 4>1, 4>3, 5>1, 5>3.
    assert statistics.probability_of_improvement(x, y) == pytest.approx(5.5 / 6)
    assert statistics.probability_of_improvement(y, x) == pytest.approx(0.5 / 6)
    assert statistics.probability_of_improvement(x, x) == pytest.approx(0.5)
    assert np.isnan(statistics.probability_of_improvement(x, np.array([np.nan])))


GROUPS = [np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0])]


def test_over_datasets_by_hand():
    # Datasets count alike in the mean (2 and 15), runs in the IQM: of 1, 2, 3, 10, 20 one is cut at either end.
    assert statistics.mean_of_groups(*GROUPS) == pytest.approx(8.5)
    assert statistics.iqm_of_groups(*GROUPS) == pytest.approx(5.0)
    assert np.isnan(statistics.mean_of_groups(GROUPS[0], np.array([1.0, np.nan])))
    assert np.isnan(statistics.iqm_of_groups(GROUPS[0], np.array([1.0, np.nan])))
    # Vectorised: one row per resample.
    stacked = [np.stack([values, 2 * values]) for values in GROUPS]
    np.testing.assert_allclose(statistics.mean_of_groups(*stacked), [8.5, 17.0])
    np.testing.assert_allclose(statistics.iqm_of_groups(*stacked), [5.0, 10.0])


def test_stratified_interval_has_the_variance_of_independent_means():
    """Resampled within datasets, the mean of two datasets' means varies by ¼ (s₁²/n₁ + s₂²/n₂); what lies between the datasets
    does not count.
    """
    rng = np.random.default_rng(3)
    groups = [rng.normal(0.0, 5.0, 200), rng.normal(1000.0, 10.0, 300)]
    low, high = statistics.stratified_interval(groups, statistics.mean_of_groups, resamples=8000)  # pyright: ignore
    deviation = 0.5 * np.sqrt(sum(values.var() / len(values) for values in groups))
    middle = statistics.mean_of_groups(*groups)
    assert low == pytest.approx(middle - 1.96 * deviation, abs=0.05 * deviation)
    assert high == pytest.approx(middle + 1.96 * deviation, abs=0.05 * deviation)
    pooled = statistics.interval(np.concatenate(groups))
    assert pooled is not None
    assert pooled[1] - pooled[0] > 20 * (high - low)


def test_stratified_interval_where_there_is_nothing_to_estimate():
    constant = [np.full(3, 2.0), np.full(4, 6.0)]
    assert statistics.stratified_interval(constant, statistics.mean_of_groups) == (4.0, 4.0)
    assert statistics.stratified_interval([constant[0], np.array([1.0])], statistics.mean_of_groups) is None
    assert statistics.stratified_interval([constant[0], np.array([1.0, np.nan])], statistics.mean_of_groups) is None


def test_improvement_over_datasets_by_hand():
    x = [np.array([3.0, 4.0, 5.0]), np.array([0.0, 0.0])]
    y = [np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0])]
    # 5.5 of 6 pairs on the first (see above), on the second two ties in six.
    expected = 0.5 * (5.5 / 6 + 1 / 6)
    assert statistics.improvement_of_groups(*x, *y) == pytest.approx(expected)
    assert statistics.improvement_of_groups(*y, *x) == pytest.approx(1.0 - expected)
    assert np.isnan(statistics.improvement_of_groups(np.array([np.nan, 1.0]), np.array([1.0, 2.0])))
    low, high = statistics.stratified_interval([*x, *y], statistics.improvement_of_groups)  # pyright: ignore
    assert 0.0 <= low < expected < high <= 1.0
    # One dataset: the Mann-Whitney statistic of the function for two samples.
    assert statistics.improvement_of_groups(x[0], y[0]) == pytest.approx(statistics.probability_of_improvement(x[0], y[0]))


def test_best_of_k_by_enumeration():
    rng = np.random.default_rng(4)
    choosing, reported = rng.normal(size=6), rng.normal(size=6)
    curve = statistics.best_of(choosing, reported)
    for k in range(1, 7):
        subsets = [list(subset) for subset in itertools.combinations(range(6), k)]
        expected = np.mean([reported[subset[int(np.argmax(choosing[subset]))]] for subset in subsets])
        assert curve[k - 1] == pytest.approx(expected)
    assert curve[0] == pytest.approx(reported.mean())
    assert curve[-1] == pytest.approx(reported[np.argmax(choosing)])


def test_best_of_k_does_not_reward_luck():
    """Equal policies whose scores are noise: choosing among more of them gains nothing, unless the same episodes report."""
    rng = np.random.default_rng(5)
    curves = np.array([statistics.best_of(*rng.normal(size=(2, 8))) for _ in range(2000)])
    np.testing.assert_allclose(curves.mean(axis=0), 0.0, atol=0.1)
    same = rng.normal(size=8)
    assert np.all(np.diff(statistics.best_of(same, same)) > 0)


def test_best_of_k_with_ties_and_divergence():
    # The two best are tied: either may be taken.
    np.testing.assert_allclose(statistics.best_of(np.array([1.0, 1.0, 0.0]), np.array([4.0, 8.0, 0.0])), [4.0, 6.0, 6.0])
    # One of three diverged: of one policy tried nothing can be said, of two the other one is taken.
    diverged = np.array([2.0, np.nan, 6.0])
    curve = statistics.best_of(diverged, diverged)
    assert np.isnan(curve[0])
    # Subsets of two: {2, nan}, {2, 6}, {nan, 6}.
    np.testing.assert_allclose(curve[1:], [(2.0 + 6.0 + 6.0) / 3, 6.0])

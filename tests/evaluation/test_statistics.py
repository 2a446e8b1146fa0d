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

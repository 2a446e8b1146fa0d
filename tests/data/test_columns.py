"""Derived columns against loops over the rows of random episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from row_reference import episodes_of
from support import make_dataset, quick_compilation

from diffrl.data import columns
from diffrl.data.dataset import Dataset
from diffrl.data.episodes import Rows

N = 97


def random_dataset(seed: int) -> tuple[Dataset, list[range]]:
    """Random cuts, episodes of one row among them, terminals and timeouts and both; seed 0 is one open episode."""
    rng = np.random.default_rng(seed)
    share = (0.0, 0.1, 0.4, 1.0)[seed % 4]
    terminal, timeout = rng.random(N) < share / 2, rng.random(N) < share / 2
    if seed == 3:
        terminal[:], timeout[:] = rng.random((2, N)) < 0.5
        timeout |= ~terminal
    dataset = make_dataset(
        rng.normal(size=(N, 3)), rng.uniform(-1, 1, (N, 2)), rng.normal(size=N), rng.normal(size=(N, 3)), terminal, timeout
    )
    return dataset, episodes_of(terminal | timeout)


@pytest.fixture(autouse=True)
def _quick_compilation():
    with quick_compilation():
        yield


@pytest.fixture(params=range(6))
def case(request):
    dataset, episodes = random_dataset(request.param)
    return dataset, episodes, Rows(*(np.asarray(getattr(dataset[:], name)) for name in Rows._fields))


def test_bounds(case):
    dataset, episodes, _ = case
    first, last = jax.jit(columns.episode_bounds)(dataset)
    assert [(e[0], e[-1]) for e in episodes for _ in e] == list(zip(first.tolist(), last.tolist(), strict=True))


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_returns_to_go(case, discount):
    dataset, episodes, rows = case
    expected = np.zeros(N)
    for episode in episodes:
        total = 0.0
        for i in reversed(episode):
            total = float(rows.reward[i]) + discount * total
            expected[i] = total
    actual = jax.jit(columns.returns_to_go)(dataset, discount)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5, 200])
def test_n_step(case, n):
    dataset, episodes, rows = case
    discount = 0.9
    actual = jax.device_get(jax.jit(columns.n_step, static_argnums=1)(dataset, n, discount))
    for episode in episodes:
        for i in episode:
            steps = [j for j in range(i, i + n) if j in episode]
            reward = sum(discount ** (j - i) * float(rows.reward[j]) for j in steps)
            np.testing.assert_allclose(actual["n_step_reward"][i], reward, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(actual["n_step_observation"][i], rows.next_observation[steps[-1]])
            power = 0.0 if rows.terminal[steps[-1]] else discount ** len(steps)
            np.testing.assert_allclose(actual["n_step_discount"][i], power, rtol=1e-5)


def test_one_step_is_the_transition_itself(case):
    dataset, _, rows = case
    made = jax.jit(columns.n_step, static_argnums=1)(dataset, 1, 0.5)
    np.testing.assert_array_equal(made["n_step_reward"], rows.reward)
    np.testing.assert_array_equal(made["n_step_discount"], np.where(rows.terminal, 0, 0.5))


@pytest.mark.parametrize("length", [1, 4, 150])
def test_action_chunks(case, length):
    dataset, episodes, rows = case
    made = jax.device_get(jax.jit(columns.action_chunks, static_argnums=1)(dataset, length))
    assert made["action_chunk"].shape == (N, length, 2)
    for episode in episodes:
        for i in episode:
            steps = [min(i + h, episode[-1]) for h in range(length)]
            np.testing.assert_array_equal(made["action_chunk"][i], rows.action[steps])
            assert made["action_chunk_mask"][i].tolist() == [i + h in episode for h in range(length)]


@pytest.mark.parametrize("length", [1, 5])
def test_windows(case, length):
    dataset, episodes, rows = case
    made = jax.device_get(jax.jit(columns.windows, static_argnums=1)(dataset, length))
    assert made["window_observation"].shape == (N, length + 1, 3)
    for episode in episodes:
        for i in episode:
            observations, rewards = [rows.observation[i]], []
            for h in range(length):
                inside = i + h in episode
                observations.append(rows.next_observation[i + h] if inside else observations[-1])
                rewards.append(float(rows.reward[i + h]) if inside else 0.0)
            np.testing.assert_array_equal(made["window_observation"][i], observations)
            np.testing.assert_array_equal(made["window_reward"][i], np.float32(rewards))
            np.testing.assert_array_equal(made["window_action"][i], rows.action[[min(i + h, episode[-1]) for h in range(length)]])
            assert made["window_mask"][i].tolist() == [i + h in episode for h in range(length)]


@pytest.mark.parametrize("length, start", [(4, 0), (4, -3), (6, -2), (3, 5)])
def test_window_index(case, length, start):
    """Histories and windows that begin later stay in the episode too, at its first and last row."""
    dataset, episodes, _ = case
    index, mask = jax.jit(columns.window_index, static_argnums=(1, 2))(dataset, length, start)
    assert index.dtype == jnp.int32
    for episode in episodes:
        for i in episode:
            steps = range(i + start, i + start + length)
            assert index[i].tolist() == [min(max(j, episode[0]), episode[-1]) for j in steps]
            assert mask[i].tolist() == [j in episode for j in steps]


def test_long_data_lose_no_precision():
    """Returns of 1,000-step episodes of ones are whole numbers, exactly, wherever in the data they lie."""
    steps, episodes = 1000, 50
    n = steps * episodes
    ends = np.arange(n) % steps == steps - 1
    dataset = make_dataset(np.zeros((n, 1)), np.zeros((n, 1)), np.ones(n), terminal=False, timeout=ends)
    returns_to_go = jax.jit(columns.returns_to_go)
    np.testing.assert_array_equal(returns_to_go(dataset, 1.0), np.tile(np.arange(steps, 0, -1), episodes))
    discounted = returns_to_go(dataset, 0.99)
    np.testing.assert_allclose(discounted[0], (1 - 0.99**steps) / 0.01, rtol=1e-5)


def test_a_discount_may_be_swept():
    """In `prepare` the discount is a tracer, one per run."""
    dataset, _ = random_dataset(1)
    for column in (lambda g: columns.n_step(dataset, 3, g)["n_step_reward"], lambda g: columns.returns_to_go(dataset, g)):
        many = jax.jit(jax.vmap(column))(jnp.array([0.5, 0.9]))
        for i, discount in enumerate((0.5, 0.9)):
            np.testing.assert_allclose(many[i], jax.jit(column)(discount), rtol=1e-6)


def test_columns_are_gathered_with_their_rows():
    dataset, _ = random_dataset(2)
    made = columns.attach(dataset, lambda d: {"return": columns.returns_to_go(d, 0.9), **columns.action_chunks(d, 2)})
    index = jnp.array([[3, 50], [96, 3]])
    batch = made[index]
    assert {k: v.shape for k, v in batch.extras.items()} == {
        "return": (2, 2),
        "action_chunk": (2, 2, 2, 2),
        "action_chunk_mask": (2, 2, 2),
    }
    np.testing.assert_array_equal(batch.extras["return"], np.asarray(made.columns["return"])[index])
    np.testing.assert_array_equal(batch.observation, dataset[index].observation)
    assert dataset[index].extras == {}

"""Several datasets as one: rows one after another, draws by share, statistics of all rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every_loader import hdf5_file, lerobot_directory, minari_dataset, npz_file, robomimic_file
from support import quick_compilation, runs_of, train_stages

from diffrl.action_chunks import _Chunks
from diffrl.algorithms import bc
from diffrl.config import Config, ConfigError, DatasetConfig, OnlineConfig, override, validate
from diffrl.data.arrays import from_arrays
from diffrl.data.build import Transforms, build
from diffrl.data.dataset import DatasetError
from diffrl.data.load import load
from diffrl.data.mix import mixed
from diffrl.data.sampling import goals, rows, uniform, windows
from diffrl.registry import make
from diffrl.training.devices import make_mesh
from diffrl.training.slabs import open_rows
from diffrl.training.train import train

DRAWS = 200_000


@pytest.fixture(autouse=True)
def _quick(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    with quick_compilation():
        yield


def data(n, first=0.0, **changes):
    """Row t is at (first + t, 1) and earns `first`; the last row is cut."""
    at = first + np.arange(n + 1.0)
    state = np.stack([at, np.ones(n + 1)], axis=1)
    found = {"observation": state[:-1], "next_observation": state[1:], "action": np.full((n, 1), 0.5)}
    return found | {"reward": np.full(n, first), "terminal": np.zeros(n), **changes}


def mix_of_three():
    parts = [from_arrays(**data(n, first), id=id) for n, first, id in ((100, 0, "a"), (10, 1000, "b"), (40, 2000, "c"))]
    return mixed(parts, {"b": 0.5, "c": 0.2})


@pytest.mark.parametrize("batch", [uniform, windows(3), goals()], ids=["uniform", "windows", "goals"])
def test_each_dataset_is_drawn_by_its_share_and_its_rows_alike(batch):
    dataset = jax.tree.map(jnp.asarray, build(mix_of_three(), Transforms())[0])
    drawn = jax.jit(lambda data, key: batch(data, key, DRAWS))(dataset, jax.random.key(0))
    at = np.asarray(drawn.observation[:, 0])
    for low, n, share in ((0, 100, 0.3), (1000, 10, 0.5), (2000, 40, 0.2)):
        counts = np.bincount((at[(at >= low) & (at < low + n)] - low).astype(int), minlength=n)
        # Each count is binomial: five standard deviations.
        assert abs(counts.sum() - DRAWS * share) < 5 * np.sqrt(DRAWS * share * (1 - share))
        assert np.abs(counts - DRAWS * share / n).max() < 5 * np.sqrt(DRAWS * share / n)
    np.testing.assert_array_equal(rows(_Chunks.view(dataset), jax.random.key(1), 9), rows(dataset, jax.random.key(1), 9))


def test_a_dataset_alone_is_drawn_from_as_before():
    dataset, _, _ = build(from_arrays(**data(50)), Transforms())
    key = jax.random.key(3)
    np.testing.assert_array_equal(rows(dataset, key, 64), jax.random.randint(key, (64,), 0, 50))


def test_rows_episodes_and_statistics_are_of_all(tmp_path):
    source = mix_of_three()
    dataset, spec, card = build(source, Transforms(standardize_observations=True, reward_scale="return_range"))
    everything = np.concatenate([np.arange(100), 1000 + np.arange(10), 2000 + np.arange(40)])
    assert (card.id, card.rows, card.episodes) == ("a + 0.5 b + 0.2 c", 150, 3)
    assert source.recorded.returns.tolist() == [0, 10_000, 80_000]
    assert card.reward_scale == pytest.approx(1000 / 80_000)
    np.testing.assert_allclose(spec.observation_mean[0], everything.mean())
    np.testing.assert_allclose(spec.observation_std[0], everything.std())
    np.testing.assert_array_equal(np.unique(dataset.episode_end), [100, 110, 150])
    assert dataset.shares == ((100, pytest.approx(0.3)), (10, 0.5), (40, 0.2))
    assert "0.3 of the draws from a" in card.description


@pytest.mark.parametrize("other", [hdf5_file, robomimic_file, minari_dataset])
def test_files_of_different_kinds_by_name(tmp_path, other):
    """Bounds are known to Minari alone, and hold for both."""
    npz_file(tmp_path, data(12))
    second = other(tmp_path, data(20, 100))
    config = Config(bc.Config(), DatasetConfig(id=str(tmp_path / "a.npz")))
    override(config, f"dataset.mix={second.id}=0.75")
    source = config.dataset.source()
    assert source.transitions.observation[:, 0].tolist() == [*range(12), *range(100, 120)]
    assert source.shares == ((12, 0.25), (20, 0.75))
    assert source.recorded.returns.tolist() == [0, 2000]
    assert (source.action_low is None) == (second.action_low is None)


def test_tables_of_a_robot_mix_with_each_other(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lerobot_directory(tmp_path / name, {key: value for key, value in data(8).items() if key != "next_observation"})
    source = load(str(tmp_path / "a"), mix=(f"{tmp_path / 'b'}=0.5",))
    assert source.observation_parts == (("observation.state", 2),)
    assert source.shares == ((7, 0.5), (7, 0.5))


@pytest.mark.parametrize(
    "second, message",
    [
        (
            data(3, observation=np.zeros((3, 5)), next_observation=np.zeros((3, 5))),
            "'b': observation has 5 numbers a row, that of 'a'",
        ),
        (data(3, action=np.zeros((3, 2))), "'b': action has 2 numbers a row, that of 'a' has 1"),
        (data(3, action=np.zeros(3, int)), "'b' has discrete actions, 'a' has real ones"),
        (data(3, action_low=-2, action_high=2), "'b' has other action bounds than 'a'"),
        (data(3, reward=None), "'b' has no rewards and 'a' has"),
    ],
)
def test_what_does_not_fit_is_refused(second, message):
    first = from_arrays(**data(5), id="a", action_low=-1, action_high=1)
    with pytest.raises(DatasetError, match=message):
        mixed([first, from_arrays(**second, id="b")], {"b": 0.5})


@pytest.mark.parametrize("mix", [("b",), ("b=",), ("b=0",), ("b=1.5",), ("=0.5",), ("b=0.1", "b=0.2"), ("b=nan",)])
def test_entries_are_a_dataset_and_a_share(mix):
    with pytest.raises(DatasetError, match=r"dataset\.mix: '.*' is not ID=SHARE"):
        load("a.npz", mix=mix)


def test_something_is_left_for_the_first():
    with pytest.raises(DatasetError, match=r"shares sum to 1; they must leave something for dataset\.id"):
        load("a.npz", mix=("b.npz=0.5", "c.npz=0.5"))


def test_where_a_mix_cannot_be_drawn_from(tmp_path):
    """In slabs, before interaction, and beside rows in memory."""
    dataset, spec, _ = build(mix_of_three(), Transforms())
    algorithm = make(bc.Config(hidden_dims=(4,)), spec)
    with pytest.raises(ConfigError, match=r"dataset\.mix draws from all rows.*slab_rows=150"):
        open_rows(dataset, algorithm, 10, make_mesh(1, jax.devices()[:1]), tmp_path)
    config = Config(bc.Config(), DatasetConfig(id="a", mix=("b=0.5",)))
    validate(config)
    with pytest.raises(ConfigError, match="rows in memory were given"):
        train(config, tmp_path / "w", from_arrays(**data(5)))
    config.online = OnlineConfig(env_id="Pendulum-v1")
    with pytest.raises(ConfigError, match=r"dataset\.mix and online\.env_id are both set"):
        validate(config)


def test_training_follows_the_shares():
    """One observation, two actions, 1 of 10 rows against 9 of 10: a regression is drawn to what is drawn more often."""
    parts = [
        from_arrays(
            observation=np.ones((n, 1)), action=np.full((n, 1), a), timeout=np.ones(n), next_observation=np.ones((n, 1)), id=id
        )
        for n, a, id in ((90, -0.5, "a"), (10, 0.5, "b"))
    ]
    dataset, spec, _ = build(mixed(parts, {"b": 0.8}), Transforms())
    method = bc.Config(learning_rate=1e-2, hidden_dims=(8,), num_updates=300, batch_size=64)
    algorithm = make(method, spec)
    states = train_stages(algorithm, runs_of(method), dataset)
    policy = algorithm.policy(jax.tree.map(lambda x: x[0], states))
    action, _ = algorithm.act(policy, (), jnp.ones((1, 1)), jax.random.key(0))
    np.testing.assert_allclose(action, 0.8 * 0.5 - 0.2 * 0.5, atol=0.06)

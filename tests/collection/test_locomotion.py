"""Locomotion recipes: PPO learns, data are whole episodes of the real simulator, and shared work is done once."""

import functools

import gymnasium
import numpy as np
import pytest
from collected import collect

from diffrl.collection import collect as collecting
from diffrl.collection import locomotion, ppo
from diffrl.collection.collect import CollectionError, prepare
from diffrl.collection.recipe import RecipeError
from diffrl.collection.recipes import RECIPES, SUITES
from diffrl.data import minari as loader
from diffrl.data.build import Transforms, build
from diffrl.data.scores import TABLE, reference_for

STEPS = 12 * ppo.NUM_ENVS * ppo.HORIZON
EASY = locomotion.Task("Hopper-v5", STEPS, reference=(0.0, 180.0), expert=20.0)


@pytest.fixture(autouse=True)
def short_training(monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setitem(locomotion.TASKS, "hopper", EASY)
    monkeypatch.setattr(locomotion, "CHECKPOINT_STEPS", 2 * ppo.NUM_ENVS * ppo.HORIZON)
    monkeypatch.setattr(locomotion, "EVALUATION_EPISODES", 8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The file of a short training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(locomotion.TASKS, "hopper", EASY)
        patch.setattr(locomotion, "CHECKPOINT_STEPS", 2 * ppo.NUM_ENVS * ppo.HORIZON)
        patch.setattr(locomotion, "EVALUATION_EPISODES", 8)
        arrays = locomotion.train_policies("hopper", 0)
    path = tmp_path_factory.mktemp("trained") / "ppo.npz"
    np.savez(path, allow_pickle=False, **arrays)
    return path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ppo_learns_and_repeats_itself(trained):
    """24,576 steps of Hopper lift the return well above the random policy's 18; the same seed gives the same bits."""
    with np.load(trained) as first:
        assert first["expert.return"] > 80.0
        assert 0.6 * 60.0 <= first["medium.return"] <= 1.5 * 60.0
        again = locomotion.train_policies("hopper", 0)
        assert set(first.files) == set(again)
        for name in first.files:
            np.testing.assert_array_equal(first[name], again[name], err_msg=name)


@pytest.mark.slow
def test_numpy_policy_is_the_trained_network(trained):
    """Mean actions without noise: tanh network on normalised observations, clipped."""
    policy = locomotion.load_policy(trained, "expert")
    observation = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
    w = policy.weights
    x = np.clip((observation - policy.mean) / policy.std, -10, 10)
    expected = np.tanh(np.tanh(x @ w["w0"] + w["b0"]) @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]
    np.testing.assert_allclose(policy.act(observation, None), np.clip(expected, -1, 1), rtol=1e-5, atol=1e-6)
    noisy = np.stack([policy.act(np.repeat(observation[:1], 4000, 0), np.random.default_rng(1))])[0]
    inside = np.abs(expected[0]) + 3 * np.exp(w["log_std"]) < 1
    if inside.any():
        np.testing.assert_allclose(noisy.std(0)[inside], np.exp(w["log_std"])[inside], rtol=0.1)


@pytest.mark.slow
def test_data_replay_in_gymnasium(trained):
    """Every stored step is the simulator's: set its state, apply the action, get the next row, reward and end."""
    rows = locomotion.play("hopper", "expert", 3, 0, 1500, trained)
    assert all(len(value) == 1500 for value in rows.values())
    env = gymnasium.make("Hopper-v5").unwrapped
    env.reset(seed=0)
    checked = 0
    for i in range(0, 1500, 7):
        # The x position is not observed and nothing depends on it; velocities beyond 10 are clipped, so those rows are left out.
        if np.abs(rows["observation"][i, 5:]).max() >= 10.0:
            continue
        env.set_state(np.concatenate([[0.0], rows["observation"][i, :5]]), rows["observation"][i, 5:].astype(np.float64))
        observation, reward, terminated, _, _ = env.step(rows["action"][i])
        np.testing.assert_allclose(rows["next_observation"][i], observation, atol=2e-4)
        np.testing.assert_allclose(rows["reward"][i], reward, atol=2e-4)
        assert rows["terminal"][i] == terminated
        checked += 1
    env.close()
    assert checked > 150
    ended = rows["terminal"] | rows["timeout"]
    assert ended[-1]
    assert not (rows["terminal"] & rows["timeout"]).any()
    same = ~ended[:-1]
    np.testing.assert_array_equal(rows["next_observation"][:-1][same], rows["observation"][1:][same])


@pytest.mark.slow
def test_episodes_come_in_the_order_they_started(trained):
    """Taking those that end first would favour short ones: the first rows do not depend on how many are asked for."""
    few, many = (locomotion.play("hopper", "medium", 0, 1, rows, trained) for rows in (300, 900))
    np.testing.assert_array_equal(few["observation"], many["observation"][:300])


@pytest.mark.slow
def test_replay_keeps_whole_episodes(trained):
    with np.load(trained) as file:
        whole = {field: file[f"replay.{field}"] for field in ppo.Experience._fields}
        length = int(file["medium.steps"])
    assert len(whole["reward"]) == length
    rows = locomotion.replay(0, length // 2, trained)
    assert 0.4 * length < len(rows["reward"]) <= length // 2
    ended = rows["terminal"] | rows["timeout"]
    same = ~ended[:-1]
    np.testing.assert_array_equal(rows["next_observation"][:-1][same], rows["observation"][1:][same])
    assert ended[-1]
    everything = locomotion.replay(0, 10 * length, trained)
    np.testing.assert_array_equal(everything["action"], whole["action"])


@pytest.mark.slow
def test_shared_training_runs_once(tmp_path, monkeypatch):
    """All recipes of a task use one training; collecting again finds it, and the card says what was made."""
    notes: list[str] = []
    names = ("hopper/medium-v0", "hopper/medium-replay-v0", "hopper/medium-expert-v0", "hopper/random-v0")
    options = {"seed": 0, "workers": 1, "note": notes.append}
    prepare([(RECIPES[name], 2_000) for name in names], **options)
    assert len(notes) == 1
    assert len(list((tmp_path / ".shared").glob("*.npz"))) == 1
    for name in names:
        collect(RECIPES[name], rows=2_000, dataset_id=RECIPES[name].dataset_id, **options)
    assert len(notes) == 1
    for name in names:
        source = loader.load(f"diffrl/{name}")
        _, spec, card = build(source, Transforms())
        assert (spec.observation_dim, spec.action_dim) == (11, 3)
        assert card.rows <= 2_000
        assert name == "hopper/medium-replay-v0" or card.rows == 2_000
        assert "not D4RL's data" in card.description.replace("Not", "not")
        reference = reference_for(card)
        assert reference is not None
        assert (reference.min, reference.max) == EASY.reference
    medium = loader.load("diffrl/hopper/medium-v0").transitions
    mixed = loader.load("diffrl/hopper/medium-expert-v0").transitions
    np.testing.assert_array_equal(mixed.observation[1000:1300], medium.observation[:300])  # "expert" sorts before "medium"


@pytest.mark.slow
def test_a_training_that_reaches_nothing_says_so(monkeypatch):
    # Stopped at its first checkpoint, as a training that is stuck.
    monkeypatch.setattr(locomotion, "REPLAY_STEPS", 2 * ppo.NUM_ENVS * ppo.HORIZON)
    monkeypatch.setattr(locomotion, "MEDIUM_BAND", (100.0, 200.0))
    monkeypatch.setitem(locomotion.TASKS, "hopper", EASY._replace(expert=1e6))
    with pytest.raises(RecipeError, match=r"above 1000000 \(seed 15: medium .*; seed 16: .*try another --seed"):
        locomotion.train_policies("hopper", 5)
    recipe = RECIPES["hopper/expert-v0"]
    with pytest.raises(CollectionError, match=r"recipe hopper/expert-v0 failed: no training of Hopper-v5"):
        collect(recipe, seed=5, rows=100, workers=1, dataset_id=recipe.dataset_id)


def test_cards_carry_the_published_references(monkeypatch):
    monkeypatch.undo()
    for name, task in locomotion.TASKS.items():
        known = TABLE[task.env_id.removesuffix("-v5")]
        assert task.reference == (known.min, known.max), name


def test_suites_name_recipes():
    assert set(SUITES) == {"small", "full"}
    for names in SUITES.values():
        assert set(names) <= set(RECIPES)
    assert sum(name.startswith(("hopper", "halfcheetah", "walker2d")) for name in SUITES["small"]) == 15
    assert all(RECIPES[name].rows == 1_000_000 for name in SUITES["full"])
    made = collecting._made_by(RECIPES["hopper/medium-v0"], 0, 5)
    assert made == {"recipe": "hopper/medium-v0", "seed": 0, "rows": 5}
    assert isinstance(RECIPES["hopper/medium-v0"].shards, functools.partial)

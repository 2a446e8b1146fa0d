"""What an id names, and training on rows that were never in a file."""

import json
from contextlib import contextmanager

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax import Array
from programs import TINY_SRPO, run
from support import quick_compilation

import diffrl.training.train as trainer
from diffrl import records
from diffrl.algorithm import Algorithm
from diffrl.algorithms import bc
from diffrl.config import Config, DatasetConfig
from diffrl.data import columns
from diffrl.data.arrays import from_arrays
from diffrl.data.dataset import Card, Dataset, DatasetError, Source
from diffrl.data.load import load
from diffrl.envs import trust
from diffrl.envs.gymnasium_backend import BackendError, make_env
from diffrl.reports.plots import data_pieces
from diffrl.training.train import train
from diffrl.training.workdir import WorkdirError


@pytest.mark.parametrize(
    "id, message",
    [
        ("nowhere.hdf5", r"'nowhere.hdf5': there is no such file or directory \(/"),
        ("./nowhere/", "there is no such file or directory"),
        ("~/nowhere.npz", "there is no such file or directory"),
        ("{tmp}/empty", "is a directory without .npz files"),
        ("{tmp}/rows.csv", "is neither an .hdf5, .h5 or .npz file nor a directory"),
        ("mujoco/hopper/expert-v0", "is not on this machine .*diffrl-collect --download=mujoco/hopper/expert-v0"),
        ("lerobot/pusht", "is not on this machine .*ids end in a version"),
    ],
)
def test_ids_of_nothing(tmp_path, monkeypatch, id, message):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text("1,2")
    with pytest.raises(DatasetError, match=message):
        load(id.format(tmp=tmp_path))


def test_observation_keys_are_for_minari(tmp_path):
    np.savez(tmp_path / "a.npz", observation=np.zeros((2, 1)))
    with pytest.raises(DatasetError, match="observation keys were given, but a file of arrays has none"):
        load(str(tmp_path / "a.npz"), observation_keys=("a",))


def test_an_environment_that_cannot_be_made(monkeypatch):
    """A name that is registered while its simulator is not there: refused when it is made, with the cause."""
    monkeypatch.setenv(trust.VARIABLE, "no_such_simulator")
    source = memory(env_id="CartPole-v1")
    assert source.env_spec
    broken = {**json.loads(source.env_spec), "entry_point": "no_such_simulator:Env"}
    with pytest.raises(BackendError, match="CartPole-v1 needs the package no_such_simulator, which is not installed"):
        make_env(json.dumps(broken))
    broken["entry_point"], broken["kwargs"] = "gymnasium.envs.classic_control:CartPoleEnv", {"wheels": 4}
    with pytest.raises(BackendError, match=r"CartPole-v1 cannot be made: TypeError: .*wheels"):
        make_env(json.dumps(broken))


def test_program_refuses_a_missing_file_in_one_line(tmp_path):
    flags = [*TINY_SRPO, "--config.dataset.id=/nowhere/missing.hdf5", f"--workdir={tmp_path / 'w'}"]
    result = run(tmp_path, "launch/train.py", *flags, code=2)
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert "dataset '/nowhere/missing.hdf5': there is no such file or directory" in line
    assert not (tmp_path / "w" / "checkpoints").exists()


def memory(seed: int = 0, **options) -> Source:
    rng, n = np.random.default_rng(seed), 60
    return from_arrays(
        observation=rng.normal(size=(n, 10)),
        action=rng.uniform(-1, 1, (n, 2)),
        reward=rng.normal(size=n),
        terminal=np.arange(n) % 7 == 6,
        timeout=np.arange(n) % 10 == 9,
        next_observation=rng.normal(size=(n, 10)),
        **options,
    )


@pytest.fixture
def _trainer_in_process():
    """The trainer lowers its chunks on descriptions of arrays, which the run-time type checks do not know."""
    checks = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    with quick_compilation():
        yield
    jaxtyping.config.update("jaxtyping_disable", checks)


def tiny(**dataset) -> Config:
    method = bc.Config(hidden_dims=(8,), num_updates=12, batch_size=4)
    return Config(method, DatasetConfig(**dataset), num_seeds=2, updates_per_chunk=4, checkpoint_every=4)


@pytest.mark.usefixtures("_trainer_in_process")
def test_training_on_rows_in_memory(tmp_path, capsys):
    source = memory()
    assert train(tiny(), tmp_path / "w", source).complete
    card = json.loads((tmp_path / "w" / "dataset.json").read_text())
    assert (card["id"], card["rows"], card["env_spec"]) == ("in memory", 60, None)
    assert json.loads((tmp_path / "w" / "config.json").read_text())["dataset"]["id"] == "in memory"
    assert "name no environment" in capsys.readouterr().out
    # Again with other rows under the same name: refused by their fingerprint, not taken for the same experiment.
    (tmp_path / "w" / "DONE").unlink()
    with pytest.raises(WorkdirError, match="sha256"):
        train(tiny(), tmp_path / "w", memory(seed=1))
    # And an environment that was not there before: its spec is part of the card.
    with pytest.raises(WorkdirError, match="env_spec: None there"):
        train(tiny(), tmp_path / "w", memory(env_id="Reacher-v5"))
    assert train(tiny(), tmp_path / "w", source).complete


@pytest.mark.usefixtures("_trainer_in_process")
def test_a_report_does_without_rows_that_are_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    train(tiny(), tmp_path / "w", memory())
    card = records.read(tmp_path / "w" / "dataset.json", Card)
    assert "in memory could not be loaded" in str(data_pieces(card))


def derive(dataset: Dataset) -> dict[str, Array]:
    return {"return_to_go": columns.returns_to_go(dataset, 0.9), **columns.action_chunks(dataset, 3)}


def with_columns(algorithm: Algorithm) -> Algorithm:
    """The method, weighted by a column: its metrics tell whether the columns arrived."""
    (stage,) = algorithm.stages

    def update(state, batch, key):
        assert batch.extras["action_chunk"].shape == (4, 3, 2)
        state, metrics = stage.update(state, batch, key)
        first = jnp.abs(batch.extras["action_chunk"][:, 0] - batch.action).max()
        return state, metrics | {"first": first, "own": batch.extras["own"].mean(), "to_go": batch.extras["return_to_go"].max()}

    def prepare(state, dataset, key):
        return {"own": 2.0 * dataset[:].extras["return_to_go"]}

    return algorithm._replace(stages=(stage._replace(update=update, prepare=prepare),), columns=derive)


@pytest.mark.usefixtures("_trainer_in_process")
def test_declared_columns_reach_every_batch_and_resume(tmp_path, monkeypatch):
    """Shared columns and those of a run's own `prepare` arrive together; a resumed run is bit-equal to a whole one."""
    make = trainer.make
    monkeypatch.setattr(trainer, "make", lambda *given: with_columns(make(*given)))
    config = tiny()
    assert train(config, tmp_path / "whole", memory()).complete
    text = (tmp_path / "whole" / "metrics" / "train.jsonl").read_text()
    values = {row["name"]: [] for row in map(json.loads, text.splitlines())}
    for row in map(json.loads, text.splitlines()):
        values[row["name"]].append(row["value"])
    assert set(values["first"]) == {0.0}
    assert all(np.abs(values["to_go"]) > 0)
    assert len(set(values["own"])) == len(values["own"]) == 6

    # A run that was stopped after its first chunk goes on from the checkpoint.
    halves = []

    class Once:
        signal = "SIGTERM"

        def __bool__(self) -> bool:
            halves.append(1)
            return len(halves) > 1

        anywhere = __bool__

    @contextmanager
    def watch():
        yield Once()

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "watch_signals", watch)
        assert not train(config, tmp_path / "halves", memory()).complete
    assert train(config, tmp_path / "halves", memory()).complete
    assert (tmp_path / "halves" / "metrics" / "train.jsonl").read_text() == text


def test_columns_of_the_wrong_length_are_refused():
    dataset = Dataset(jnp.zeros((5, 6)), observation_dim=1, action_dim=1)
    with pytest.raises(ValueError, match=r"column 'short' has shape \(4,\) where the dataset has 5 rows"):
        columns.attach(dataset, lambda data: {"short": data.rows[:4, 0]})
    assert columns.attach(dataset, None) is dataset


def test_methods_declare_nothing_by_default():
    assert Algorithm._field_defaults == {"columns": None, "lookahead": None, "explore": None}

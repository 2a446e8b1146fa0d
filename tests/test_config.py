"""Settings: round trips, overrides, and errors that help."""

import dataclasses
import json

import pytest

from diffrl import config as configs
from diffrl.algorithms import srpo
from diffrl.config import Config, ConfigError, DatasetConfig
from diffrl.registry import REGISTRY
from diffrl.training.runs import make_runs


def example(**changes: object) -> Config:
    return dataclasses.replace(Config(algorithm=srpo.Config(), dataset=DatasetConfig(id="d")), **changes)


@pytest.mark.parametrize("name", REGISTRY)
def test_json_round_trip(name: str) -> None:
    config = Config(algorithm=REGISTRY[name].config(), dataset=DatasetConfig(id="d", reward_shift=-1.0))
    assert configs.from_json(json.loads(json.dumps(configs.to_json(config)))) == config


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("algorithm.beta=2", lambda c: c.algorithm.beta == 2.0 and isinstance(c.algorithm.beta, float)),
        ("algorithm.baseline=false", lambda c: c.algorithm.baseline is False),
        ("algorithm.policy_hidden_dims=(8, 16)", lambda c: c.algorithm.policy_hidden_dims == (8, 16)),
        ("dataset.id=a/b-v0", lambda c: c.dataset.id == "a/b-v0"),
        ("num_seeds=7", lambda c: c.num_seeds == 7),
    ],
)
def test_override_parses_by_declared_type(assignment: str, read: object) -> None:
    config = example()
    configs.override(config, assignment)
    assert callable(read)
    assert read(config)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("algorithm.bta=1", "did you mean 'algorithm.beta'"),
        ("beta=1", "unknown setting 'beta'"),
        ("num_seeds=2.5", "num_seeds must be int"),
        ("num_seeds=true", "num_seeds must be int"),
        ("algorithm.beta=high", "algorithm.beta must be float"),
        ("algorithm.policy_hidden_dims=(8, 'x')", "algorithm.policy_hidden_dims must be int"),
        ("num_seeds", "not of the form name=value"),
    ],
)
def test_override_says_what_is_wrong(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        configs.override(example(), assignment)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_seeds": 0}, "num_seeds"),
        ({"updates_per_chunk": -1}, "updates_per_chunk"),
        ({"precision": "double"}, "precision"),
        ({"dataset": DatasetConfig()}, "dataset.id"),
        ({"algorithm": srpo.Config(policy_hidden_dims=(256, 0))}, r"policy_hidden_dims\[1\]"),
        ({"algorithm": srpo.Config(learning_rate=float("nan"))}, "learning_rate"),
        ({"algorithm": srpo.Config(expectile=1.2)}, "expectile"),
    ],
)
def test_impossible_values_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configs.validate(example(**changes))


def test_runs_are_seeds_times_points() -> None:
    """For every point all seeds; hyper-parameters become one array per name; a seed has the same key at every point."""
    runs = make_runs(example(num_seeds=2, first_seed=5, sweep="beta=0.1,0.3 discount=0.9"))
    assert runs.seeds == [5, 6, 5, 6]
    assert runs.points == [{"beta": 0.1, "discount": 0.9}] * 2 + [{"beta": 0.3, "discount": 0.9}] * 2
    assert runs.hparams.beta.tolist() == pytest.approx([0.1, 0.1, 0.3, 0.3])
    assert runs.hparams.tau.tolist() == pytest.approx([0.005] * 4)
    assert (runs.keys[0] == runs.keys[2]).all()
    assert (runs.keys[0] != runs.keys[1]).all()
    alone = make_runs(example(num_seeds=1, first_seed=6))
    assert (alone.keys[0] == runs.keys[1]).all()


def test_a_shape_cannot_be_swept() -> None:
    with pytest.raises(ConfigError, match="cannot be swept in one; sweepable: beta"):
        make_runs(example(sweep="policy_updates=1,2"))

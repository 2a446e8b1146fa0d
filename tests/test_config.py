"""Settings: round trips, overrides, and errors that help."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from diffrl import cli
from diffrl import config as configs
from diffrl.algorithms import srpo
from diffrl.config import Config, ConfigError, DatasetConfig
from diffrl.registry import REGISTRY
from diffrl.settings import range_of
from diffrl.training.runs import make_runs


def example(**changes: object) -> Config:
    config = Config(algorithm=srpo.Config(), dataset=DatasetConfig(id="d"))
    for name, value in changes.items():  # as an experiment file may, past the constructor
        setattr(config, name, value)
    return config


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
        ("precision=hihg", "precision 'hihg' is unknown; did you mean 'high'?"),
        ("dataset.reward_scale=x", "'x' is unknown; choose one of none, return_range, hundredfold"),
        ("algorithm.policy_hidden_dims=(8, 'x')", "algorithm.policy_hidden_dims must be int"),
        ("num_seeds", "not of the form name=value"),
    ],
)
def test_override_says_what_is_wrong(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
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


def numbers_of(holder: Any, prefix: str = "") -> Iterator[tuple[Any, dataclasses.Field, str]]:
    """Every setting that holds a number or several, wherever in a config."""
    for field in dataclasses.fields(holder):
        value = getattr(holder, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers_of(value, f"{prefix}{field.name}.")
        elif field.type in (int, float, tuple[int, ...], tuple[float, ...]):
            yield holder, field, prefix + field.name


@pytest.mark.parametrize("name", REGISTRY)
def test_every_number_is_held_to_the_range_beside_it(name: str) -> None:
    """Its ends are accepted, what lies just beyond them is refused by name, in the config of every method."""
    config = Config(algorithm=REGISTRY[name].config(), dataset=DatasetConfig(id="d"))
    configs.validate(config)
    for holder, field, full in list(numbers_of(config)):
        default = getattr(holder, field.name)
        number = float if field.type in (float, tuple[float, ...]) else int
        low, high = (number(end) if math.isfinite(end) else -3e38 for end in range_of(field, number(1)))
        for value, fits in ((low, True), (high, True), (low - 1, low == -3e38), (high * 2 + 1, False)):
            setattr(holder, field.name, (value,) if isinstance(default, tuple) else value)
            if fits:
                configs.validate(config)
            else:
                with pytest.raises(ConfigError, match=re.escape(full)):
                    configs.validate(config)
        setattr(holder, field.name, default)


@pytest.mark.parametrize("name", REGISTRY)
def test_shares_and_counts_of_every_method(name: str) -> None:
    """Shares end at 1, counts of updates at what 32 bits add up to; neither is told by its name."""
    for _, field, full in numbers_of(REGISTRY[name].config()):
        if full.endswith(("discount", "tau", "expectile", "dropout_rate", "ema_rate", "ema_decay")):
            assert range_of(field, 1.0) == (0.0, 1.0), full
        if full.endswith("updates"):
            assert range_of(field, 1) == (1, 2**29), full


def test_command_line_sets_fields_of_every_kind() -> None:
    overrides, rest = cli.take_overrides(
        [
            *("--config=srpo_pointmaze:umaze", "--config.precision=high", "-config.dataset.reward_shift=-1", "--workdir=w"),
            *("--config.tensorboard=true", "--config.algorithm.policy_hidden_dims=(8,)", "--config.num_seeds=2", "-v"),
        ]
    )
    assert rest == ["--config=srpo_pointmaze:umaze", "--workdir=w", "-v"]
    config = cli.load_config("srpo_pointmaze:umaze", overrides)
    assert "umaze" in config.dataset.id
    assert (config.precision, config.dataset.reward_shift, config.tensorboard) == ("high", -1.0, True)
    assert (config.algorithm.policy_hidden_dims, config.num_seeds) == ((8,), 2)
    configs.validate(config)


def test_command_line_without_an_experiment() -> None:
    with pytest.raises(ConfigError, match="--config=EXPERIMENT is missing; the package has: "):
        cli.load_config(None, ["num_seeds=2"])


def test_a_method_s_name_stands_for_its_defaults() -> None:
    config = cli.load_config("iql", ["dataset.id=rows.npz", "num_seeds=2"])
    assert config.algorithm == REGISTRY["iql"].config()
    assert (config.dataset.id, config.num_seeds) == ("rows.npz", 2)
    configs.validate(config)
    with pytest.raises(ConfigError, match="did you mean 'gaussian_bc"):
        cli.load_config("gausian_bc", [])


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

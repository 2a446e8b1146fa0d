"""Settings of any name, type and value: a ConfigError, or a config whose every stage traces. Flags: exit code 2 and one line."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import TINY_SRPO, run
from support import spec_for

from diffrl import config as configs
from diffrl.algorithm import Algorithm
from diffrl.config import Config, ConfigError, DatasetConfig
from diffrl.data.dataset import Dataset
from diffrl.registry import REGISTRY, make
from diffrl.training.chunk import draw
from diffrl.training.runs import make_runs, sweepable
from diffrl.types import Spec

OBSERVATION, ACTION = 3, 2
ROWS = 5

# By declared type: what is right, at the edge, out of range, and of another type.
TEXTS: dict[Any, tuple[str, ...]] = {
    float: (
        *("0", "-0.0", "1e-45", "1e-30", "0.5", "1", "1.5", "2", "1e10", "3e38"),
        *("1e39", "1e300", "1e999", "nan", "inf", "-1", "True", "None", "x", "()"),
    ),
    int: (
        *("-1", "0", "1", "2", "3", "5", "7", "1000000", "1000001", "2147483647", "2147483648"),
        *("99999999999999999999999", "1.0", "1_0", "0x10", "True", "x"),
    ),
    bool: ("true", "False", "1", "0", "x", "None"),
    tuple: ("()", "(1,)", "(0,)", "2,3", "[4]", "(-1,)", "('a',)", "(1000001,)", "(2.0,)", "x", "5", "((1,),)", "(True,)", ""),
    # Names that some method knows, among others.
    str: (
        *("min", "mean", "geometric", "cosine", "hard", "soft", "vp", "q", "w", "energy", "ddim", "heun"),
        *("dpm_solver", "ddpm", "cem", "mppi", "shooting", "score", "none", "d/e-v0"),
    ),
}
HOSTILE = (
    *("\x00", "é", "{[]:1}", "(" * 300, "-" * 5000 + "1", "1" * 5000),
    *("lambda: 0", "__import__('os')", "'", "\\", "1 is 1", "\n1"),
)


def base(method: str) -> Config:
    return Config(algorithm=REGISTRY[method].config(), dataset=DatasetConfig(id="d"))


def spec_of(config: Config) -> Spec:
    return spec_for(configs.algorithm_name(config), OBSERVATION, ACTION)


def with_few_steps(config: Config) -> Config:
    """Steps that are written out in a program cost its tracing."""
    for holder in (config.algorithm, *(value for value in vars(config.algorithm).values() if dataclasses.is_dataclass(value))):
        for field in dataclasses.fields(holder):
            if field.name.endswith(("steps", "num_iterations")):
                setattr(holder, field.name, min(getattr(holder, field.name), 2))
    return config


def texts(hint: Any) -> st.SearchStrategy[str]:
    kind = tuple if typing.get_origin(hint) is tuple else hint
    usual = st.sampled_from(TEXTS.get(kind, [text for group in TEXTS.values() for text in group]))
    return st.one_of(usual, usual, usual, st.sampled_from(HOSTILE), st.text(max_size=4))


def assignments(method: str) -> st.SearchStrategy[tuple[list[str], str]]:
    """Overrides of a method's config, mostly of the method's own settings, and a sweep."""
    config = base(method)
    hints = {}
    for name in sorted(configs.flatten(dataclasses.asdict(config))):
        holder, field = configs.find(config, name)
        hints[name] = next(each.type for each in dataclasses.fields(holder) if each.name == field)
    own = [name for name in hints if name.startswith("algorithm.")]
    names = st.one_of(st.sampled_from(own), st.sampled_from(own), st.sampled_from(sorted(hints)))
    override = names.flatmap(lambda name: texts(hints[name]).map(lambda text: f"{name}={text}"))
    overrides = st.lists(st.one_of(*[override] * 9, st.text(max_size=12)), max_size=2)
    axes = st.builds("{}={}".format, st.sampled_from([*sweepable(config), "x"]), st.lists(texts(float), max_size=2).map(",".join))
    sweeps = st.one_of(st.just(""), st.just(""), st.lists(axes, max_size=2).map(" ".join), st.text(max_size=8))
    return st.tuples(overrides, sweeps)


def trace(algorithm: Algorithm, key: jax.Array, hparams: Any) -> None:
    """One run's whole life in shapes: init, every stage's columns and one update, policy, an action."""
    width = 2 * OBSERVATION + ACTION + 3
    dataset = Dataset(
        jnp.zeros((ROWS, width)),
        observation_dim=OBSERVATION,
        action_dim=ACTION,
        episode_start=jnp.zeros(ROWS, jnp.int32),
        episode_end=jnp.full(ROWS, ROWS, jnp.int32),
    )

    def life(key: jax.Array, hparams: Any, dataset: Dataset) -> jax.Array:
        state = algorithm.init(key, hparams)
        dataset = dataset.replace(columns=algorithm.columns(dataset) if algorithm.columns else {})  # pyright: ignore
        for stage in algorithm.stages:
            own = {} if stage.prepare is None else stage.prepare(state, dataset, key)
            few = stage._replace(batch_size=min(stage.batch_size, 4))
            state, _ = stage.update(state, draw(few, dataset, own, key), key)
        policy = algorithm.policy(state)
        observation = jnp.zeros((2, OBSERVATION))
        return algorithm.act(policy, algorithm.init_carry(policy, 2), observation, key)[0]

    assert jax.eval_shape(life, key, hparams, dataset).shape in ((2, ACTION), (2,))  # numbers, or the number of one


def refused_or_traced(config: Config, overrides: list[str], sweep: str) -> bool:
    """Whether it was accepted; nothing but a ConfigError may come out, from the constructor a ValueError of our own."""
    try:
        for assignment in overrides:
            configs.override(config, assignment)
        config.sweep = sweep
        configs.validate(config)
        runs = make_runs(config)
    except ConfigError:
        return False
    refusal = None
    try:
        algorithm = make(config.algorithm, spec_of(config))  # the trainer turns its ValueErrors into ConfigErrors
    except ValueError as error:
        refusal = error
    if refusal is not None:
        assert raised_by_us(refusal), f"a message of some library: {refusal}"
        return False
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(runs.hparams))
    assert configs.from_json(configs.to_json(config)) == config
    trace(algorithm, runs.keys[0], jax.tree.map(lambda leaf: leaf[0], runs.hparams))
    return True


def raised_by_us(error: Exception) -> bool:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and "diffrl" in Path(traceback.tb_frame.f_code.co_filename).parts


@pytest.mark.parametrize("method", REGISTRY)
def test_settings(method: str) -> None:
    """A few for every method."""

    @settings(max_examples=2, deadline=None, derandomize=True, database=None)
    @given(assignments(method))
    def check(case: tuple[list[str], str]) -> None:
        refused_or_traced(with_few_steps(base(method)), *case)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("method", REGISTRY)
def test_more_settings(method: str) -> None:
    """What the method's own defaults say is accepted; anything else is, or is refused."""
    assert refused_or_traced(base(method), [], "")

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(assignments(method))
    def check(case: tuple[list[str], str]) -> None:
        refused_or_traced(base(method), *case)

    check()


@pytest.mark.parametrize(
    ("method", "override", "sweep", "message"),
    [
        ("srpo", "algorithm.beta=1e300", "", "algorithm.beta must be finite"),
        ("srpo", "algorithm.beta=" + "9" * 400, "", "algorithm.beta must be float"),
        ("srpo", "online.warmup_steps={[]:1}", "", "online.warmup_steps must be int"),
        ("srpo", "num_seeds=10001", "", "num_seeds must be at most 10,000"),
        ("srpo", "first_seed=-1", "", "first_seed must be at least 0"),
        ("srpo", "algorithm.policy_updates=2147483647", "", "policy_updates must be at most 536,870,912"),
        ("srpo", "algorithm.policy_hidden_dims=(8,1000001)", "", r"policy_hidden_dims\[1\] must be at most 1,000,000"),
        ("srpo", "dataset.reward_shift=1e999", "", "reward_shift must be finite"),
        ("swg", "algorithm.ema_decay=1.5", "", "ema_decay must be at most 1"),
        ("srpo", "num_seeds=1", "beta=1e300", "algorithm.beta must be finite"),
        ("srpo", "num_seeds=1", "discount=0.9,1.1", "algorithm.discount must be at most 1"),
    ],
)
def test_what_fuzzing_found(method: str, override: str, sweep: str, message: str) -> None:
    config = base(method)

    def prepare() -> None:
        configs.override(config, override)
        config.sweep = sweep
        configs.validate(config)
        make_runs(config)

    with pytest.raises(ConfigError, match=message):
        prepare()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algorithm.sigma_min=0", "noise levels fall from sigma_max to sigma_min above 0"),
        ("algorithm.next_observation_stretch=0", "next_observation_stretch must be above 0"),
        ("algorithm.act.learning_rate_schedule=x", "'x' is unknown; choose one of constant, cosine"),
        ("algorithm.act.bound=W", "'W' is unknown; choose one of none, project, tanh"),
    ],
)
def test_choices_when_acting_are_refused_before_training(override: str, message: str) -> None:
    """A setting knows its own choices; the method refuses those that do not fit together."""
    config = base("sgp")

    def prepare() -> None:
        configs.override(config, override)
        make(config.algorithm, spec_of(config))

    with pytest.raises(ValueError, match=message):
        prepare()


@pytest.mark.parametrize("value", ["x", 1.5, (8, "y"), None, float("nan"), np.float32(8.0), object()])
def test_a_config_that_no_flag_made(value: Any) -> None:
    """Experiment files and programs assign what they like: the types are checked once more."""
    config = base("srpo")
    config.algorithm.policy_hidden_dims = value
    with pytest.raises(ConfigError):
        configs.validate(config)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.sampled_from(("algorithm", "dataset", "online", "num_seeds", "sweep", "x")), JSON, max_size=3), JSON)
def test_config_files(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], whole: Any) -> None:
    """A workdir's config.json holds a config, or is refused."""
    folder = tmp_path_factory.getbasetemp() / "config_files"
    folder.mkdir(exist_ok=True)
    for values in ({**configs.to_json(base("bc")), **changes}, whole):
        (folder / "config.json").write_text(json.dumps(values))
        try:
            config = configs.load(folder)
        except ConfigError:
            continue
        assert isinstance(config, Config)


LONG = "a" * 300


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("train", "--wokdir=w"), "Unknown command line flag 'wokdir'. Did you mean: workdir"),
        (("train", "--workdir"), "Missing value for flag --workdir"),
        (("train", "--workdir=w", "-config.algorithm.critic_hidden_dims=x"), "critic_hidden_dims must be tuple"),
        (("train", "--workdir=w", "--config.num_seeds", "3"), "'num_seeds' is not of the form name=value"),
        (("train", "--workdir=w", "--config.sweep=beta=0.1,1e300"), "algorithm.beta must be finite"),
        (("train", "--workdir=w", f"--config.dataset.id=/{LONG}"), "File name too long"),
        (("evaluate", "--workdir=w", "--episodes=many"), "--episodes=many"),
        (("report", "--nonsense"), "Unknown command line flag 'nonsense'"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_flags(tmp_path: Path, command: tuple[str, ...], message: str) -> None:
    """A mistyped command ends with one line and exit code 2."""
    program, *arguments = command
    config = TINY_SRPO if program == "train" else ()
    result = run(tmp_path, f"launch/{program}.py", *config, *arguments, code=2)
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert line.startswith("error: ")
    assert message in line

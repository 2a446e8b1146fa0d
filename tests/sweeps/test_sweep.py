"""Planning a sweep: what becomes of its axes, how groups are split, and what is refused before anything starts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from diffrl import config as configs
from diffrl.algorithms import iql, srpo, swg
from diffrl.config import Config, ConfigError, DatasetConfig, OnlineConfig
from diffrl.records import RecordError
from diffrl.sweeps import record
from diffrl.sweeps.axes import split
from diffrl.sweeps.parts import Part, share_out, split_group, whole
from diffrl.sweeps.plan import Group, Plan, plan
from diffrl.training.runs import points_of

OUT = Path("out")


def load(name: str) -> Config:
    """Experiments of three methods; the argument is the dataset."""
    method, _, dataset = name.partition(":")
    algorithm = {"srpo": srpo.Config(), "swg": swg.Config(), "iql": iql.Config()}[method]
    return Config(algorithm=algorithm, dataset=DatasetConfig(id=dataset or "maze"))


def plan_of(*sweeps: str, config: str = "srpo", overrides: tuple[str, ...] = (), **options: int) -> Plan:
    return plan(config, list(overrides), list(sweeps), OUT, load, **options)


def of_arguments(group: Group) -> Config:
    """The config that launch/train.py makes of a group's arguments."""
    named = [text.removeprefix("--config=") for text in group.arguments if text.startswith("--config=")]
    config = load(named[-1])
    for text in group.arguments:
        if text.startswith("--config."):
            configs.override(config, text.removeprefix("--config."))
    return config


def points(text: str) -> list[dict[str, float]]:
    return points_of(dataclasses.replace(load("srpo"), sweep=text))


# ---------------------------------------------------------------- joint axes of Config.sweep
def test_joint_axes_are_tied_and_crossed_with_others() -> None:
    assert points("beta:discount=0.1:0.99,0.2:0.995 tau=0.01,0.02") == [
        {"beta": 0.1, "discount": 0.99, "tau": 0.01},
        {"beta": 0.1, "discount": 0.99, "tau": 0.02},
        {"beta": 0.2, "discount": 0.995, "tau": 0.01},
        {"beta": 0.2, "discount": 0.995, "tau": 0.02},
    ]
    assert points("") == [{}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beta=0.1,0.10", "has the point beta=0.1 twice"),
        ("beta:tau=1:0.2,1:0.2", "has the point beta=1, tau=0.2 twice"),
        ("beta=0.1 beta=0.2", "names 'beta' twice"),
        ("beta:beta=1:2", "names 'beta' twice"),
        ("beta:tau=0.1", "takes 2 numbers a value, separated by colons, got '0.1'"),
        ("beta:policy_updates=1:2", "'policy_updates' changes the program"),
        ("beta:taau=1:2", "did you mean 'tau'"),
        ("beta=", "beta must be float, got ''"),
    ],
)
def test_what_no_point_can_be_made_of(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        points(text)


# ---------------------------------------------------------------- where an axis leads
def test_floats_and_seeds_share_a_program_other_settings_make_groups() -> None:
    found = plan_of("algorithm.beta=0.1,0.2", "tau=0.01", "seeds=3:5", "policy_hidden_dims=(64,64),(128, 128)", "dataset=a/b,c")
    assert [group.label for group in found.groups] == [
        "policy_hidden_dims-64-64_a-b",
        "policy_hidden_dims-64-64_c",
        "policy_hidden_dims-128-128_a-b",
        "policy_hidden_dims-128-128_c",
    ]
    last = found.groups[-1]
    assert (last.config.first_seed, last.config.num_seeds, last.num_runs) == (3, 2, 4)
    assert last.config.sweep == "beta=0.1,0.2 tau=0.01"
    assert (last.config.algorithm.policy_hidden_dims, last.config.dataset.id) == ((128, 128), "c")
    assert last.settings == {"algorithm.policy_hidden_dims": "(128, 128)", "dataset.id": "c"}
    assert last.workdir == OUT / last.label


@pytest.mark.parametrize(
    ("sweeps", "overrides"),
    [
        (("beta=0.1,0.2", "seeds=0:4", "policy_hidden_dims=(8,),(16,)"), ("num_seeds=9", "algorithm.tau=0.5")),
        (("argument=a,b", "expectile:beta=0.6:0.1,0.7:0.2"), ("sweep=tau=0.1,0.2",)),
        (("dataset.id:beta=c:0.1,d:0.2",), ("sweep=tau=0.1,0.2",)),
        (("beta=uniform(0,1)", "tau=loguniform(0.001,0.1)", "discount=0.9,0.99"), ()),
    ],
)
def test_a_group_is_nothing_but_a_training_command(sweeps: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    for group in plan_of(*sweeps, overrides=overrides).groups:
        assert of_arguments(group) == group.config
        assert points_of(group.config) == group.points
        assert group.arguments[-1] == f"--workdir={group.workdir}"
        for part in split_group(group, [Part(0, 1, group.points), Part(1, 1, group.points[:1])]):
            assert of_arguments(part) == part.config
            assert points_of(part.config) == part.points
            assert part.arguments[-1] == f"--workdir={group.workdir / part.workdir.name}"


def test_what_the_experiment_sweeps_is_swept_too() -> None:
    (group,) = plan_of("beta=1,2", overrides=("sweep=tau=0.1,0.2",)).groups
    assert (group.label, group.num_runs) == ("all", 4 * group.config.num_seeds)


def test_arguments_and_texts_with_commas_stand_in_brackets() -> None:
    found = plan_of("argument=(a,b),c", "seeds=0:1")
    assert [group.config.dataset.id for group in found.groups] == ["a,b", "c"]
    assert found.groups[0].arguments[0] == "--config=srpo:a,b"
    (group,) = plan_of("dataset=(x,y)").groups
    assert group.config.dataset.id == "x,y"
    assert split("(64,64), [1,(2,3)],x") == ["(64,64)", "[1,(2,3)]", "x"]


def test_a_float_tied_to_a_dataset_belongs_to_the_group() -> None:
    found = plan_of("dataset:beta=a:0.1,b:0.2")
    assert [(group.config.dataset.id, group.config.algorithm.beta, group.config.sweep) for group in found.groups] == [
        ("a", 0.1, ""),
        ("b", 0.2, ""),
    ]


def test_choices_when_acting_need_no_training() -> None:
    found = plan_of("act.guidance_scale=0,1,2", "algorithm.act.num_denoising_steps=5,10", "seeds=0:2", config="swg")
    assert len(found.groups) == 1
    assert found.act == ("guidance_scale=0,1,2", "num_denoising_steps=5,10")


def test_choices_when_acting_shape_the_data_of_an_interaction() -> None:
    def online(_: str) -> Config:
        return Config(swg.Config(), online=OnlineConfig(env_id="Hopper-v5"))

    found = plan("x", [], ["act.guidance_scale=1,2"], OUT, online)
    assert found.act == ()
    assert [group.config.algorithm.act.guidance_scale for group in found.groups] == [1.0, 2.0]


def test_long_labels_and_labels_that_look_alike_stay_different() -> None:
    found = plan_of("dataset=a/b,a-b," + "x" * 200 + "," + "x" * 199 + "y")
    labels = [group.label for group in found.groups]
    assert len(set(labels)) == 4
    assert max(map(len, labels)) < 120


# ---------------------------------------------------------------- random search
def test_drawn_points_are_joint_counted_by_name_and_crossed() -> None:
    def drawn(*sweeps: str, **options: int) -> list[dict[str, float]]:
        return plan_of(*sweeps, **options).groups[0].points

    found = drawn("beta=loguniform(0.01,1)", "discount=uniform(0.9,1)", "tau=0.1,0.2", num_points=200)
    assert len(found) == 400
    beta = np.array([point["beta"] for point in found if point["tau"] == 0.1])
    discount = np.array([point["discount"] for point in found if point["tau"] == 0.1])
    assert 0.01 <= beta.min() <= 0.012
    assert 0.8 <= beta.max() <= 1.0
    # Uniform in the logarithm: as many below 0.1 as above; 90 of 200 would be below the binomial's 2.5 % quantile.
    assert 80 < (beta < 0.1).sum() < 120
    assert 0.9 <= discount.min() < 0.905
    assert abs(np.corrcoef(np.log(beta), discount)[0, 1]) < 0.2
    alone = drawn("beta=loguniform(0.01,1)", num_points=3)
    assert [point["beta"] for point in alone] == beta[:3].tolist()
    assert drawn("beta=loguniform(0.01,1)", num_points=3, search_seed=1) != alone


# ---------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("betta=1", "unknown setting 'betta'; did you mean 'beta'"),
        ("algorithm.policy_hidden_dim=(1,)", "did you mean 'algorithm.policy_hidden_dims'"),
        ("datset=a", "did you mean 'dataset'"),
        ("beta", "is not of the form name=v1,v2"),
        ("beta=", "is not of the form name=v1,v2"),
        ("beta=1,1.0", "has the point beta=1 twice"),
        ("beta=1,1", "has a value twice"),
        ("beta=0.1,x", "beta must be float, got 'x'"),
        ("beta=-1", "algorithm.beta must be at least 0"),
        ("discount=0.9,1.5", "algorithm.discount must be at most 1.0, got 1.5"),
        ("seeds=8", "is not of the form seeds=first:end"),
        ("seeds=3:3", "is not of the form seeds=first:end"),
        ("num_seeds=8", "say seeds=first:end"),
        ("sweep=beta=1", "name the hyper-parameters themselves"),
        ("max_to_keep=1,2", "changes no result"),
        ("policy_updates=10,0", "group policy_updates-0: algorithm.policy_updates must be at least 1"),
        ("policy_updates=10,x", "group policy_updates-x: algorithm.policy_updates must be int"),
        ("policy_hidden_dims=(8,8),(8, 8)", "are the same training"),
        ("policy_updates=uniform(1,9)", "drawing is for one float hyper-parameter"),
        ("beta=0.1,uniform(1,9)", "drawing is for one float hyper-parameter"),
        ("beta=uniform(2,1)", "with low < high"),
        ("beta=loguniform(0,1)", "loguniform needs low > 0"),
        ("beta=uniform(a,1)", "with low < high"),
        ("beta:seeds=1:2", "are not tied"),
        ("dataset:beta=a", "takes 2 values separated by colons, got 'a'"),
    ],
)
def test_mistakes_are_named(sweep: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        plan_of(sweep)


def test_names_given_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"names algorithm\.beta twice"):
        plan_of("beta=1", "algorithm.beta=2")
    with pytest.raises(ConfigError, match="sweep names 'beta' twice"):
        plan_of("beta=1", overrides=("sweep=beta=2",))


def test_acting_values_with_commas_are_refused() -> None:
    with pytest.raises(ConfigError, match="has a comma"):
        plan_of("act.sampler=(a,b)", config="swg")


# ---------------------------------------------------------------- splitting
def needed(seeds: int, num_points: int) -> int:
    """100 for the data, 10 for a run."""
    return 100 + 10 * seeds * num_points


@pytest.mark.parametrize(
    ("limit", "seeds"),
    [(260, [8]), (259, [4, 4]), (180, [4, 4]), (179, [3, 3, 2]), (140, [2, 2, 2, 2]), (139, [1] * 8)],
)
def test_runs_that_do_not_fit_are_split_by_seeds(limit: int, seeds: list[int]) -> None:
    (group,) = plan_of("beta=1,2", "seeds=5:13").groups
    parts = share_out(group, needed, limit)
    assert [part.num_seeds for part in parts] == seeds
    trained = [seed for part in parts for seed in range(part.first_seed, part.first_seed + part.num_seeds)]
    assert trained == list(range(5, 13))
    assert all(needed(part.num_seeds, 2) <= limit for part in parts)
    assert all(part.points == [{"beta": 1.0}, {"beta": 2.0}] for part in parts)
    assert {one.config.sweep for one in split_group(group, parts)} == {"beta=1,2"}


def test_points_are_split_where_one_seed_is_too_much() -> None:
    (group,) = plan_of("beta=1,2,3", "tau=0.1,0.2", "seeds=0:2").groups
    parts = share_out(group, needed, 145)
    assert {part.num_seeds for part in parts} == {1}
    trained = [(one.config.first_seed, *point.values()) for one in split_group(group, parts) for point in one.points]
    assert sorted(trained) == sorted((seed, beta, tau) for seed in (0, 1) for beta in (1, 2, 3) for tau in (0.1, 0.2))
    assert len(trained) == len(set(trained)) == group.num_runs
    assert [one.label for one in split_group(group, parts)] == ["all/part0", "all/part1", "all/part2", "all/part3"]


def test_a_run_that_does_not_fit_is_an_error() -> None:
    (group,) = plan_of("seeds=0:2").groups
    with pytest.raises(ConfigError, match=r"a single run needs 1\.1e-07 GB, which does not fit into 1\.09e-07 GB"):
        share_out(group, needed, 109)


# ---------------------------------------------------------------- sweep.json
def test_the_same_sweep_goes_on_with_its_split_and_another_is_refused(tmp_path: Path) -> None:
    found = plan_of("beta=1,2", "seeds=0:4", "policy_hidden_dims=(8,),(16,)")
    parts = {
        found.groups[0].label: [Part(0, 2, found.groups[0].points), Part(2, 2, found.groups[0].points)],
        found.groups[1].label: [whole(found.groups[1])],
    }
    assert record.resume(tmp_path, found) is None
    record.save(tmp_path, found, parts)
    assert record.resume(tmp_path, found) == parts
    assert [one.label for one in record.trainings(found.groups, parts)] == [
        "policy_hidden_dims-8/part0",
        "policy_hidden_dims-8/part1",
        "policy_hidden_dims-16",
    ]
    # What changes no result may change.
    assert record.resume(
        tmp_path, plan_of("beta=1,2", "seeds=0:4", "policy_hidden_dims=(8,),(16,)", overrides=("max_to_keep=1",))
    )
    for other, difference in (
        (plan_of("beta=1,3", "seeds=0:4", "policy_hidden_dims=(8,),(16,)"), r"axis algorithm\.beta: '1,2' there, '1,3' now"),
        (plan_of("beta=1,2", "seeds=0:4", "policy_hidden_dims=(8,)"), r"axis algorithm\.policy_hidden_dims"),
        (
            plan_of("beta=1,2", "seeds=0:4", "policy_hidden_dims=(8,),(16,)", overrides=("algorithm.tau=0.5",)),
            r"policy_hidden_dims-8: algorithm\.tau: 0\.005 there, 0\.5 now",
        ),
    ):
        with pytest.raises(ConfigError, match=difference):
            record.resume(tmp_path, other)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no sweep\.json; launch/sweep\.py writes it"):
        record.load(tmp_path)
    for text, fault in (("{", "is not JSON"), ('{"groups": [{"label": "a"}]}', "lacks field")):
        (tmp_path / record.NAME).write_text(text)
        with pytest.raises(RecordError, match=f"{record.NAME} {fault}.*; delete it, and the command"):
            record.load(tmp_path)

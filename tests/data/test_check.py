"""A report on any data: a useful sentence for what is broken, the methods' own word, and commands that train."""

import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from every_loader import ALL, arrays_in_memory
from rich.console import Console
from support import quick_compilation, unchecked

from diffrl import cli, registry
from diffrl.algorithms import bc
from diffrl.config import DatasetConfig, override
from diffrl.data.load import load
from diffrl.registry import REGISTRY
from diffrl.reports import check as checking
from diffrl.reports import check_pages
from diffrl.reports.check import Check, check
from diffrl.training.able import Verdict
from diffrl.training.train import train
from launch import check as program

N = 40


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def trusting(monkeypatch):
    """Methods that say yes without being traced, for tests of the data alone."""
    monkeypatch.setattr(checking, "REGISTRY", {name: REGISTRY[name] for name in ("bc", "iql")})
    fields = {"bc": {"observation", "action"}, "iql": {"observation", "action", "reward"}}
    monkeypatch.setattr(
        checking, "judge", lambda config, *_: Verdict(config, reads=frozenset(fields[registry.name_of(config.algorithm)]))
    )


def whole(n: int = N, **changed) -> dict[str, np.ndarray]:
    """Two episodes with which nothing is wrong: the first ends in a terminal, the second by time."""
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(n + 1, 3)).astype(np.float32)
    following = observation[1:].copy()
    following[n // 2 - 1] += 1.0  # where the first episode ended
    return {
        "observation": observation[:-1],
        "action": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "reward": rng.normal(size=n).astype(np.float32),
        "terminal": np.arange(n) == n // 2 - 1,
        "timeout": np.arange(n) == n - 1,
        "next_observation": following,
    } | changed


def npz(**arrays) -> str:
    np.savez("data.npz", **arrays)
    return "data.npz"


def file(**changed) -> Callable[[], str]:
    """Makes a file of whole data with some arrays in place of theirs, or beside them."""
    return lambda: npz(**whole(**changed))


def changed(name: str, row: int, value: float, **beside) -> Callable[[], str]:
    """Makes a file of whole data but for one row of one array, and what stands beside it."""
    array = whole()[name].copy()
    array[row] = value
    return file(**{name: array}, **beside)


def scaled(*by: float) -> Callable[[], str]:
    return file(**{name: whole()[name] * np.float32(by) for name in ("observation", "next_observation")})


def copies() -> str:
    return npz(**{name: np.zeros_like(value) for name, value in whole().items()})


def unconnected() -> str:
    given = whole(timeout=np.ones(N), terminal=np.zeros(N))
    del given["next_observation"]
    return npz(**given)


def without_rewards(path: str = "data.npz") -> str:
    np.savez(path, **{name: value for name, value in whole().items() if name != "reward"})
    return path


def written(name: str, text: str) -> Callable[[], str]:
    def make() -> str:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
        return name

    return make


def part_of_lerobot() -> str:
    written("robot/meta/info.json", "{}")()
    return written("robot/data/chunk-000/file-000.parquet", "PAR1")()


def said(found: Check, level: str) -> str:
    return "\n".join(finding.text for finding in found.findings if finding.level == level)


def cut_hdf5() -> str:
    with h5py.File("data.hdf5", "w") as file:
        for name, value in whole().items():
            file[f"{name}s"] = value
    data = Path("data.hdf5").read_bytes()
    Path("data.hdf5").write_bytes(data[: len(data) // 2])
    return "data.hdf5"


def workdir() -> str:
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/config.json").write_text("{}")
    return "run"


# What cannot be trained on: what makes it, and what has to be said of it.
BROKEN = {
    "rewards that are no numbers": (
        changed("reward", 3, np.nan),
        "reward has 1 values that are not finite, first in row 3: mend",
    ),
    "an observation that overflows": (changed("observation", 2, np.inf), "observation has 3 values that are not finite"),
    "rewards of another length": (file(reward=np.zeros(N - 1)), "has 40 rows, reward 39"),
    "flags that are neither 0 nor 1": (file(terminal=np.full(N, 0.5)), "terminal must be 0 or 1 everywhere, found 0.5"),
    "arrays of other names": (
        lambda: npz(obs=np.zeros((3, 2)), rewards=np.zeros(3)),
        "action, terminal is not among these",
    ),
    "no rows": (file(**{name: value[:0] for name, value in whole().items()}), "has no transitions"),
    "no arrays": (npz, "has no observation (observations, obs) and no action (actions, acts); there are nothing"),
    "half of an HDF5 file": (cut_hdf5, "is damaged, cut short or no HDF5 file"),
    "a pointer of Git LFS": (written("a.npz", "version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "a page of the web": (written("a.hdf5", "<!DOCTYPE html>"), "no HDF5 file (it is a page of the web)"),
    "an empty file": (written("a.npz", ""), "no .npz file (it is empty)"),
    "text": (written("a.npz", "0.1 0.2"), "no .npz file (no archive of arrays, as numpy.savez writes)"),
    "one table of a robot's": (part_of_lerobot, "is a part of a LeRobot dataset: name the whole, 'robot'"),
    "another hub's name": (lambda: "lerobot/pusht", "a file or a folder is named by its path"),
    "pickled episodes": (file(observation=np.array([{}] * N, object)), "'observation' can be read by running a pickle only"),
    "rows without any next": (unconnected, "every episode is one row long. Add next_observation"),
    "bounds the wrong way round": (file(action_low=1.0, action_high=-1.0), "bounds must be finite with low < high"),
    "rewards beyond float32": (changed("reward", 1, 1e12), "beyond what float32 can be trained on"),
    "images": (file(observation=np.zeros((N, 8, 8, 3), np.uint8)), "holds images of shape (8, 8, 3)"),
    "a file that is not there": (lambda: "nowhere.hdf5", "there is no such file or directory"),
    "a file of another kind": (written("rows.csv", "1,2"), "is neither an .hdf5, .h5 or .npz file"),
    "a training's workdir": (workdir, "--export_dataset=mine/NAME-v0"),
    "a Minari dataset that is not here": (lambda: "mine/nothing-v0", "is not on this machine"),
    "data of another environment": (file(), "an observation has 3 numbers in the data and 4 there"),
}

# What can be trained on, and may not be what was meant.
ODD = {
    "actions out of bounds": (
        changed("action", 5, 1.4, action_low=-1.0, action_high=1.0),
        "1 of 40 rows have actions beyond their bounds, from -0.9",
    ),
    "actions out of bounds that nobody knows": (changed("action", 5, 700.0), "beyond -1 and 1, from -0.987 to 700, and nothing"),
    "discrete actions as real numbers": (file(action=np.arange(N)[:, None] % 3.0), "whole numbers, from 0 to 2: if each"),
    "a constant column": (scaled(1.0, 0.0, 1.0), "observations never change in column 1"),
    "nothing but copies": (copies, "39 of 40 rows are copies of others"),
    "flags that contradict": (file(timeout=np.arange(N) % 20 == 19), "1 rows are flagged as terminal and as timeout"),
    "next observations that do not meet": (file(next_observation=np.ones((N, 3))), "the rows are not in order of time"),
    "pieces without flags": (changed("next_observation", 5, 9.0), "1 episodes end without a flag"),
    "a terminal in the middle": (
        file(terminal=np.isin(np.arange(N), (5, N // 2 - 1))),
        "after 1 of 2 terminal rows the data go on",
    ),
    "one-row episodes": (file(timeout=np.ones(N), terminal=np.zeros(N)), "every episode is one row long"),
    "rewards all equal": (file(reward=np.full(N, 2.0)), "all rewards are 2"),
    "actions that stand still": (file(action=np.zeros((N, 2))), "actions never change in columns 0, 1"),
    "actions in other units": (file(action_low=-100.0, action_high=100.0), "use less than 2% of their bounds in columns 0, 1"),
    "columns of other scales": (scaled(1.0, 1e3, 1.0), "they are standardised in the commands below"),
    "time limits called terminal": (
        file(terminal=np.arange(N) % 20 == 19, timeout=np.zeros(N)),
        "2 of 2 terminal rows end an episode of 20 rows",
    ),
    "no rewards": (without_rewards, "there are no rewards, so that only imitation can learn"),
    "no terminal": (file(terminal=np.zeros(N)), "no row is terminal"),
    "no environment": (file(), "--config.dataset.env_id=NAME"),
    "no bounds": (file(), "-1 and 1 are taken"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_trained_on_is_said_in_a_sentence(trusting, what):
    make, sentence = BROKEN[what]
    env_id = "maze2d-umaze-v1" if what == "data of another environment" else ""
    found = check(DatasetConfig(id=make(), env_id=env_id))
    assert sentence in said(found, "stop")
    assert not found.commands
    assert "\n\n" not in said(found, "stop")


@pytest.mark.parametrize("what", ODD)
def test_what_is_odd_is_said_in_a_sentence(trusting, what):
    make, sentence = ODD[what]
    found = check(DatasetConfig(id=make()))
    assert sentence in said(found, "look") + said(found, "note")
    assert not said(found, "stop")
    assert found.commands


def test_actions_of_unknown_bounds_are_not_clipped(trusting):
    """Else a robot's angles would all be trained on as 1."""
    make = changed("action", 5, 700.0)
    (line, _) = check(DatasetConfig(id=make())).commands
    assert "--config.dataset.action_bounds=data" in line
    assert "clip_actions" not in line
    asked = check(DatasetConfig(id=make(), clip_actions=True))
    assert all("clip_actions=true" in line and "action_bounds" not in line for line in asked.commands)
    asked = check(DatasetConfig(id=make(), action_bounds="data"))
    assert "beyond" not in said(asked, "look") + said(asked, "note")


def test_without_rewards_there_are_no_returns_and_tasks_of_ogbench_are_offered(trusting):
    found = check(DatasetConfig(id=without_rewards("cube-single-play-v0.npz")))
    assert "a task of OGBench's cube-single gives them, and its environment: --config.dataset.task=1" in said(found, "look")
    assert "all rewards" not in said(found, "look")
    page = check_pages.to_markdown(found, None)
    assert "return" not in page.replace("returns", "")
    assert "| reward |" not in page
    assert check_pages.draw(found, Path("check.png")).stat().st_size > 5_000


def test_of_whole_data_nothing_is_odd(trusting):
    found = check(DatasetConfig(id=npz(**whole(), action_low=-1.0, action_high=1.0)))
    assert [finding.text[:30] for finding in found.findings] == ["the data name no environment t"]


@pytest.mark.parametrize("loader", [loader for loader in ALL if loader is not arrays_in_memory])
def test_every_kind_of_data_is_checked_by_the_name_it_is_loaded_by(tmp_path, trusting, loader):
    given = whole()
    source = loader(tmp_path, given)
    found = check(DatasetConfig(id=source.id))
    assert not said(found, "stop")
    assert found.facts is not None
    assert (found.facts.rows, len(found.facts.lengths)) == (N, 2)
    assert len(found.commands) == 2


def test_a_minari_dataset_is_known_by_its_folder(tmp_path, trusting):
    loader = next(loader for loader in ALL if loader.__name__ == "minari_dataset")
    source = loader(tmp_path, whole())
    for name in (tmp_path / "minari" / source.id, Path("minari") / source.id):
        again = load(str(name))
        assert np.array_equal(again.transitions.observation, source.transitions.observation)
    assert check(DatasetConfig(id=f"minari/{source.id}")).commands


# ---------------------------------------------------------------- methods


def test_discrete_actions_are_for_the_methods_that_have_them(monkeypatch):
    """Whichever the registry says: with one more that can, the data can be trained on, by it."""
    id = npz(**whole(action=np.arange(N) % 3))
    for name in set(REGISTRY) - {"fql", "td3_bc"}:
        monkeypatch.delitem(REGISTRY, name)
    found = check(DatasetConfig(id=id))
    assert "no method can train on these data: fql cannot have discrete actions" in said(found, "stop")
    assert not found.commands

    monkeypatch.setitem(REGISTRY, "small", registry.Method(bc.Config, bc.make, actions=("discrete",)))
    with unchecked():
        found = check(DatasetConfig(id=id))
    assert [one.method for one in found.verdicts if not one.why_not] == ["small"]
    assert found.commands == (f"diffrl-train --config=small --config.dataset.id={id} --workdir=runs/data-small",)


def test_what_learns_from_rewards_is_not_begun_with_where_all_are_equal(trusting):
    found = check(DatasetConfig(id=npz(**whole(reward=np.zeros(N)))))
    assert [shlex.split(one)[1] for one in found.commands] == ["--config=bc"]


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("method", ["bc", pytest.param("td3_bc", marks=pytest.mark.slow)])
def test_commands_train(monkeypatch, method):
    """Of data that need their actions clipped and their observations standardised: what is printed is what is run."""
    given = {name: value * 1e3 if "observation" in name else value for name, value in whole().items()}
    given |= {"action_low": -1.0, "action_high": 1.0}
    given["action"][5] = 1.4
    Path("my data").mkdir()
    np.savez("my data/a.npz", **given)
    for name in set(REGISTRY) - {method}:
        monkeypatch.delitem(REGISTRY, name)
    with unchecked():
        (line,) = check(DatasetConfig(id="my data/a.npz")).commands
    name, config, *words = shlex.split(line)
    assert (name, config) == ("diffrl-train", f"--config={method}")
    overrides, workdir = cli.take_overrides(words)
    asked = cli.load_config(config.removeprefix("--config="), overrides)
    assert (asked.dataset.clip_actions, asked.dataset.standardize_observations) == (True, True)
    for text in ("algorithm.hidden_dims=(4,)", "algorithm.num_updates=3", "algorithm.batch_size=4", "num_seeds=1"):
        override(asked, text)
    with quick_compilation(), unchecked():
        outcome = train(asked, Path("run"))
    assert outcome.complete
    assert not outcome.diverged
    assert workdir == [f"--workdir=runs/a-{method}"]


# ---------------------------------------------------------------- the program


def run(*argv: str, overrides: tuple[str, ...] = ()) -> int:
    flags.FLAGS(["check", *(word for word in argv if word.startswith("--"))])
    return program.main(["check", *(word for word in argv if not word.startswith("--"))], list(overrides))


def test_the_program_says_all_of_it_and_how_it_ended(trusting, capsys, monkeypatch):
    monkeypatch.setattr(program.devices, "configure", lambda: None)  # must precede JAX
    with flagsaver.flagsaver():
        assert run(changed("action", 5, 1.4)(), "--out=report") == 0
        shown = capsys.readouterr().out
        for text in (
            "40 rows, 2 episodes",
            "█",
            "look at this: 1 of 40 rows",
            "diffrl-train --config=bc",
            "wrote report/check.md",
        ):
            assert text in shown
        page = Path("report/check.md").read_text()
        assert "| observation 2 |" in page
        assert "![" in page
        assert Path("report/check.png").stat().st_size > 5_000

        flags.FLAGS["out"].unparse()
        assert run(npz(obs=np.zeros((3, 2)))) == 2
        shown = capsys.readouterr().out
        assert "has no action" in shown
        assert re.search(r"obs\s.*3 × 2.*float64", shown)
        assert "these data cannot be trained on" in shown
        assert run(npz(**whole()), overrides=("dataset.env_id=maze2d-umaze-v1",)) == 2
        with pytest.raises(SystemExit):
            run()


def test_names_from_data_do_not_steer_the_terminal(trusting):
    np.savez("data.npz", **{"\x1b[2J[bold]": np.zeros(3)})
    console = Console(record=True, width=140, file=io.StringIO())
    check_pages.show(check(DatasetConfig(id="data.npz")), console)
    text = console.export_text()
    assert "\x1b[2J" not in text
    assert "[bold]" in text

"""Files of a dataset or of a workdir are data: none of them can run code, and no pickle is ever loaded.

Every attack goes through the real programs; its payload would create a marker file.
"""

import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import TINY_BC, collect, run

from diffrl.config import ConfigError
from diffrl.data.dataset import DatasetError
from diffrl.data.load import load
from diffrl.envs import env_spec, trust
from diffrl.envs.gymnasium_backend import BackendError, make_env
from diffrl.evaluation.evaluate import EvaluationError, Options, evaluate_workdir
from diffrl.training.checkpoint import Checkpoints

DATASET = "diffrl/pointmaze/umaze-fixedgoal-v0"
TRAIN = ("launch/train.py", *TINY_BC, "--config.num_seeds=1", "--config.algorithm.num_updates=24")
EVALUATE = ("launch/evaluate.py", "--episodes=1", "--step=last")
ONLINE = (
    *("launch/train.py", "--config=experiments/sac_dmc.py", "--config.online.env_id=PointMaze_UMaze-v3"),
    *("--config.online.backend=auto", "--config.online.num_env_steps=32", "--config.online.num_envs=1", "--config.num_seeds=1"),
    *("--config.online.warmup_steps=4", "--config.online.buffer_size=64", "--config.updates_per_chunk=8"),
    *("--config.checkpoint_every=16", "--config.algorithm.hidden_dims=(4,)", "--config.algorithm.batch_size=4"),
)


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def spec_that_runs(marker: Path, **changes: Any) -> str:
    """An EnvSpec whose environment is a command, as gymnasium would call it."""
    harmless = {"reward_threshold": None, "nondeterministic": False, "order_enforce": True, "disable_env_checker": False}
    command = {"entry_point": "os:system", "kwargs": {"command": f"touch {marker}"}, "additional_wrappers": []}
    return json.dumps({"id": "Maze-v0", **harmless, **command, "vector_entry_point": None, "max_episode_steps": 5, **changes})


def poisoned_npz(path: Path, marker: Path, *names: str) -> None:
    """Arrays of these names, each an object array: a pickle."""
    payload = np.empty(3, object)
    payload[:] = [Payload(marker)] * 3
    np.savez(path, allow_pickle=True, **dict.fromkeys(names, payload))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, and a finished training with its evaluation."""
    root = tmp_path_factory.mktemp("attacked")
    collect(root)
    run(root, *TRAIN, f"--workdir={root / 'trained'}")
    run(root, *EVALUATE, f"--workdir={root / 'trained'}")
    return root


@pytest.fixture
def marker(root: Path) -> Any:
    """What every payload creates; never there."""
    marker = root / "code_was_run"
    yield marker
    assert not marker.exists()


@pytest.fixture
def workdir(root: Path, tmp_path: Path) -> Path:
    """A copy of the finished training that a test may spoil."""
    shutil.copytree(root / "trained", tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "evaluations")
    return tmp_path / "copy"


def one_line(result: Any) -> str:
    """What was said to the user: one line, no traceback."""
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_payloads_work_where_they_are_let_in(tmp_path: Path) -> None:
    """The yardstick: the attacks below are attacks."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "pickle")))
    poisoned_npz(tmp_path / "a.npz", tmp_path / "npz", "observation")
    with np.load(tmp_path / "a.npz", allow_pickle=True) as file:
        assert len(file["observation"]) == 3
    import gymnasium

    spec = gymnasium.envs.registration.EnvSpec.from_json(spec_that_runs(tmp_path / "spec"))
    with pytest.raises(TypeError, match="must inherit"):
        gymnasium.make(spec)
    assert {path.name for path in tmp_path.iterdir()} == {"pickle", "npz", "spec", "a.npz"}


WRAPPED = {
    "id": "Hopper-v5",
    "entry_point": "gymnasium.envs.mujoco.hopper_v5:HopperEnv",
    "kwargs": {},
    "additional_wrappers": [{"name": "system", "entry_point": "os:system", "kwargs": {}}],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "os:system"),
        ({"id": "CartPole-v1"}, "os:system"),
        ({"entry_point": "gymnasium.envs.registration:make", "kwargs": {"id": "antigravity:X-v0"}}, "which it is not"),
        ({"entry_point": "gymnasium.envs.registration:importlib", "kwargs": {}}, "which it is not"),
        ({"entry_point": "gymnasium.envs:no_such_thing", "kwargs": {}}, "which it is not"),
        ({"entry_point": "gymnasium_robotics_evil:Env", "kwargs": {}}, f"{trust.VARIABLE}=gymnasium_robotics_evil"),
        ({"entry_point": ".os:system"}, "of no package known"),
        (WRAPPED, "os:system"),
        ({**WRAPPED, "additional_wrappers": [{**WRAPPED["additional_wrappers"][0], "entry_point": 3}]}, "'3'"),
        (
            {
                **WRAPPED,
                "additional_wrappers": [
                    {"name": "V", "entry_point": "gymnasium.wrappers:RecordVideo", "kwargs": {"video_folder": "/tmp"}}
                ],
            },
            "may not be made from data",
        ),
        ({"additional_wrappers": ["os:system"]}, "not the JSON of a gymnasium EnvSpec"),
        ({"kwargs": "ls"}, "not the JSON of a gymnasium EnvSpec"),
    ],
    ids=str,
)
def test_specs_name_environments_and_nothing_else(marker: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        make_env(spec_that_runs(marker, **changes))


def test_a_package_is_trusted_by_name(marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its environments are made; what is none stays refused."""
    text = spec_that_runs(marker, entry_point=f"{__name__}:Payload", kwargs={"marker": "x"})
    with pytest.raises(BackendError, match=f"{trust.VARIABLE}={__name__}"):
        make_env(text)
    monkeypatch.setenv(trust.VARIABLE, f"os, {__name__}")
    for refused in (text, spec_that_runs(marker)):
        with pytest.raises(trust.TrustError, match="which it is not"):
            trust.check(env_spec.read(refused))


@pytest.mark.parametrize("place", ["specs", "spaces"])
def test_minari_dataset_names_a_command(root: Path, tmp_path: Path, marker: Path, place: str) -> None:
    """In training nothing is made of it; the evaluation refuses. Without spaces Minari would make it in order to ask."""
    folder = root / "datasets" / f"attack/{place}-v0"
    shutil.copytree(root / "datasets" / DATASET, folder)
    metadata = json.loads((folder / "data" / "metadata.json").read_text())
    metadata |= {"env_spec": spec_that_runs(marker), "eval_env_spec": spec_that_runs(marker)}
    if place == "spaces":
        del metadata["observation_space"]
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    train = (*TRAIN, f"--config.dataset.id=attack/{place}-v0", f"--workdir={tmp_path / 'w'}")
    if place == "spaces":
        assert "has no observation_space in its metadata" in one_line(run(root, *train, code=2))
        return
    run(root, *train)
    refused = run(root, *EVALUATE, f"--workdir={tmp_path / 'w'}", code=2)
    assert "'os:system'" in one_line(refused)
    assert "data are not allowed to run code" in refused.stderr


def test_workdir_names_a_command(root: Path, workdir: Path, marker: Path) -> None:
    card = json.loads((workdir / "dataset.json").read_text())
    (workdir / "dataset.json").write_text(json.dumps(card | {"env_spec": spec_that_runs(marker)}))
    assert "'os:system'" in one_line(run(root, *EVALUATE, "--render", f"--workdir={workdir}", code=2))


def test_pickle_as_dataset(root: Path, tmp_path: Path, marker: Path) -> None:
    """As the arrays of an .npz file, and in place of files of all kinds."""
    poisoned_npz(tmp_path / "data.npz", marker, "observation", "action", "reward", "terminal")
    result = run(root, *TRAIN, f"--config.dataset.id={tmp_path / 'data.npz'}", f"--workdir={tmp_path / 'w'}", code=2)
    assert "is damaged" in one_line(result)
    for name in ("data.npz", "data.hdf5", "data.h5"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(marker)))
        with pytest.raises(DatasetError, match="is damaged"):
            load(str(tmp_path / name))


def test_pickle_as_checkpoint(root: Path, workdir: Path, marker: Path) -> None:
    """In place of every file of the last checkpoint in turn: refused or, where nobody reads it, without effect."""
    checkpoints = Checkpoints(workdir)
    step = checkpoints.steps()[-1]
    checkpoints.close()
    folder = workdir / "checkpoints" / str(step)
    content = pickle.dumps(Payload(marker))
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.write_bytes(content)
    (workdir / "DONE").unlink()
    refused = run(root, *TRAIN, f"--workdir={workdir}", code=2)
    assert str(step) in one_line(refused)
    run(root, *EVALUATE, f"--step={step}", f"--workdir={workdir}", code=2)


def test_pickle_as_result_and_as_settings(root: Path, workdir: Path, marker: Path) -> None:
    """A planted result is no result and is replaced; settings that are no JSON are named."""
    shutil.copytree(root / "trained" / "evaluations", workdir / "evaluations")
    (result,) = workdir.glob("evaluations/*/*.json")
    scored = json.loads(result.read_text())
    poisoned_npz(result.with_suffix(".npz"), marker, "observations")
    run(root, "launch/report.py", str(workdir), f"--out={workdir / 'report'}", code=None)
    result.write_bytes(pickle.dumps(Payload(marker)))
    assert str(result) in one_line(run(root, "launch/report.py", str(workdir), f"--out={workdir / 'report'}", code=2))
    run(root, *EVALUATE, f"--workdir={workdir}")
    assert json.loads(result.read_text()) == scored
    for name in ("spec.json", "dataset.json", "config.json"):
        whole = (workdir / name).read_bytes()
        (workdir / name).write_bytes(pickle.dumps(Payload(marker)))
        with pytest.raises((EvaluationError, ConfigError), match=name):
            evaluate_workdir(workdir, Options())
        (workdir / name).write_bytes(whole)


@pytest.fixture(scope="module")
def online(root: Path) -> Path:
    """A finished training by interaction."""
    run(root, *ONLINE, f"--workdir={root / 'online'}")
    return root / "online"


@pytest.mark.slow
def test_pickle_as_replay(root: Path, online: Path, tmp_path: Path, marker: Path) -> None:
    workdir = tmp_path / "online"
    shutil.copytree(online, workdir)
    for kind in ("file", "array"):
        for path in workdir.glob("replay/*.npy"):
            buffer = io.BytesIO()
            np.save(buffer, np.array([Payload(marker)], object), allow_pickle=True)
            path.write_bytes(pickle.dumps(Payload(marker)) if kind == "file" else buffer.getvalue())
        (workdir / "DONE").unlink(missing_ok=True)
        assert "damaged" in one_line(run(root, *ONLINE, f"--workdir={workdir}", code=2))


@pytest.mark.slow
def test_export_of_a_workdir_that_names_a_command(root: Path, online: Path, tmp_path: Path, marker: Path) -> None:
    workdir = tmp_path / "online"
    shutil.copytree(online, workdir)
    card = json.loads((workdir / "dataset.json").read_text())
    (workdir / "dataset.json").write_text(json.dumps(card | {"env_spec": spec_that_runs(marker)}))
    result = run(root, *ONLINE, "--export_dataset=mine/maze-v0", f"--workdir={workdir}", code=2)
    assert "'os:system'" in one_line(result)


# Runs a program with a hook that notes whatever is unpickled, and code that is compiled from or imported out of the data.
AUDITED = """
import runpy, sys
notes, watched = open(sys.argv[1], "a", buffering=1), sys.argv[2]
def hook(event, arguments):
    if event == "pickle.find_class":
        notes.write(f"{event} {arguments[0]}.{arguments[1]}\\n")
    elif event in ("exec", "import"):
        source = getattr(arguments[0], "co_filename", None) if event == "exec" else arguments[1]
        if isinstance(source, str) and source.startswith(watched):
            notes.write(f"{event} {source}\\n")
sys.addaudithook(hook)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_nothing_is_unpickled(root: Path, tmp_path: Path) -> None:
    """Train, resume, evaluate and report, offline and online, with an audit hook of the interpreter on."""
    notes = tmp_path / "notes"
    probe = tmp_path / "probe.py"
    probe.write_text("import pickle, pathlib\npickle.loads(pickle.dumps(pathlib.PurePosixPath('a')))\n")
    audited = ("-c", AUDITED, str(notes), str(root))
    run(root, *audited, str(probe))
    assert "pickle.find_class" in notes.read_text(), "the hook is blind"
    notes.unlink()

    run(root, *audited, *TRAIN, f"--workdir={root / 'audited'}")
    (root / "audited" / "DONE").unlink()
    shutil.rmtree(root / "audited" / "checkpoints" / "24")
    run(root, *audited, *TRAIN, f"--workdir={root / 'audited'}")
    run(root, *audited, *EVALUATE, f"--workdir={root / 'audited'}")
    run(root, *audited, "launch/report.py", str(root / "audited"), f"--out={root / 'report'}")
    run(root, *audited, *ONLINE, f"--workdir={root / 'audited_online'}")
    run(root, *audited, "launch/evaluate.py", "--episodes=1", f"--workdir={root / 'audited_online'}")
    assert notes.read_text() == ""


def test_no_file_of_ours_loads_pickles() -> None:
    """Neither by pickle nor by libraries that use it, unless told not to."""
    root = Path(__file__).parents[2]
    sources = {path: path.read_text() for folder in ("diffrl", "launch") for path in (root / folder).rglob("*.py")}
    assert len(sources) > 100
    for path, text in sources.items():
        for word in ("import pickle", "cloudpickle", "import marshal", "import shelve", "allow_pickle=True"):
            assert word not in text, path

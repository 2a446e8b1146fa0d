"""Workdirs from elsewhere: they name no folder of the user's, and no link in them is written through."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import run
from small_places import CONFIG, Places, evaluate, make_places, quick_episodes, source, the_plan
from small_trainings import UPDATES, config_of
from support import chosen

from diffrl import files
from diffrl.collection import collect
from diffrl.errors import UserError
from diffrl.evaluation import results
from diffrl.reports import tables
from diffrl.sweeps import record
from diffrl.training.checkpoint import CheckpointError
from diffrl.training.online import export
from diffrl.training.train import train
from diffrl.training.workdir import LOST

VICTIM = b"of the user\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return make_places(tmp_path_factory.mktemp("foreign"))


@pytest.fixture
def workdir(whole: Places, tmp_path: Path) -> Iterator[Path]:
    """Of a training that has ended, and of which nothing was said yet but by its checkpoints."""
    path = Path(shutil.copytree(whole.workdir, tmp_path / "run"))
    (path / "DONE").unlink()
    with quick_episodes():
        yield path


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the user's, with what must not be touched in it."""
    path = tmp_path / "victim"
    path.mkdir()
    (path / "file").write_bytes(VICTIM)
    (path / "5.orbax-checkpoint-tmp-1").mkdir()
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def test_a_version_names_no_folder(whole: Places, tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting what was lived through once removed what the version of diffrl pointed to."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    online = Path(shutil.copytree(whole.online, tmp_path / "online"))
    versions = json.loads((online / "versions.json").read_text())
    versions["packages"]["diffrl"] = f"/../../../{victim.name}"
    (online / "versions.json").write_text(json.dumps(versions))
    before = contents(victim)
    with quick_episodes():
        recipe, rows = export.recipe(online, 0)
        made = collect.collect(recipe, seed=0, rows=rows, workers=1, dataset_id="mine/x-v0")[collect.MINARI]
    assert made.path == tmp_path / "data" / "mine" / "x-v0"
    assert contents(victim) == before
    assert sorted(path.name for path in (tmp_path / "data" / "mine").iterdir() if path.is_dir()) == ["x-v0"]


@pytest.mark.parametrize(
    "name", [".lock", "versions.json", "DONE", "metrics/train.jsonl", "metrics/timings.jsonl", "metrics", "checkpoints"]
)
def test_training_writes_through_no_link(name: str, workdir: Path, victim: Path) -> None:
    """It is refused by name before any training; with a file or folder of its own the same command ends well."""
    target, path = victim if name in ("metrics", "checkpoints") else victim / "file", workdir / name
    before, aside = contents(victim), workdir / "aside"
    there = path.exists()
    if there:
        path.rename(aside)
    path.symlink_to(target)
    with pytest.raises((OSError, UserError)) as refused:
        train(CONFIG, workdir, source())
    assert path.name in f"{refused.value} {getattr(refused.value, 'filename', '')}"
    assert contents(victim) == before
    path.unlink()
    if there:
        aside.rename(path)
    assert train(CONFIG, workdir, source()).complete
    assert contents(victim) == before


@pytest.mark.parametrize("name", ["evaluations", f"evaluations/{UPDATES}", f"evaluations/{UPDATES}/jax-2episodes-seed0.json"])
def test_evaluating_writes_through_no_link(name: str, workdir: Path, victim: Path) -> None:
    target = victim / "file" if name.endswith(".json") else victim
    before, path = contents(victim), workdir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(target)
    with pytest.raises(UserError, match=r"cannot write .*will not write through the link") as refused:
        evaluate(workdir)
    assert str(workdir / "evaluations") in str(refused.value)
    assert contents(victim) == before
    path.unlink()
    evaluate(workdir)
    assert tables.read([workdir])


def test_a_report_writes_through_no_link(whole: Places, tmp_path: Path, victim: Path) -> None:
    before, names = contents(victim), ("results.csv", "results.md")
    run(tmp_path, "launch/report.py", str(whole.workdir), f"--out={tmp_path / 'out'}")
    (picture,) = [path.name for path in (tmp_path / "out").glob("*curves.png")]
    for name in (*names, picture):
        (tmp_path / "out" / name).unlink()
        (tmp_path / "out" / name).symlink_to(victim / "file")
        err = run(tmp_path, "launch/report.py", str(whole.workdir), f"--out={tmp_path / 'out'}", code=2).stderr
        assert "will not write through the link" in err
        assert str(tmp_path / "out" / name) in err
        assert len(err.splitlines()) == 1
        (tmp_path / "out" / name).unlink()
    assert contents(victim) == before


@pytest.mark.parametrize("out", ["/dev/null/out", "/proc/out", "a" * 300, "a\udcffb"], ids=ascii)
def test_a_report_that_cannot_be_written_is_one_line(out: str, whole: Places, tmp_path: Path) -> None:
    place = out if out.startswith("/") else f"{tmp_path}/{out}"
    err = run(tmp_path, "launch/report.py", str(whole.workdir), f"--out={place}", code=2).stderr
    (line,) = err.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize("text", ["../../x", "/etc/x", "jax\0", "a/b", "\x1b[2J", "x" * 500])
def test_a_result_names_no_file(text: str, workdir: Path, victim: Path) -> None:
    """A backend or a choice when acting that points elsewhere: the file that it stands for lies in the workdir's folder."""
    (path,) = (workdir / "evaluations").glob("*/*.json")
    saved = json.loads(path.read_text())
    saved["settings"] |= {"backend": text, "act": [[text, text]]}
    path.write_text(json.dumps(saved))
    result = results.load(path)
    meant = results.path_of(workdir, result.step, result.settings)
    assert meant.parent == path.parent
    assert len(meant.with_suffix(".json.half").name.encode()) <= files.LONGEST_NAME
    assert results.trajectories(workdir, result) is None
    tables.to_markdown(tables.read([workdir]))


@pytest.mark.parametrize("step", ["../../x", "20", None, -1, 20.5, [], {}, 2**70])
def test_a_step_is_a_number(step: object, workdir: Path) -> None:
    (path,) = (workdir / "evaluations").glob("*/*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": step}))
    with pytest.raises(UserError, match="field step must be int") as refused:
        tables.read([workdir])
    assert results.AGAIN in str(refused.value)
    path.unlink()  # the remedy
    evaluate(workdir)
    assert tables.read([workdir])[0].last.step == UPDATES


@pytest.mark.parametrize("name", ["/etc", "../other", "a/../../b", ""])
def test_a_sweep_names_no_trainings_elsewhere(name: str, whole: Places, tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(whole.sweep, tmp_path / "sweep"))
    saved = json.loads((sweep / "sweep.json").read_text())
    for changed in ({"trainings": [name]}, {"label": name}):
        groups = [saved["groups"][0] | changed, *saved["groups"][1:]]
        (sweep / "sweep.json").write_text(json.dumps(saved | {"groups": groups}))
        with pytest.raises(UserError, match="is no directory below the sweep's"):
            record.load(sweep)


# ------------------------------------------------------------------------------------------------ files that were cut


CUTS: dict[str, Callable[[bytes], bytes]] = {"empty": lambda content: b"", "cut": lambda content: content[: len(content) // 2]}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ["spec.json", "dataset.json", "config.json", "versions.json"])
def test_what_describes_a_workdir_is_refused_by_name_and_a_copy_mends_it(name: str, cut: str, workdir: Path) -> None:
    content = (workdir / name).read_bytes()
    (workdir / name).write_bytes(CUTS[cut](content))
    with pytest.raises(UserError, match="is not JSON") as refused:
        train(CONFIG, workdir, source())
    assert str(workdir / name) in str(refused.value)
    assert "put a copy of it back" in str(refused.value)
    (workdir / name).write_bytes(content)
    assert train(CONFIG, workdir, source()).complete


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_done_is_deleted_and_the_training_goes_on(cut: str, workdir: Path) -> None:
    train(CONFIG, workdir, source())
    content = (workdir / "DONE").read_bytes()
    (workdir / "DONE").write_bytes(CUTS[cut](content))
    with pytest.raises(UserError, match="delete it, and the same command goes on from the last checkpoint") as refused:
        train(CONFIG, workdir, source())
    assert str(workdir / "DONE") in str(refused.value)
    (workdir / "DONE").unlink()
    assert train(CONFIG, workdir, source()).complete
    assert (workdir / "DONE").read_bytes() == content


def test_another_workdir_is_the_other_remedy(workdir: Path, tmp_path: Path) -> None:
    assert "train in another --workdir" in LOST
    (workdir / "spec.json").write_bytes(b"")
    with pytest.raises(UserError, match=LOST):
        train(CONFIG, workdir, source())
    assert train(config_of(num_seeds=1), tmp_path / "another", source()).complete


@pytest.mark.parametrize("name", ["metrics/train.jsonl", "metrics/timings.jsonl"])
def test_a_bad_line_is_named_and_training_goes_on(name: str, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = workdir / name
    content = path.read_bytes()
    first, rest = content.split(b"\n", 1)
    path.write_bytes(first + b"\n" + b'{"step": \n' + rest + b'{"half')
    assert train(CONFIG, workdir, source()).complete
    if name == "metrics/train.jsonl":
        assert path.read_bytes() == content
        assert f"{path}, line 2 is not JSON" in capsys.readouterr().out.replace("\n", "")


def test_a_damaged_checkpoint_is_moved_away(workdir: Path, tmp_path: Path) -> None:
    """Its own description, and the one that orbax reads of all steps at once."""
    for name in ("metadata/metadata", "_CHECKPOINT_METADATA"):
        place = Path(shutil.copytree(workdir, tmp_path / name.partition("/")[0]))
        folder = place / "checkpoints" / str(UPDATES)
        (folder / name).write_text("[]")
        with pytest.raises(CheckpointError, match="move that folder away and the same command goes on from") as refused:
            train(CONFIG, place, source())
        assert str(folder) in str(refused.value)
        shutil.move(folder, tmp_path / "away")
        assert train(CONFIG, place, source()).complete
        shutil.rmtree(tmp_path / "away")


def test_a_damaged_checkpoint_is_not_passed_over_by_an_evaluation(workdir: Path, tmp_path: Path) -> None:
    """The score of the one before would stand as that of the last."""
    folder = workdir / "checkpoints" / str(UPDATES)
    (folder / "metadata" / "metadata").write_text("[]")
    shutil.rmtree(workdir / "evaluations")
    with pytest.raises(UserError, match="move that folder away") as refused:
        evaluate(workdir)
    assert str(folder) in str(refused.value)
    shutil.move(folder, tmp_path / "away")
    evaluate(workdir)
    assert [result.step for result in results.load_all(workdir)] == [UPDATES // 2]


def test_a_cut_sweep_is_deleted_and_written_again(whole: Places, tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(whole.sweep, tmp_path / "sweep"))
    found = the_plan(sweep)
    content = (sweep / "sweep.json").read_bytes()
    (sweep / "sweep.json").write_bytes(content[:100])
    with pytest.raises(UserError, match="delete it, and the command that made it writes it again"):
        record.resume(sweep, found)
    (sweep / "sweep.json").unlink()
    assert record.resume(sweep, found) is None


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("name", chosen(["a\nb *é", "a b", "'q\"", "x" * 200, "~tilde", "%s{0}$HOME"], 0))
def test_names_that_work(name: str, tmp_path: Path) -> None:
    """Of a workdir, from training to tables."""
    place = tmp_path / name
    with quick_episodes():
        assert train(CONFIG, place, source()).complete
        evaluate(place)
    tables.to_markdown(tables.read([place]))


@pytest.mark.parametrize("name", ["bc[seed1]", "a\\b", "a\udcffb", "x" * 256])
def test_names_that_cannot_work_are_refused_before_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train(CONFIG, tmp_path / name, source())
    assert not list(tmp_path.iterdir())

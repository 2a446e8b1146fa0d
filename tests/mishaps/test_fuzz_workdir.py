"""Every JSON file of a workdir and of a sweep, damaged in every way: each program does its work, or refuses it in one line.

What a file says may be nonsense; that it ends in a traceback is what this is against. DIFFRL_MUTATIONS sets how many the long
test tries.
"""

import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_mutations import KINDS, mutated
from small_places import CONFIG, EPISODES, Places, evaluate, make_places, quick_episodes, source, the_plan
from small_trainings import UPDATES, config_of
from workdirs import card

from diffrl.config import InitFromConfig
from diffrl.errors import UserError
from diffrl.reports import plots, tables
from diffrl.sweeps import plot, record
from diffrl.sweeps import report as sweep_report
from diffrl.sweeps import results as sweep_results
from diffrl.training import init_from
from diffrl.training.devices import make_mesh
from diffrl.training.online import export
from diffrl.training.runs import make_runs
from diffrl.training.train import train
from diffrl.training.trained import Trained

# ------------------------------------------------------------------------------------------------ what is done with it


def open_and_restore(places: Places) -> None:
    trained = Trained.open(places.workdir)
    trained.policies  # noqa: B018
    trained.close()


def resume(places: Places) -> None:
    (places.workdir / "DONE").unlink(missing_ok=True)
    train(CONFIG, places.workdir, source())


def repeat(places: Places) -> None:
    train(CONFIG, places.workdir, source())


def start_from(places: Places) -> None:
    mesh, spec = make_mesh(1), Trained.open(places.workdir).spec
    asked = InitFromConfig(str(places.workdir), ("policy",))
    config = config_of(num_seeds=2, init_from=asked)
    algorithm = Trained(places.workdir, config, spec, card()).algorithm
    init_from.read(config, spec, algorithm, make_runs(config), mesh, places.workdir / "other")


def evaluate_again(places: Places) -> None:
    evaluate(places.workdir)


def evaluate_anew(places: Places) -> None:
    evaluate(places.workdir, force=True)


def report(places: Places) -> None:
    series = tables.read([places.workdir])
    tables.to_markdown(series, best=True)
    tables.to_csv(tables.rows(series, best=True))
    plots.data_pieces(series[0].card)


def draw(places: Places) -> None:
    series = tables.read([places.workdir])
    for number, group in enumerate(tables.by_setting(series).values()):
        plots.learning_curves(plots.curves(group, plots.colours(series)), places.workdir / f"{number}.png")
        plots.maze_picture(group, plots.colours(series), places.workdir / f"{number}-maze.png")


def export_dataset(places: Places) -> None:
    recipe, rows = export.recipe(places.online, 0)
    for shard in recipe.shards(0, rows):
        shard.work(*shard.arguments)


def report_sweep(places: Places) -> None:
    found = sweep_results.read(places.sweep)
    sweep_report.to_markdown(found, [])
    sweep_report.to_csv(found.cells)


def draw_sweep(places: Places) -> None:
    plot.draw(plot.charts(sweep_results.read(places.sweep).cells), places.sweep)


def resume_sweep(places: Places) -> None:
    found = the_plan(places.sweep)
    parts = record.resume(places.sweep, found)
    if parts is not None:
        record.trainings(found.groups, parts)


Program = Callable[[Places], None]
OF_WORKDIR: dict[str, tuple[Program, ...]] = {
    "config.json": (open_and_restore, resume, repeat, start_from, evaluate_again, report),
    "spec.json": (open_and_restore, resume, start_from, evaluate_anew, report),
    "dataset.json": (open_and_restore, resume, evaluate_again, report, draw),
    "versions.json": (open_and_restore, resume, start_from, evaluate_anew),
    "DONE": (repeat, report),
    "metrics/train.jsonl": (resume,),
    "metrics/timings.jsonl": (resume,),
    f"evaluations/{UPDATES}/jax-{EPISODES}episodes-seed0.json": (evaluate_again, report, draw),
    **{
        f"checkpoints/{UPDATES}/{name}": (open_and_restore, resume, start_from, evaluate_anew)
        for name in ("metadata/metadata", "_CHECKPOINT_METADATA", "policy/_METADATA", "policy/_sharding", "state/_METADATA")
    },
}
OF_ONLINE = dict.fromkeys(("config.json", "spec.json", "dataset.json", "versions.json", "DONE"), (export_dataset,))
OF_SWEEP: dict[str, tuple[Program, ...]] = {
    "sweep.json": (report_sweep, resume_sweep),
    f"hidden_dim-8/part1/evaluations/200/jax-{EPISODES}episodes-seed0.json": (report_sweep, draw_sweep),
    "hidden_dim-8/part1/metrics/timings.jsonl": (report_sweep,),
    "hidden_dim-16/dataset.json": (report_sweep,),
    "hidden_dim-16/config.json": (report_sweep,),
}
WRITING = (resume, repeat, evaluate_again, evaluate_anew, draw, draw_sweep)
FILES = [
    *((0, name, programs) for name, programs in OF_WORKDIR.items()),
    *((1, name, programs) for name, programs in OF_ONLINE.items()),
    *((2, name, programs) for name, programs in OF_SWEEP.items()),
]
CASES = [(place, name, program) for place, name, programs in FILES for program in programs]


# ------------------------------------------------------------------------------------------------ doing it


class Fuzzer:
    """Damages a file, runs a program, notes what came out, and puts everything back.

    Attributes:
        tried, refused: by file and program.
        faults: what was neither done nor refused, by file, program, kind of error and place in the code; the first case of each.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.tried, self.refused = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        self.faults: dict[tuple[str, ...], str] = {}
        self.failed = Counter[tuple[str, str]]()
        self._before = self._contents()

    def try_one(self, case: tuple[int, str, Program], damages: list[tuple[int, str]]) -> None:
        place, name, program = case
        path = self.places[place] / name
        content = path.read_bytes()
        for at, kind in damages:
            content = mutated(content, at, kind)
        path.write_bytes(content)
        key = (f"{self.places._fields[place]}/{name}", program.__name__)
        self.tried[key] += 1
        try:
            program(self.places)
        except UserError as error:
            self.refused[key] += 1
            if not str(error).isprintable() and "\n  " not in str(error):
                self._note(key, damages, error)
        except Exception as error:
            self._note(key, damages, error)
        finally:
            path.write_bytes(self._before[path])
            if program in WRITING:
                self.put_back()

    def _note(self, key: tuple[str, str], damages: list[tuple[int, str]], error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        where = next((f"{frame.filename}:{frame.lineno}" for frame in reversed(frames) if "/diffrl/" in frame.filename), "?")
        self.failed[key] += 1
        said = f"{type(error).__name__}: {error}"[:300]
        self.faults.setdefault((*key, type(error).__name__, where), f"{damages}: {said!r}")

    def table(self) -> str:
        """Cases, refusals and faults of every file and program."""
        lines = [f"{'file':60} {'program':18} cases refused faults"]
        for key in sorted(self.tried):
            lines.append(f"{key[0]:60} {key[1]:18} {self.tried[key]:5} {self.refused[key]:7} {self.failed[key]:6}")
        return "\n".join([*lines, f"{sum(self.tried.values()):,} mutations, {sum(self.failed.values()):,} faults"])

    def assert_sound(self) -> None:
        assert not self.faults, "\n".join(f"{' '.join(key)}: {what}" for key, what in self.faults.items())

    def _contents(self) -> dict[Path, bytes]:
        """Of all files but arrays, which no program here writes."""
        everything = (path for place in self.places for path in place.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in everything if not {"d", "ocdbt.process_0"} & set(path.parts)}

    def put_back(self) -> None:
        now = self._contents()
        for path in now.keys() - self._before.keys():
            path.unlink()
        for path, content in self._before.items():
            if now.get(path) != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return make_places(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture
def fuzzer(untouched: Places) -> Iterator[Fuzzer]:
    with quick_episodes():
        yield Fuzzer(untouched)


@pytest.mark.slow
def test_untouched(fuzzer: Fuzzer) -> None:
    """The yardstick: without damage every program does its work."""
    for _, _, program in CASES:
        program(fuzzer.places)
        fuzzer.put_back()


DAMAGE = st.tuples(st.integers(0, 10_000), st.sampled_from(KINDS))


def fuzz(fuzzer: Fuzzer, mutations: int) -> None:
    @settings(max_examples=mutations, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(CASES), st.lists(DAMAGE, min_size=1, max_size=2))
    def damage(case: tuple[int, str, Program], damages: list[tuple[int, str]]) -> None:
        fuzzer.try_one(case, damages)

    damage()


def test_damaged_files(fuzzer: Fuzzer) -> None:
    fuzz(fuzzer, 100)
    fuzzer.assert_sound()


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_more_damaged_files(fuzzer: Fuzzer) -> None:
    fuzz(fuzzer, int(os.environ.get("DIFFRL_MUTATIONS", "5000")))
    print(fuzzer.table())
    fuzzer.assert_sound()

"""What is said of a file that does not fit: file, field, what was expected, what stood there, what to do; in one line."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from diffrl import records
from diffrl.records import Finite, Natural, RecordError, Width


@dataclasses.dataclass(frozen=True)
class Inner:
    width: Width
    low: Finite | None = None


@dataclasses.dataclass(frozen=True)
class Whole:
    step: Natural
    name: str
    parts: tuple[Inner, ...] = ()
    numbers: dict[Natural, Natural] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.step == 13:
            raise ValueError("step is unlucky")


REMEDY = "put a copy of it back"

MESSAGES = [
    ('{"name": "x"}', "lacks field step"),
    ('{"step": 1, "name": "x", "parts": [{}]}', "lacks field parts[0].width"),
    ('{"step": "1", "name": "x"}', "field step must be int, not '1'"),
    ('{"step": null, "name": "x"}', "field step must be int, not None"),
    ('{"step": true, "name": "x"}', "field step must be int, not True"),
    ('{"step": -1, "name": "x"}', "field step must be int >= 0, not -1"),
    ('{"step": 1.5, "name": "x"}', "field step must be int, not 1.5"),
    ('{"step": 13, "name": "x"}', "step is unlucky"),
    ('{"step": 1, "name": 2}', "field name must be str, not 2"),
    ('{"step": 1, "name": "x", "parts": [{"width": 1}, {"width": 0}]}', "field parts[1].width must be int >= 1, not 0"),
    ('{"step": 1, "name": "x", "parts": [{"width": 1, "low": 1e200}]}', "field parts[0].low must be"),
    ('{"step": 1, "name": "x", "stepp": 1}', "has a field 'stepp', which nothing of ours has, perhaps step"),
    ('{"step": 1, "name": "x", "parts": [{"width": 1, "high": 1}]}', "has a field 'parts.high'"),
    ("[]", "content must be object, not []"),
    ("null", "content must be object, not None"),
    ("", "is not JSON"),
    ('{"step": 1, "name"', "is not JSON"),
    ('{"step": NaN, "name": "x"}', "is not JSON"),
    ('{"step": 1, "name": "x"}}', "is not JSON"),
    ("\0" * 9, "is not JSON"),
    ('{"step": 1, "name": "\\ud800"}', "is not JSON"),
    ("[" * 100_000, "content must be object"),
    ('{"step": 1, "name": "x", "parts": ' + "[" * 100_000, "field parts[0] must be object"),
    ('{"step": %s, "name": "x"}' % ("9" * 5001), "field step"),
    ('{"step": 1, "name": "x", "parts": [{"width": 1, "low": 1e400}]}', ""),
    ('{"step": 1, "name": "%s", "parts": 3}' % ("y" * 10_000), "field parts must be array, not 3"),
    ('{"step": "%s", "name": "x"}' % ("y" * 10_000), "field step must be int, not 'yyy"),
]


@pytest.mark.parametrize(("text", "said"), MESSAGES, ids=range(len(MESSAGES)))
def test_what_is_said(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(RecordError) as error:
        records.read(path, Whole, REMEDY)
    message = str(error.value)
    assert message.startswith(str(path))
    assert said in message
    assert message.endswith(REMEDY)
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))


def test_what_is_no_text_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b'{"step": 1, "name": "\xff"}')
    with pytest.raises(RecordError, match="is not JSON"):
        records.read(path, Whole)
    path.unlink()
    with pytest.raises(RecordError, match="cannot be read: No such file"):
        records.read(path, Whole)
    path.mkdir()
    with pytest.raises(RecordError, match="cannot be read: is a directory"):
        records.read(path, Whole)


def test_a_file_of_any_size_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(RecordError, match="is larger than 67 MB"):
        records.read(path, Whole)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    value = Whole(2**63 - 1, 'é "quoted"\n\0', (Inner(1, -0.1), Inner(2)), {3: 4})
    records.write(tmp_path / "file.json", value)
    assert records.read(tmp_path / "file.json", Whole) == value
    assert records.parse(records.line(value), Whole, "a line") == value
    assert records.convert(records.plain(value), Whole, "values") == value


@pytest.mark.parametrize("values", [{"step": 1, "name": "\ud800"}, {"step": "x"}, [], None, {"step": 10**400, "name": "x"}])
def test_values_that_a_library_has_read(values: Any) -> None:
    with pytest.raises(RecordError, match=r"^the description"):
        records.convert(values, Whole, "the description", REMEDY)


def test_a_bad_line_is_named_and_passed_over(tmp_path: Path) -> None:
    """The last may be half written, of which nobody is told."""
    path, faults = tmp_path / "lines.jsonl", []
    good = [Inner(1), Inner(2)]
    path.write_bytes(records.line(good[0]) + b"{}\n\xff\n" + records.line(good[1]) + b'{"wid')
    assert list(records.lines(path, Inner, faults)) == good
    assert [re.sub(r" (lacks|is not).*", "", fault) for fault in faults] == [f"{path}, line 2", f"{path}, line 3"]
    assert all(fault.endswith("it is passed over") for fault in faults)
    with pytest.raises(RecordError, match="cannot be read"):
        list(records.lines(tmp_path / "missing", Inner, faults))


def test_foreign_json() -> None:
    assert records.foreign("[NaN]", "x") != [0.0]
    for text in ("{", "[" * 100_000, "9" * 5001, b"\xff"):
        with pytest.raises(RecordError, match=r"^x is not JSON"):
            records.foreign(text, "x")

"""JSON, read and written in one place: every file of ours is a dataclass, and what does not fit it is said in one line."""

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from diffrl import files
from diffrl.errors import UserError

LARGEST = 2**26  # bytes of a file or a line

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Width = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Finite = Annotated[float, msgspec.Meta(ge=-1e150, le=1e150)]  # with room for sums of squares
Kind = TypeVar("Kind")


class RecordError(UserError, ValueError):
    """A file of ours, or a text in one, is not what it should be; the message names file, field and what to do."""


def read(path: Path, kind: type[Kind], remedy: str = "") -> Kind:
    """A file's content as a dataclass (or a plain type), with every value of its declared type and within its range.

    Args:
        remedy: what the user can do where the file is damaged.

    Raises:
        RecordError: it is missing, cannot be opened, is too large, or its content does not fit.
    """
    return parse(content(path, remedy), kind, path, remedy)


def content(path: Path, remedy: str = "") -> bytes:
    """The bytes of a file that is small enough to be JSON.

    Raises:
        RecordError: it is missing, cannot be opened, or is too large.
    """
    try:
        with files.opened(path) as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise RecordError(_sentence(path, f"cannot be read: {error.strerror}", remedy)) from error
    if len(data) > LARGEST:
        raise RecordError(_sentence(path, f"is larger than {LARGEST / 1e6:.0f} MB", remedy))
    return data


def parse(data: bytes | str, kind: type[Kind], name: object, remedy: str = "") -> Kind:
    """JSON text as a dataclass or a plain type; `name` is what an error calls it.

    Raises:
        RecordError: it is no JSON, or does not fit.
    """
    try:
        value = msgspec.json.decode(data, type=kind)
        raw = msgspec.json.decode(data)
    except msgspec.ValidationError as error:
        raise RecordError(_sentence(name, _fault(_untyped(data), str(error)), remedy)) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise RecordError(_sentence(name, f"is not JSON: {error}", remedy)) from error
    _refuse_unknown(raw, value, name, remedy)
    return value


def convert(raw: Any, kind: type[Kind], name: object, remedy: str = "") -> Kind:
    """Plain values that a library has read, as a dataclass; see `parse`."""
    try:
        text = foreign_text(raw)
    except (ValueError, RecursionError) as error:
        raise RecordError(_sentence(name, f"is not JSON: {error}", remedy)) from error
    return parse(text, kind, name, remedy)


def plain(value: Any) -> Any:
    """A dataclass as dictionaries, lists, strings and numbers, as it would be read again without its type."""
    return msgspec.json.decode(msgspec.json.encode(value))


def write(path: Path, value: Any, root: Path | None = None) -> None:
    """Replace a JSON file in one step; see `files.write`."""
    files.write(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n", root)


def line(value: Any) -> bytes:
    """A value as one line of a file of JSON lines."""
    return msgspec.json.encode(value) + b"\n"


def append(path: Path, value: Any, root: Path | None = None) -> None:
    """Add one JSON line; see `files.extend`."""
    with files.extend(path, root) as file:
        file.write(line(value))


def foreign(data: bytes | str, name: object) -> Any:
    """JSON of another program, with the NaN and Infinity that Python writes.

    Raises:
        RecordError: it is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{name} is not JSON: {error}") from error


def foreign_text(value: Any) -> str:
    """The inverse of `foreign`."""
    return json.dumps(value)


def lines(path: Path, kind: type[Kind], faults: list[str]) -> Iterator[Kind]:
    """The values of a file of JSON lines. A line that is none is passed over and named in `faults`; the last may be half written.

    Raises:
        RecordError: the file cannot be opened.
    """
    try:
        file = files.opened(path)
    except OSError as error:
        raise RecordError(_sentence(path, f"cannot be read: {error.strerror}", "")) from error
    with file:
        for number, data in enumerate(iter(lambda: file.readline(LARGEST), b""), 1):
            if data.endswith(b"\n"):
                try:
                    yield parse(data, kind, f"{path}, line {number}")
                except RecordError as error:
                    faults.append(f"{error}; it is passed over")


def _untyped(data: bytes | str) -> Any:
    """JSON without its type; None where it is none, or a number in it is too large for any."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _sentence(name: object, fault: str, remedy: str) -> str:
    return f"{name} {fault}" + (f"; {remedy}" if remedy else "")


def _fault(raw: Any, message: str) -> str:
    """What msgspec says, with what stood there: "field `rows` must be `int`, there stands "x"."""
    said, _, path = message.partition(" - at `$")
    path = path.rstrip("`")
    field = f"field {path.lstrip('.')}" if path else "content"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", said):
        return f"lacks field {'.'.join(filter(None, [path.lstrip('.'), missing[1]]))}"
    if expected := re.fullmatch(r"Expected (.*), got (.*)", said):
        return f"{field} must be {expected[1].replace('`', '')}, not {_shown(raw, path, expected[2].strip('`'))}"
    expected = re.fullmatch(r"Expected (.*)", said)
    return f"{field} must be {expected[1].replace('`', '')}, not {_shown(raw, path, '')}" if expected else f"{field}: {said}"


def _shown(raw: Any, path: str, otherwise: str) -> str:
    """The value at a path such as `.runs[0].seed`; what msgspec calls it where the path does not lead there."""
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path):
        try:
            raw = raw[name or int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            return otherwise or "what stands there"
    return repr(raw) if len(repr(raw)) <= 60 else f"{repr(raw)[:60]}…"


def _refuse_unknown(raw: Any, value: Any, name: object, remedy: str) -> None:
    extra = next(_unknown(raw, msgspec.to_builtins(value), ""), None)
    if extra is not None:
        field, known = extra
        near = difflib.get_close_matches(field.rsplit(".", 1)[-1], known, n=1)
        hint = f", perhaps {near[0]}" if near else ""
        raise RecordError(_sentence(name, f"has a field {field[:100]!r}, which nothing of ours has{hint}", remedy))


def _unknown(raw: Any, known: Any, place: str) -> Iterator[tuple[str, list[str]]]:
    """Fields of `raw` that a dataclass did not take."""
    if isinstance(raw, dict) and isinstance(known, dict):
        for key, value in raw.items():
            field = f"{place}.{key}" if place else str(key)
            if key in known:
                yield from _unknown(value, known[key], field)
            elif not (key.isdigit() and int(key) in known):
                yield field, list(map(str, known))
    elif isinstance(raw, list) and isinstance(known, list | tuple):
        for one, other in zip(raw, known, strict=False):
            yield from _unknown(one, other, place)

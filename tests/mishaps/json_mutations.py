"""One damage to a JSON file at a time: a value replaced, a field gone, unknown or twice, bytes cut or foreign."""

import json
from typing import Any

_HERE = "@here@"  # stands for a text that is no JSON, or that Python's own writer would not write

# By name what takes a value's place, as text.
VALUES: dict[str, str] = {
    **{text: text for text in ("null", "true", "false", "[]", "{}", '""', '"x"', "[null]", '{"x": 1}', "NaN", "-Infinity")},
    **{text: text for text in ("0", "1", "2", "-1", "-0.0", "0.5", "1.5", "1e30", "-1e200", "1e308", "1e400", "1e-320")},
    **{f"2^{power}": str(2**power) for power in (31, 32, 63, 64, 70)},
    "-2^63": str(-(2**63)),
    "10^400": "1" + "0" * 400,
    "5,001 digits": "9" * 5001,
    "digits as text": '"12"',
    "deep lists": "[" * 20_000 + "]" * 20_000,
    "deep objects": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "lone surrogate": '"\\ud800"',
    "zero character": '"a\\u0000b"',
    "control characters": '"\\u001b[31m\\r\\n\\u202e"',
    "mark-up": '"[/bold] $\\\\frac | <script> ![x](http://x) =cmd()"',
    "way out": '"../../x"',
    "5,000 characters": '"' + "x" * 5000 + '"',
    "many numbers": json.dumps(list(range(1000))),
}
FIELDS = ("missing", "unknown", "twice", "emptied", "longer", "shorter")
BYTES = ("empty", "cut", "not UTF-8", "byte order mark", "one byte", "two texts", "zeros")
KINDS = (*VALUES, *FIELDS, *BYTES)


def mutated(content: bytes, place: int, kind: str) -> bytes:
    """The content with one damage.

    Args:
        content: JSON, or lines of it, of which one is damaged.
        place: counts the values, or the bytes, and begins anew where there are no more.
        kind: one of KINDS.
    """
    if kind in BYTES:
        return _other_bytes(content, place % max(len(content), 1), kind)
    try:
        value = json.loads(content)
    except ValueError:
        lines = content.splitlines(keepends=True)
        if len(lines) < 2:
            return content  # an earlier damage made it something else
        at = place % len(lines)
        try:
            json.loads(lines[at])
        except (RecursionError, ValueError):
            return content
        return b"".join([*lines[:at], mutated(lines[at], place // len(lines), kind).rstrip(b"\n") + b"\n", *lines[at + 1 :]])
    except RecursionError:
        return content
    root = [value]  # so that the whole has a place too
    places = list(_places(root))
    holder, key = places[place % len(places)]
    replacement = _changed(holder, key, kind)
    return json.dumps(root[0]).replace(f'"{_HERE}"', replacement).encode()


def _changed(holder: Any, key: Any, kind: str) -> str:
    """Change a value of a list or a dictionary in place; returns the text that _HERE stands for."""
    value = holder[key]
    if kind in VALUES:
        holder[key] = _HERE
        return VALUES[kind]
    if kind == "emptied":
        holder[key] = type(value)()
    elif kind == "longer" and isinstance(value, list | str):
        holder[key] = value + value
    elif kind == "shorter" and isinstance(value, list | str):
        holder[key] = value[:-1]
    elif kind == "unknown":
        (value if isinstance(value, dict) else holder if isinstance(holder, dict) else {})["surprise"] = 1
    elif kind == "missing" and isinstance(holder, dict):
        del holder[key]
    elif kind == "twice" and isinstance(holder, dict):
        holder[key] = _HERE
        return f"{json.dumps(value)}, {json.dumps(key)}: null"
    return ""


def _places(holder: Any) -> Any:
    """Every value, by what holds it and where."""
    for key, value in list(enumerate(holder)) if isinstance(holder, list) else list(holder.items()):
        yield holder, key
        if isinstance(value, list | dict):
            yield from _places(value)


def _other_bytes(content: bytes, at: int, kind: str) -> bytes:
    match kind:
        case "empty":
            return b""
        case "cut":
            return content[:at]
        case "not UTF-8":
            return content[:at] + b"\xff\xfe" + content[at:]
        case "byte order mark":
            return b"\xef\xbb\xbf" + content
        case "one byte":
            return content[:at] + bytes([content[at] ^ 1 << at % 8] if content else b"") + content[at + 1 :]
        case "two texts":
            return content + content
        case _:
            return b"\0" * len(content)

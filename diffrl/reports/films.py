"""The films that `launch/evaluate.py --render` left beside results, as parts of a page."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from diffrl import escape, files
from diffrl.evaluation import results
from diffrl.evaluation.results import Result

MEGABYTE = 1_000_000
LARGEST, ALTOGETHER = 8 * MEGABYTE, 32 * MEGABYTE  # of the films of a page, before base64 adds a third
# What a film's file begins with, at which byte: a file of that name from elsewhere may be anything.
KINDS = {".mp4": (b"ftyp", 4, "video/mp4"), ".webm": (b"\x1a\x45\xdf\xa3", 0, "video/webm"), ".gif": (b"GIF8", 0, "image/gif")}


class Film(NamedTuple):
    """An episode; `caption` says whose and which."""

    caption: str
    path: Path


def of(name: str, workdir: Path, result: Result) -> list[Film]:
    """What was filmed of an evaluation: the best, the median and the worst episode of all its runs."""
    path = results.path_of(workdir, result.step, result.settings)
    places = [(which, path.with_name(f"{path.stem}-{which}{suffix}")) for which in results.FILMED for suffix in KINDS]
    return [Film(f"{name}: {which} episode", place) for which, place in places if place.is_symlink() or place.exists()]


def to_html(films: Iterable[Film]) -> str:
    """A section with the films inside it, and a sentence for each that is left out; "" where there are none."""
    shown, said, total = [], [], 0
    for film in {film.path: film for film in films}.values():
        content = _read(film.path, ALTOGETHER - total)
        if isinstance(content, str):
            said.append(f"<li>{escape.html(f'{film.caption} is left out: {content}. It is {film.path}.')}</li>\n")
            continue
        total += len(content)
        kind = KINDS[film.path.suffix][2]
        source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        caption = escape.html(film.caption)
        video = f'<video controls loop muted playsinline src="{source}"></video>'
        picture = f'<img alt="{caption}" src="{source}">' if kind.startswith("image") else video
        shown.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>\n")
    if not shown and not said:
        return ""
    left_out = f"<ul>\n{''.join(said)}</ul>\n" if said else ""
    return f'<h2>Films</h2>\n<div class="films">\n{"".join(shown)}</div>\n{left_out}'


def _read(path: Path, room: int) -> bytes | str:
    """A film, or why it cannot be shown."""
    if path.is_symlink():
        return "its file is a link"
    try:
        with files.opened(path) as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        return f"its file cannot be read ({error.strerror})"
    mark, place, _ = KINDS[path.suffix]
    if content[place : place + len(mark)] != mark:
        return f"its file is no {path.suffix.removeprefix('.')}"
    if len(content) > LARGEST:
        return f"it takes {path.stat().st_size / MEGABYTE:.1f} MB, and a film here at most {LARGEST / MEGABYTE:.0f}"
    if len(content) > room:
        return f"the films of this page would take more than {ALTOGETHER / MEGABYTE:.0f} MB"
    return content

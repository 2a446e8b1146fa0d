"""Names and writes: inside their folder, whole or not at all, never through a link."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from diffrl import files, records
from diffrl.errors import UserError

VICTIM = b"of the user\n"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(VICTIM)
    return path


def extended(path: Path, root: Path) -> None:
    with files.extend(path, root) as file:
        file.write(b"more\n")


WAYS: dict[str, Callable[[Path, Path], object]] = {
    "write": lambda path, root: files.write(path, b"new", root),
    "extend": extended,
    "inside": files.inside,
    "records.write": lambda path, root: records.write(path, {}, root),
    "records.append": lambda path, root: records.append(path, {}, root),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_link_is_refused_by_name_and_its_target_untouched(way: str, tmp_path: Path, victim: Path) -> None:
    """In the file's place, or in that of a folder on the way; dangling ones too."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "file").symlink_to(victim)
    (root / "elsewhere").symlink_to(tmp_path)
    (root / "nowhere").symlink_to(tmp_path / "made")
    for path, link in (
        (root / "folder" / "file", root / "folder" / "file"),
        (root / "elsewhere" / "victim", root / "elsewhere"),
        (root / "nowhere", root / "nowhere"),
    ):
        with pytest.raises(OSError, match="will not write through the link") as error:
            WAYS[way](path, root)
        assert error.value.filename == str(link)
    assert victim.read_bytes() == VICTIM
    assert sorted(tmp_path.iterdir()) == [root, victim]
    # The remedy: what it points to in its place.
    (root / "folder" / "file").unlink()
    (root / "folder" / "file").write_bytes(VICTIM)
    WAYS[way](root / "folder" / "file", root)
    assert victim.read_bytes() == VICTIM


@pytest.mark.parametrize("way", WAYS)
def test_nothing_leads_out(way: str, tmp_path: Path, victim: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(OSError, match="leads out"):
        WAYS[way](tmp_path / "root" / ".." / "victim", tmp_path / "root")
    assert victim.read_bytes() == VICTIM


def test_the_root_itself_may_be_reached_through_links(tmp_path: Path) -> None:
    """It is the user who named it: /home and /tmp are links on many machines."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.write(tmp_path / "link" / "new" / "file", b"x", tmp_path / "link")
    assert (tmp_path / "real" / "new" / "file").read_bytes() == b"x"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, b"old")

    def fails(file: object) -> None:
        file.write(b"half")  # pyright: ignore[reportAttributeAccessIssue]
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.write(path, fails)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([i]) * 100_000 for i in (1, 2)]
    files.write(path, contents[0])
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            for content in contents:
                files.write(path, content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(path.read_bytes() in contents for _ in range(100))
    finally:
        ended.set()
        writer.join()


def test_only_files_are_opened(tmp_path: Path) -> None:
    """A pipe nobody writes to would hang its reader for ever, and a device has no end."""
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "pipe", "is not a file"), (Path("/dev/zero"), "is not a file"), (tmp_path, "is a directory")):
        with pytest.raises(OSError, match=said) as error:
            files.opened(path)
        assert error.value.filename == str(path)
    (tmp_path / "file").write_bytes(b"x")
    with files.opened(tmp_path / "file") as file:
        assert file.read() == b"x"


HOSTILE = (
    *(
        "../../x",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "",
        " ",
        "-rf",
        ".hidden",
        "a\nb",
        "a\0b",
        "~",
        "$HOME",
        "a" * 300,
        "é",
        "名前",
    ),
    *("\ud800", "[seed1]", "*", "a:b", "a|b", "<script>", "[/bold]"),
)


@pytest.mark.parametrize("text", HOSTILE, ids=repr)
def test_a_slug_is_a_name(text: str, tmp_path: Path) -> None:
    name = files.slug(text)
    assert 0 < len(name.encode()) <= 80
    assert name not in (".", "..")
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert name[0] not in ".-"
    (tmp_path / name).write_bytes(b"")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_different_texts_keep_different_names() -> None:
    assert len({files.slug(text) for text in HOSTILE}) == len(HOSTILE)
    assert files.slug("bc-v0.2_x") == "bc-v0.2_x"
    digest = hashlib.sha256(b"a b").hexdigest()[:8]
    assert files.slug("a b") == f"a-b-{digest}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("runs/bc[seed1]", "has a '['"),
        ("runs/a\\b", "has a '"),
        ("a\0b", "has a "),
        ("a\udcffb", "is no name in UTF-8"),
        ("a" * 256, "more than 255 bytes"),
        ("é" * 128, "more than 255 bytes"),
        ("~nobody-of-this-name/x", "write the whole path"),
    ],
)
def test_a_directory_that_cannot_be_written_to_is_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("[", r"\[")) as error:
        files.directory(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a b", "a\nb", "émile", "a*b", "a'b", 'a"b', "x" * 255, "a|b", "😀", "-x", "{a}", "a%20b"])
def test_directories_with_strange_names_work(name: str, tmp_path: Path) -> None:
    path = files.directory(tmp_path / name)
    assert path == tmp_path / name
    records.write(path / "file.json", {"x": 1})
    assert records.read(path / "file.json", dict) == {"x": 1}


def test_a_working_directory_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UserError, match="change to another one"):
        files.directory("w")
    monkeypatch.chdir(tmp_path)  # the remedy
    assert files.directory("w") == Path("w")


def test_a_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.directory("~/runs/bc") == tmp_path / "runs" / "bc"


def test_below() -> None:
    assert all(map(files.below, ("a", "a/b", "a/..b")))
    assert not any(map(files.below, ("", "/a", "..", "a/../..", "../a", "a\0b")))

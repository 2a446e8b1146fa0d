"""A real browser that tests drive: headless Chromium, by the W3C's WebDriver protocol, which chromedriver speaks over HTTP."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
FLAGS += ("disable-component-update", "disable-sync", "hide-scrollbars", "allow-file-access-from-files")


class Browser:
    """One window."""

    def __init__(self, address: str) -> None:
        self._session = address

    def _call(self, path: str, values: dict[str, Any]) -> Any:
        return _call(f"{self._session}/{path}", values)

    def open(self, page: Path, width: int = 1100, height: int = 900) -> None:
        """Show a file in a window of this size."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("url", {"url": page.as_uri()})

    def command(self, name: str, **values: Any) -> Any:
        """One of Chromium's own commands."""
        return self._call("goog/cdp/execute", {"cmd": name, "params": values})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self._call("execute/sync", {"script": script, "args": list(arguments)})

    def move(self, x: float, y: float) -> None:
        """The pointer to a place of the window."""
        moves = [{"type": "pointerMove", "x": round(x), "y": round(y), "duration": 0}]
        self._call("actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def press(self, *keys: str) -> None:
        """Keys, one after another, on what has the focus."""
        pressed = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": pressed}]})

    def complaints(self) -> list[str]:
        """What its console has said since the last call."""
        return [entry["message"] for entry in self._call("se/log", {"type": "browser"})]


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`."""
    assert CHROMIUM is not None
    assert DRIVER is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address)
        options = {"binary": CHROMIUM, "args": [*(f"--{flag}" for flag in FLAGS), f"--user-data-dir={folder / 'profile'}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = _call(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        try:
            yield Browser(f"{address}/session/{session}")
        finally:
            _call(f"{address}/session/{session}", None)
    finally:
        driver.terminate()
        driver.wait(20)


def _call(address: str, values: dict[str, Any] | None) -> Any:
    data, method = (None, "DELETE") if values is None else (json.dumps(values).encode(), "POST")
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(error.read().decode()) from None


def _wait_for(address: str) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{address}/status", timeout=5) as answer:
                if json.load(answer)["value"]["ready"]:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("chromedriver does not answer")

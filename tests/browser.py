"""A headless Chromium that is told what to do through two pipes (DevTools protocol)."""

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60.0  # seconds


class Page:
    """A tab: what it is told, and what happened in it (``events``)."""

    def __init__(self, to: int, back: int):
        self._to, self._back, self._rest, self._number = to, back, b"", 0
        self._session = ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)
            if answer.get("method") == "Page.javascriptDialogOpening":
                self._dismiss()

    def _dismiss(self) -> None:
        message = {"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": False}}
        os.write(self._to, json.dumps(message | {"sessionId": self._session}).encode() + b"\0")

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = os.read(self._back, 1 << 20)
            assert block, "the browser has ended"
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path) -> None:
        """Load a file and wait until it has been."""
        self.call("Page.navigate", url=path.absolute().as_uri())
        ends = time.monotonic() + PATIENCE
        while self.run("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < ends, "the page does not load"
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """One key: Tab, Enter, ArrowDown or a letter."""
        codes = {"Tab": 9, "Enter": 13, "ArrowDown": 40}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        common = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def look(self, width: int, dark: bool, height: int = 900) -> None:
        """The size of the window, in CSS pixels, and the colors that the user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def happened(self, method: str) -> list[dict[str, Any]]:
        """Parameters of the events of this name."""
        return [event["params"] for event in self.events if event.get("method") == method]


@contextmanager
def chromium() -> Iterator[Page]:
    """A page of a browser of its own; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    (to_read, to_write), (back_read, back_write) = _pipe(), _pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [
            *[program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"],
            *["--remote-debugging-pipe", "--no-first-run", "--disable-dev-shm-usage"],
            *["--disable-background-networking", "--disable-extensions", f"--user-data-dir={home}"],
        ]
        process = subprocess.Popen(
            # The browser listens at 3 and answers at 4.
            ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{back_write}', "bash", *command],
            pass_fds=(to_read, back_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(back_write)
        try:
            yield Page(to_write, back_read)
        finally:
            process.terminate()
            process.wait(20)
            os.close(to_write)
            os.close(back_read)


def _pipe() -> tuple[int, int]:
    """A pipe whose numbers are none of those that the browser's ends get."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]

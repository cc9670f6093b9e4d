"""Pages as a test reads them: parsed, or shown by a headless Chromium, which needs no package and no port."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


VOID = {"meta", "link", "wbr", "br"}


class Page(HTMLParser):
    """What a page holds. It raises an error where tags are not closed in order.

    Attributes:
        text: all text outside of style.
        tags: each tag with its attributes.
        tables: the rows of each table by its caption; a cell is its text, or the value of the figure in it.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.text, self.tags, self.tables = "", [], {}
        self._open, self._caption, self._rows = [], "", []
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._caption, self._rows = "", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "data":
            self._rows and self._rows[-1].append(float(attributes["value"]))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"line {self.getpos()[0]}: </{tag}>"
        if tag == "table":
            self.tables[self._caption] = self._rows
            self._rows = []

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.text += data
        if "caption" in self._open:
            self._caption += data
        elif self._rows and self._rows[-1] and ("td" in self._open or "th" in self._open):
            last = len(self._rows[-1]) - 1 if isinstance(self._rows[-1][-1], str) else len(self._rows[-1]) - 2
            self._rows[-1][last] += data

    def named(self, tag: str) -> list[dict[str, str]]:
        """The attributes of each such tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    def figures(self, caption: str) -> list[list[float]]:
        """The figures in each row of a table that has some."""
        rows = [[cell for cell in row if isinstance(cell, float)] for row in self.tables[caption]]
        return [row for row in rows if row]


class Browser:
    """One page of a browser. It is a context manager.

    Attributes:
        errors: what the pages have reported: messages of the console, exceptions, and requests over the network.
    """

    def __init__(self, profile: Path):
        # Chromium reads commands from descriptor 3 and writes answers to descriptor 4, each with a NUL at its end.
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()

        def connect() -> None:
            above = fcntl.fcntl(answers, fcntl.F_DUPFD, 5)  # since 3 may be in the way
            os.dup2(commands, 3)
            os.dup2(above, 4)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        flags += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [str(CHROMIUM), *flags],
            preexec_fn=connect,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in (commands, answers):
            os.close(descriptor)
        self._sent, self._buffer, self.errors, self._events = 0, b"", [], set()
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._from, 1 << 20)
            assert piece, "the browser has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol, and return its result."""
        self._sent += 1
        command = {"id": self._sent, "method": method, "params": parameters}
        command |= {"sessionId": self._session} if self._session else {}
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == self._sent:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, content = message.get("method", ""), message.get("params", {})
        self._events.add(method)
        url = content.get("request", {}).get("url", "file:")
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.errors.append(content)
        elif method == "Network.requestWillBeSent" and not url.startswith(("file:", "data:")):
            self.errors.append(url)

    def open(self, path: Path, width: int, dark: bool = False) -> None:
        """Show a file in a window of this width."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._note(self._read())

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

"""A real Chromium, driven over the DevTools protocol through a pipe; and a ledger's page for it to look at.

Where there is no Chromium the tests are skipped on a developer's machine and fail in CI.
`COMITY_TEST_CHROMIUM` names one that is not found by itself.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI

from consent.ledger import Ledger
from consent.notes import VerifierKey
from consent.people import People
from consent.routes import people as routes
from consent.sql import metadata
from privacy.keys import KeyRing
from privacy.signing import SigningKey

_SECONDS = 60
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Chromium:
    """One headless browser process. Messages are JSON ended by NUL on two inherited descriptors (3 and 4)."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        flags = [
            "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--mute-audio",
        ]  # fmt: skip
        quiet = os.open(os.devnull, os.O_RDWR)
        wiring = [
            (os.POSIX_SPAWN_DUP2, quiet, 0), (os.POSIX_SPAWN_DUP2, quiet, 1), (os.POSIX_SPAWN_DUP2, quiet, 2),
            (os.POSIX_SPAWN_DUP2, theirs_in, 13), (os.POSIX_SPAWN_DUP2, theirs_out, 14),
            (os.POSIX_SPAWN_DUP2, 13, 3), (os.POSIX_SPAWN_DUP2, 14, 4),
        ]  # fmt: skip
        self._pid = os.posix_spawn(program, [program, *flags], dict(os.environ), file_actions=wiring)
        for fd in (theirs_in, theirs_out, quiet):
            os.close(fd)
        self._number = 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One command and its result; events that come meanwhile are kept in `events`."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]  # type: ignore[no-any-return]
            self.events.append(found)

    def wait(self, method: str, session: str) -> dict[str, Any]:
        """The next event of this name in a session, taken out of those kept."""
        while True:
            for place, event in enumerate(self.events):
                if event.get("method") == method and event.get("sessionId") == session:
                    return self.events.pop(place)["params"]  # type: ignore[no-any-return]
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        ends = time.monotonic() + _SECONDS
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], max(0.0, ends - time.monotonic()))[0], "no answer"
            piece = os.read(self._in, 1 << 20)
            assert piece, "the browser has gone"
            self._rest += piece
        whole, _, self._rest = self._rest.partition(b"\0")
        return json.loads(whole)  # type: ignore[no-any-return]

    def close(self) -> None:
        try:
            self.call("Browser.close")
        except (AssertionError, OSError):
            os.kill(self._pid, signal.SIGKILL)
        ends = time.monotonic() + 20
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > ends:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.05)
        os.close(self._in)
        os.close(self._out)


class Tab:
    """One page, without scripts unless asked for, with what it logged and asked the network for."""

    def __init__(self, browser: Chromium, *, width: int = 900, headers: dict[str, str] | None = None) -> None:
        self._browser = browser
        context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "DOM", "Log", "Network", "Runtime", "Accessibility"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setScriptExecutionDisabled", value=True)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=1200, deviceScaleFactor=1, mobile=False
        )
        if headers:
            self.call("Network.setExtraHTTPHeaders", headers=headers)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.loaded()

    def loaded(self) -> None:
        self._browser.wait("Page.loadEventFired", self._session)

    def html(self) -> str:
        root = self.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        return str(self.call("DOM.getOuterHTML", nodeId=root)["outerHTML"])

    def click(self, selector: str) -> None:
        """A real mouse click in the middle of what `selector` finds."""
        root = self.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        assert node, f"nothing is {selector}"
        self.call("DOM.scrollIntoViewIfNeeded", nodeId=node)
        x1, y1, _, _, x2, y2, *_ = self.call("DOM.getBoxModel", nodeId=node)["model"]["border"]
        where = {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **where)

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)

    def controls(self) -> list[dict[str, str]]:
        """What a screen reader is told of everything that can be operated: role, name, description."""
        found = []
        for node in self.call("Accessibility.getFullAXTree")["nodes"]:
            role = node.get("role", {}).get("value", "")
            if role in ("radio", "button", "link", "radiogroup", "heading") and not node.get("ignored"):
                name = node.get("name", {}).get("value", "")
                about = node.get("description", {}).get("value", "")
                found.append({"role": role, "name": name, "description": about})
        return found

    def size(self) -> tuple[int, int]:
        """Width and height of what the page lays out, in CSS pixels."""
        found = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return round(found["width"]), round(found["height"])

    def picture(self) -> bytes:
        width, height = self.size()
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        return base64.b64decode(
            self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        )

    def _events(self, method: str) -> list[dict[str, Any]]:
        self.call("DOM.getDocument", depth=0)  # whatever came before has been read by then
        mine = [e for e in self._browser.events if e.get("sessionId") == self._session]
        return [e["params"] for e in mine if e["method"] == method]

    @property
    def complaints(self) -> list[str]:
        """What the browser logged: blocked styles, refused loads, broken markup."""
        return [event["entry"]["text"] for event in self._events("Log.entryAdded")]

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [event["request"] for event in self._events("Network.requestWillBeSent")]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    given = os.environ.get("COMITY_TEST_CHROMIUM")
    program = given or next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        message = "no Chromium: install one or set COMITY_TEST_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    profile = Path(tempfile.mkdtemp(prefix="comity-chromium-"))
    browser = Chromium(program, profile)
    yield browser
    browser.close()
    shutil.rmtree(profile, ignore_errors=True)


class Guards:
    """Nobody but people with links comes to these pages."""

    def role(self, *_roles: str) -> Callable[..., str]:
        return lambda: "officer"

    def partner(self) -> Callable[..., str]:
        return lambda: "partner"


class Site:
    """A ledger with one partner, and its public pages on a loopback port."""

    def __init__(self, folder: Path) -> None:
        self._engine = sa.create_engine(f"sqlite:///{folder}/comity.db")
        metadata.create_all(self._engine)
        key = SigningKey.generate()
        self.ledger = Ledger.open(
            self._engine,
            keyring=KeyRing.from_root(b"\x01" * 32),
            signing_key=key,
            origin="shop.example/consent",
            directory=folder / "log",
        )
        bank = VerifierKey("bank.example/consent", SigningKey.generate().public.bytes32)
        self.ledger.join_partner("bank", bank.to_text())
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.people = People.of(self.ledger, key, owner="Northwind Trading", base_url=self.url)
        app = FastAPI()
        app.include_router(routes.create_router(self.people, Guards()))
        quiet = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
        self._server = uvicorn.Server(quiet)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=30)
        self._engine.dispose()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def tab(chromium: Chromium) -> Callable[..., Tab]:
    """Opens tabs, each in a browser context of its own."""
    return lambda **more: Tab(chromium, **more)

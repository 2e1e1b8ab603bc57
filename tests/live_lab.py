"""A whole live lab on free loopback ports, in a thread, for tests that come to it from outside."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controls.catalogue import SecurityLevels
from lab.live.bridge import Attachment
from lab.live.engine import Engine
from lab.live.serve import LiveLab, Place
from lab.live.session import Setup
from scenarios.experiment import Experiment


@dataclass
class Lab:
    """A running lab."""

    place: Place
    engine: Engine
    folder: Path | None
    live: LiveLab

    @property
    def port(self) -> int:
        return int(self.place.url.rpartition(":")[2])


@contextmanager
def lab(
    *attach: str,
    level: int = 0,
    folder: Path | None = None,
    speed: float = 1.0,
    ahead: float = 35.0,
    paused: bool = False,
    pcap: Path | None = None,
) -> Iterator[Lab]:
    """A lab of the reference site that has run for ``ahead`` virtual seconds already."""
    setup = Setup(
        Experiment.at_level("water", SecurityLevels.uniform(level), None, 1, 86400.0),
        tuple(Attachment.parse(one) for one in attach),
        pcap,
    )
    ready, found, stop = threading.Event(), list[Any](), list[Any]()

    async def run() -> None:
        live = LiveLab(setup, folder, speed=speed, paused=paused)
        live.engine.session.advance(ahead)
        live.engine._restart()
        try:
            found.append(Lab(await live.open(), live.engine, folder, live))
            stop.append(asyncio.get_running_loop())
            ready.set()
            await live.wait()
        finally:
            await live.close()

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            found.append(error)
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=main, name="test lab")
    thread.start()
    ready.wait(60)
    try:
        if not found or isinstance(found[0], BaseException):
            raise AssertionError(f"no lab: {found}")
        yield found[0]
    finally:
        if stop:
            stop[0].call_soon_threadsafe(found[0].live.end)
        thread.join(60)
        assert not thread.is_alive()


class Browser:
    """Somebody with a token: keeps the cookie and the page's token, as a browser does."""

    def __init__(self, where: Lab, token: str | None = None) -> None:
        self.where = where
        self.cookie = ""
        self.csrf = ""
        if token is not None:
            status, headers, _ = self.ask(
                "POST", "/login", f"token={token}".encode(), kind="application/x-www-form-urlencoded"
            )
            assert status == 303, status
            self.cookie = headers["set-cookie"].partition(";")[0]
            home = self.ask("GET", "/")[1]["location"]
            page = self.ask("GET", home)[2].decode()
            self.csrf = page.partition('name="lab-token" content="')[2].partition('"')[0]

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        kind: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.where.port, timeout=60)
        try:
            sent = {"content-type": kind, **({"cookie": self.cookie} if self.cookie else {})}
            connection.request(method, path, body, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def order(self, path: str, **what: Any) -> dict[str, Any]:
        """What a page's button does."""
        answer = self.ask("POST", path, json.dumps(what).encode(), headers={"x-lab-token": self.csrf})[2]
        found = json.loads(answer)
        assert isinstance(found, dict)
        return found

    def get(self, path: str) -> Any:
        status, _, body = self.ask("GET", path)
        assert status == 200, (status, body)
        return json.loads(body)

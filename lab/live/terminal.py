"""A live lab in a terminal, for who has no browser: plant, alarms, a trend, and commands by the line.

It shows what the station's page shows and takes what its buttons give, from the same views and as the same inputs, so
that a run which was worked here is brought back like any other.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lab.live import views
from lab.live.engine import Engine
from testbed.errors import OtlabError

HELP: Final = (
    "seat | leave | login USER PASSWORD [CODE] | logout | set TAG VALUE | ack [TAG:LEVEL]"
    " | trend TAG | pause | go | speed N | quit; Enter alone shows the plant again"
)
_BARS: Final = "▁▂▃▄▅▆▇█"
#: Seconds (real) that an order waits for its answer.
_PATIENCE: Final = 30.0
#: Points of a trend, and seconds (virtual) that it goes back.
_POINTS: Final = 60
_BACK: Final = 600


def sparkline(values: Sequence[float | None]) -> str:
    """Values as bars from the lowest to the highest; a gap where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = high - low or 1.0
    return "".join(
        " " if value is None else _BARS[round((value - low) / span * (len(_BARS) - 1))] for value in values
    )


def screen(
    seen: Mapping[str, Any], about: Mapping[str, Any], trend: Sequence[float | None], tag: str
) -> Group:
    """One picture of a station: ``seen`` is its view, ``about`` its description, ``trend`` values of ``tag``."""
    who = seen["user"]["name"] if seen["user"] is not None else "nobody"
    head = Text(f"{about['title']}  {seen['civil']}  {seen['state']} ×{seen['speed']:g}  {seen['sl']}")
    head.append(f"  {who}{' (locked)' if seen['locked'] else ''}{', in the seat' if seen['seat'] else ''}")
    plant = Table("tag", "value", "unit", box=None, pad_edge=False)
    for name, one in about["tags"].items():
        value = seen["values"].get(name)
        if one["kind"] == "measurement" or value is None:
            stale = one["plc"] in seen["stale"] or value is None
            shown = "–" if value is None else f"{value:.{one['digits']}f}"
            plant.add_row(Text(name), Text(shown, style="dim" if stale else ""), Text(one["unit"]))
    alarms = Table("alarm", "state", "priority", "value", title="Alarms", title_justify="left", box=None)
    for one in seen["alarms"]:
        value = "" if one["value"] is None else f"{one['value']:g}"
        alarms.add_row(Text(one["key"]), Text(one["state"]), Text(str(one["priority"])), Text(value))
    parts: list[Any] = [head, plant, alarms if seen["alarms"] else Text("no alarms")]
    if tag:
        parts.append(Text(f"{tag}  {sparkline(trend)}  (last {_BACK // 60} min)"))
    return Group(*parts)


class Terminal:
    """The station ``hmi`` of a running engine; ``obey`` one line after another until it returns False."""

    def __init__(self, engine: Engine, console: Console, hmi: str | None = None) -> None:
        self.engine, self.console = engine, console
        names = engine.ask(lambda session: tuple(session.world.hmis)).result(_PATIENCE)
        if hmi is None and not names:
            raise OtlabError("the site has no operator's station to show")
        self.hmi: str = hmi if hmi is not None else names[0]
        self.about = engine.ask(lambda session: views.described(session, self.hmi)).result(_PATIENCE)
        self.tag: str = next(iter(self.about["trends"]), "")

    def show(self) -> None:
        """Print the station as it is."""
        seen = json.loads(self.engine.published.get(self.hmi, b"null"))
        if seen is None:
            self.console.print("not yet")
            return
        trend = self.engine.ask(self._trend).result(_PATIENCE)
        self.console.print(screen(seen, self.about, trend, self.tag))

    def _trend(self, session: Any) -> list[float | None]:
        values = list(session.history[self.hmi].get(self.tag, ()))[-_BACK:]
        step = max(1, len(values) // _POINTS)
        return [None if value != value else value for value in values[::step]]

    def obey(self, line: str) -> bool:
        """Carry out a line; False when it was the last. What is wrong with it is printed."""
        try:
            words = shlex.split(line)
            if words == ["quit"]:
                return False
            self._do(words)
        except (OtlabError, ValueError) as error:
            self.console.print(Text(str(error)))
        return True

    def _do(self, words: list[str]) -> None:
        match words:
            case []:
                self.show()
            case ["seat"] | ["leave"]:
                self._put("seat", taken=words == ["seat"])
            case ["login", user, password, *code] if len(code) <= 1:
                self._put("log_in", user=user, password=password, code=code[0] if code else None)
            case ["logout"]:
                self._put("log_out")
            case ["set", tag, value]:
                self._put("write", tag=tag, value=float(value))
            case ["ack", *key] if len(key) <= 1:
                self._put("acknowledge", alarm=key[0] if key else None)
            case ["trend", tag]:
                if tag not in self.about["tags"]:
                    raise OtlabError(f"there is no tag {tag!r}")
                self.tag = tag
                self.show()
            case ["pause"] | ["go"]:
                self.engine.pause(words == ["pause"]).result(_PATIENCE)
            case ["speed", number]:
                self.engine.set_speed(float(number)).result(_PATIENCE)
            case _:
                self.console.print(HELP, markup=False)

    def _put(self, kind: str, **data: Any) -> None:
        answer = self.engine.put(kind, hmi=self.hmi, **data).result(_PATIENCE)
        self.console.print(Text("done" if answer.get("done") else str(answer.get("refused"))))


def attend(engine: Engine) -> None:
    """Read lines from standard input and obey them until they end or one says so."""
    terminal = Terminal(engine, Console())
    terminal.console.print(HELP, markup=False)
    for line in sys.stdin:
        if engine.over or not terminal.obey(line.strip()):
            break

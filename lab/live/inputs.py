"""Everything that reaches a live run from outside: what it is, and when (virtual s).

A run depends on its experiment and on these, and on nothing else, so that the inputs alone bring it back. They come
from the network of this machine and from files, and are checked here once for both.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints, TypeAdapter

from testbed.document import Document
from testbed.site import Name, TagName

#: Most bytes of one piece of an outside stream; longer ones are cut.
PIECE = 65_536
Typed = Annotated[str, StringConstraints(max_length=256)]
Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})*$", max_length=2 * PIECE)]
Key = Annotated[str, StringConstraints(max_length=128)]


class _Input(Document):
    """``t`` is the virtual second at which it reaches the run."""

    t: Annotated[float, Field(ge=0)]


class Seat(_Input):
    """Somebody takes the operator's chair at a station, or gives it back; meanwhile the simulated one is away."""

    kind: Literal["seat"] = "seat"
    hmi: Name
    taken: bool


class LogIn(_Input):
    """A log-in at the screen of a station."""

    kind: Literal["log_in"] = "log_in"
    hmi: Name
    user: Typed
    password: Typed
    code: Typed | None = None


class LogOut(_Input):
    """The session at the screen is closed."""

    kind: Literal["log_out"] = "log_out"
    hmi: Name


class Touch(_Input):
    """Somebody uses the screen without writing anything: the session does not lock for being idle."""

    kind: Literal["touch"] = "touch"
    hmi: Name


class Write(_Input):
    """A setpoint or command from the screen, in the tag's unit."""

    kind: Literal["write"] = "write"
    hmi: Name
    tag: TagName
    value: float


class Acknowledge(_Input):
    """Alarms are acknowledged; without ``alarm``, all that are shown."""

    kind: Literal["acknowledge"] = "acknowledge"
    hmi: Name
    alarm: Key | None = None


class Shelve(_Input):
    """An alarm is taken off the list for ``seconds``; 0 puts it back."""

    kind: Literal["shelve"] = "shelve"
    hmi: Name
    alarm: Key
    seconds: Annotated[float, Field(ge=0, le=8 * 3600)]


class Launch(_Input):
    """A shipped scenario begins, by the attacker it names or by ``attacker``."""

    kind: Literal["launch"] = "launch"
    scenario: Name
    attacker: Name | None = None


class Fault(_Input):
    """Something breaks: one step of a scenario that needs no attacker."""

    kind: Literal["fault"] = "fault"
    step: dict[Key, Any]


class Stop(_Input):
    """What was launched under a number ends; what it has done stays done."""

    kind: Literal["stop"] = "stop"
    launch: Annotated[int, Field(ge=0)]


class Opened(_Input):
    """An outside tool has connected to an attachment point; ``connection`` is its number."""

    kind: Literal["opened"] = "opened"
    attachment: Annotated[int, Field(ge=0)]
    connection: Annotated[int, Field(ge=0)]


class Bytes(_Input):
    """What an outside tool has sent."""

    kind: Literal["bytes"] = "bytes"
    connection: Annotated[int, Field(ge=0)]
    hex: Hex


class Ended(_Input):
    """An outside tool will send nothing more."""

    kind: Literal["ended"] = "ended"
    connection: Annotated[int, Field(ge=0)]


class Lost(_Input):
    """An outside tool's connection is gone."""

    kind: Literal["lost"] = "lost"
    connection: Annotated[int, Field(ge=0)]


Input: TypeAlias = Annotated[
    Seat
    | LogIn
    | LogOut
    | Touch
    | Write
    | Acknowledge
    | Shelve
    | Launch
    | Fault
    | Stop
    | Opened
    | Bytes
    | Ended
    | Lost,
    Field(discriminator="kind"),
]
INPUT: TypeAdapter[Input] = TypeAdapter(Input)

"""A scenario as its file describes it: who attacks from where, and what is done when.

Attack content is data, with the ATT&CK for ICS technique of each step; what a step does on the wire is in
``scenarios.actions``. ATT&CK is a registered trademark of The MITRE Corporation; see NOTICE.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from testbed.document import Document, Route, load
from testbed.errors import UnknownNameError
from testbed.site import Name, TagName

Technique = Annotated[str, StringConstraints(pattern=r"^T\d{4}$")]
Seconds = Annotated[float, Field(gt=0)]


class _Step(Document):
    """What every step says: technique, and when it starts, in seconds after the step before it ended."""

    technique: Technique
    after: Annotated[float, Field(ge=0)] = 0.0


class ModbusWrite(_Step):
    """Write tags of a PLC (engineering units) by Modbus, again every ``every`` s for ``lasting`` s."""

    action: Literal["modbus_write"]
    plc: Name
    values: dict[TagName, float]
    every: Seconds = 10.0
    lasting: Annotated[float, Field(ge=0)] = 0.0


class OpcUaWrite(_Step):
    """Write variables of an OPC UA server, after logging in with the first credentials that work.

    ``credentials`` are tried in order: ``anonymous``, ``default`` (user names as passwords, as shipped), ``guess``
    (a list of common passwords) and ``stolen`` (the operator's own password, without a token).
    """

    action: Literal["opcua_write"]
    server: Name
    credentials: tuple[Literal["anonymous", "default", "guess", "stolen"], ...] = ("anonymous",)
    values: dict[TagName, float]
    every: Seconds = 10.0
    lasting: Annotated[float, Field(ge=0)] = 0.0


class Spoof(_Step):
    """Interpose between two assets by ARP and put ``values`` (engineering units) into Modbus answers of ``plc``.

    ``fix_checksum`` also recomputes the plain checksum that a PLC may publish: the difference between somebody who
    knows the device and somebody who does not.
    """

    action: Literal["spoof"]
    reader: Name
    plc: Name
    values: dict[TagName, float]
    lasting: Seconds
    fix_checksum: bool = False


class Flood(_Step):
    """Send Modbus reads to a PLC over ``connections`` connections, ``rate`` requests a second in all."""

    action: Literal["flood"]
    plc: Name
    rate: Seconds
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    lasting: Seconds


Step = Annotated[ModbusWrite | OpcUaWrite | Spoof | Flood, Field(discriminator="action")]


class Attacker(Document):
    """A host of the attacker's own, plugged into ``zone``, or the compromised asset ``at``."""

    zone: Name | None = None
    at: Name | None = None


class Scenario(Document):
    """One attack; ``start`` is the virtual second of its first action."""

    name: Name
    title: str
    summary: str
    start: Seconds = 300.0
    attacker: Attacker
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]

    def problems(self) -> Iterator[tuple[Route, str]]:
        if (self.attacker.zone is None) == (self.attacker.at is None):
            yield (
                ("attacker",),
                "give either the zone that the attacker's own host is in, or the asset it is at",
            )


def scenario_names() -> tuple[str, ...]:
    """The scenarios that are shipped, by name."""
    return tuple(sorted(path.stem for path in _library().glob("*.yaml")))


def load_scenario(name_or_path: str | Path) -> Scenario:
    """Load a shipped scenario by name or one from a file.

    Raises UnknownNameError for a name that is neither, DocumentError with every mistake in the file.
    """
    text = str(name_or_path)
    if text in scenario_names():
        return load(_library() / f"{text}.yaml", Scenario)
    path = Path(name_or_path)
    if not path.suffix and not path.exists():
        raise UnknownNameError("scenario", text, scenario_names())
    return load(path, Scenario)


def _library() -> Path:
    return Path(str(files("scenarios"))) / "library"

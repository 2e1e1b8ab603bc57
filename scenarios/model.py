"""A scenario as its file describes it: who attacks from where, and what is done when.

Attack content is data, with the ATT&CK for ICS technique of each step; what a step does on the wire is in
``scenarios.steps``. ATT&CK is a registered trademark of The MITRE Corporation; see NOTICE.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from scenarios.attack import Fact, Seconds
from scenarios.attackers import ADVERSARIES
from scenarios.goals import Goal
from scenarios.steps.accounts import (
    AuthServerFails,
    EnumerateAccounts,
    FloodAuthServer,
    ForgeAccept,
    GuessPasswords,
    LeakedLogin,
    PersonLeaves,
    TerminalCommand,
)
from scenarios.steps.audit import (
    AuditNoise,
    EraseRecords,
    FalseTime,
    ForgeMessages,
    Investigate,
    LogFails,
    PlantRecords,
)
from scenarios.steps.boundary import FloodNetwork, HandshakeStorm, SwitchFirewall, VlanHop
from scenarios.steps.breakdowns import ActuatorFails, SensorFails
from scenarios.steps.cables import ActuatorAttack
from scenarios.steps.commands import ModbusWrite, OpcUaWrite
from scenarios.steps.discovery import ListConnections, LookAtController, Sweep
from scenarios.steps.emergencies import LoopFails
from scenarios.steps.faults import (
    CablingLoop,
    DisableControl,
    FirewallFails,
    IslandMode,
    MaintenanceWindow,
    NetworkOutage,
    RestartStation,
)
from scenarios.steps.interception import BlockMessages, RecordAndLoop
from scenarios.steps.keys import (
    Impersonate,
    ReadDisk,
    ReportLost,
    RetireDevice,
    StealProgram,
    StealSecrets,
)
from scenarios.steps.mail import MailPrograms, ReadMail, SendMail
from scenarios.steps.media import (
    BringFiles,
    CarryMedia,
    DockLaptop,
    LoadLogic,
    OpenDocument,
    PlantFile,
    VendorPublishes,
)
from scenarios.steps.outside import Beacon
from scenarios.steps.people import (
    LeaveStation,
    LeaveToken,
    OperatorTask,
    StealEnvelope,
    StuckSwitch,
    WalkUp,
)
from scenarios.steps.process import SensorAttack
from scenarios.steps.recovery import (
    Advisory,
    BackupDecays,
    ChangeLogic,
    CommandSettings,
    ForceListenOnly,
    PowerFails,
    Recover,
    SettingsDrift,
    StationFails,
    StopController,
    WipeLogic,
)
from scenarios.steps.remote import RemoteMaintenance, RemoteSession, TakeOverSession, WatchScreen
from scenarios.steps.sessions import (
    Eavesdrop,
    OpcUaRead,
    PlantCookie,
    ProvokeError,
    ReadReports,
    ReadValues,
    ScrapePages,
    TakeCookie,
    UseSession,
)
from scenarios.steps.wire import Flood, Spoof
from scenarios.steps.wireless import (
    CrackHandshake,
    JoinWireless,
    OperatorRound,
    PlantAccessPoint,
    SniffAir,
)
from scenarios.targets import Target, filler
from scenarios.techniques import VERSION, techniques
from testbed.document import Document, Filler, Route, load
from testbed.errors import UnknownNameError
from testbed.site import Name, Site, Text, load_site

AnyStep: TypeAlias = Annotated[
    ModbusWrite
    | Sweep
    | LookAtController
    | ListConnections
    | SensorFails
    | SensorAttack
    | ActuatorAttack
    | ActuatorFails
    | BlockMessages
    | RecordAndLoop
    | Beacon
    | Impersonate
    | ReadDisk
    | ReportLost
    | RetireDevice
    | StealProgram
    | StealSecrets
    | Eavesdrop
    | OpcUaRead
    | PlantCookie
    | ProvokeError
    | ReadReports
    | ReadValues
    | ScrapePages
    | TakeCookie
    | UseSession
    | OpcUaWrite
    | FloodNetwork
    | HandshakeStorm
    | SwitchFirewall
    | VlanHop
    | CablingLoop
    | DisableControl
    | FirewallFails
    | LoopFails
    | IslandMode
    | MaintenanceWindow
    | NetworkOutage
    | RestartStation
    | AuditNoise
    | EraseRecords
    | PlantRecords
    | ForgeMessages
    | FalseTime
    | LogFails
    | Investigate
    | CarryMedia
    | BringFiles
    | DockLaptop
    | VendorPublishes
    | PlantFile
    | OpenDocument
    | LoadLogic
    | SendMail
    | ReadMail
    | MailPrograms
    | TerminalCommand
    | GuessPasswords
    | EnumerateAccounts
    | LeakedLogin
    | PersonLeaves
    | AuthServerFails
    | FloodAuthServer
    | ForgeAccept
    | Spoof
    | Flood
    | JoinWireless
    | SniffAir
    | CrackHandshake
    | PlantAccessPoint
    | OperatorRound
    | RemoteMaintenance
    | RemoteSession
    | WatchScreen
    | TakeOverSession
    | LeaveStation
    | LeaveToken
    | OperatorTask
    | StuckSwitch
    | WalkUp
    | StealEnvelope
    | Advisory
    | BackupDecays
    | ChangeLogic
    | CommandSettings
    | ForceListenOnly
    | PowerFails
    | Recover
    | SettingsDrift
    | StationFails
    | StopController
    | WipeLogic,
    Field(discriminator="action"),
]


class Attacker(Document):
    """A host of the attacker's own, plugged into ``zone``, or the compromised asset ``at``.

    ``profile`` is who this is, unless the experiment says so; None is one who can do all that is written here. ``has``
    are facts that hold from the start: other assets ("host:ews1"), accounts, presence.
    """

    zone: Name | None = None
    at: Name | None = None
    profile: Name | None = None
    has: tuple[Fact, ...] = ()


class Scenario(Document):
    """One attack, or one situation without an attacker; ``start`` is the virtual second of its first step.

    ``site`` is the site that it is written for, None for one that finds its ``targets`` by role on any. ``incident``
    names what really happened that this follows, ``sources`` where it was read, ``disputed`` what of it is in doubt.
    """

    name: Name
    title: str
    summary: str
    family: Name | None = None
    site: Name | None = None
    incident: Text | None = None
    sources: tuple[Text, ...] = ()
    disputed: tuple[Text, ...] = ()
    start: Seconds = 300.0
    targets: dict[Name, Target] = Field(default_factory=dict)
    attacker: Attacker | None = None
    goals: tuple[Goal, ...] = ()
    steps: Annotated[tuple[AnyStep, ...], Field(min_length=1)]

    def problems(self) -> Iterator[tuple[Route, str]]:
        hostile = [number for number, step in enumerate(self.steps) if step.hostile]
        if self.attacker is None:
            for number in hostile:
                yield ("steps", number, "action"), "an attacker's step, and the scenario has no attacker"
        elif (self.attacker.zone is None) == (self.attacker.at is None):
            yield (
                ("attacker",),
                "give either the zone that the attacker's own host is in, or the asset it is at",
            )
        if self.attacker is not None and self.attacker.profile not in (None, *ADVERSARIES):
            yield ("attacker", "profile"), f"no such attacker; there are {', '.join(ADVERSARIES)}"
        for number in hostile:
            if self.steps[number].technique is None:
                yield ("steps", number), "an attacker's step names its ATT&CK for ICS technique"
        for number, step in enumerate(self.steps):
            for key, names in (("technique", (step.technique,)), ("also", step.also)):
                for name in names:
                    if name is not None and name not in techniques():
                        yield ("steps", number, key), f"ATT&CK for ICS v{VERSION} has no technique {name}"
        for number, goal in enumerate(self.goals):
            if goal.technique is not None and goal.technique not in techniques():
                yield (
                    ("goals", number, "technique"),
                    f"ATT&CK for ICS v{VERSION} has no technique {goal.technique}",
                )
        yield from self._labels()

    def _labels(self) -> Iterator[tuple[Route, str]]:
        """Every label once, and asked about only after its step."""
        known: set[str] = set()
        for number, step in enumerate(self.steps):
            for label in step.only_if:
                if label not in known:
                    yield ("steps", number, "only_if", label), "no step before this one has that label"
            if step.label is not None:
                if step.label in known:
                    yield ("steps", number, "label"), "another step has this label already"
                known.add(step.label)

    def techniques(self) -> tuple[str, ...]:
        """Ids of the techniques that its steps and goals name, each once."""
        named = [
            *(one for step in self.steps for one in (step.technique, *step.also)),
            *(goal.technique for goal in self.goals),
        ]
        return tuple(dict.fromkeys(one for one in named if one is not None))


def scenario_names() -> tuple[str, ...]:
    """The scenarios that are shipped, by name."""
    return tuple(sorted(path.stem for path in _library().glob("*.yaml")))


def load_scenario(name_or_path: str | Path, site: Site | None = None) -> Scenario:
    """Load a shipped scenario by name or one from a file, its targets found on ``site``.

    Without a site it is read for the one that it names, or for the reference site. Raises UnknownNameError for a name
    that is neither, DocumentError with every mistake in the file.
    """
    text = str(name_or_path)
    path = _library() / f"{text}.yaml" if text in scenario_names() else Path(name_or_path)
    if not path.suffix and not path.exists():
        raise UnknownNameError("scenario", text, scenario_names())
    return load(path, Scenario, fill=_filler(site))


def _filler(site: Site | None) -> Filler:
    """Fills in for ``site``, else for the site that the file names, else for the reference site."""

    def fill(root: Any) -> tuple[Any, list[tuple[Route, str]]]:
        if not isinstance(root, dict) or "targets" not in root:
            return root, []
        return filler(site if site is not None else _shipped(str(root.get("site") or "water")))(root)

    return fill


@cache
def _shipped(name: str) -> Site:
    return load_site(name)


def _library() -> Path:
    return Path(str(files("scenarios"))) / "library"

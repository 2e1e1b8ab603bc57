"""A scenario as its file describes it: who attacks from where, and what is done when.

Attack content is data, with the ATT&CK for ICS technique of each step; what a step does on the wire is in
``scenarios.steps``. ATT&CK is a registered trademark of The MITRE Corporation; see NOTICE.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import Field

from scenarios.attack import Seconds
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
from scenarios.steps.commands import ModbusWrite, OpcUaWrite
from scenarios.steps.faults import (
    CablingLoop,
    DisableControl,
    FirewallFails,
    IslandMode,
    MaintenanceWindow,
    NetworkOutage,
    RestartStation,
)
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
from scenarios.steps.people import (
    LeaveStation,
    LeaveToken,
    OperatorTask,
    StealEnvelope,
    StuckSwitch,
    WalkUp,
)
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
from testbed.document import Document, Route, load
from testbed.errors import UnknownNameError
from testbed.site import Name

AnyStep: TypeAlias = Annotated[
    ModbusWrite
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
    """A host of the attacker's own, plugged into ``zone``, or the compromised asset ``at``."""

    zone: Name | None = None
    at: Name | None = None


class Scenario(Document):
    """One attack, or one situation without an attacker; ``start`` is the virtual second of its first step."""

    name: Name
    title: str
    summary: str
    start: Seconds = 300.0
    attacker: Attacker | None = None
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
        for number in hostile:
            if self.steps[number].technique is None:
                yield ("steps", number), "an attacker's step names its ATT&CK for ICS technique"


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

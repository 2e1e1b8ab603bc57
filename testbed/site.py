"""A site as its file describes it: plant, zones, conduits, assets, tags and what must keep working.

Zones and conduits are those of IEC 62443-3-2 (ZCR 3: every asset in exactly one zone, safety apart, business apart);
a site's file is a zone and conduit drawing that runs. Nothing here acts: every class is a frozen description, and
the cross-checks at the end are a table of functions, each told with the place in the file that it is about.

Tags carry engineering units, because a register does; everything else is SI unless its field says otherwise.
"""

from __future__ import annotations

import ipaddress
import math
import struct
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from importlib.resources import files
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    PrivateAttr,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from testbed.document import Document, Route, json_schema, load
from testbed.errors import UnknownNameError
from testbed.plant import SensorSpec
from testbed.plants import PLANTS, brought
from testbed.units import Unit, difference_to_si, to_si

# ------------------------------------------------------------------------------------------ values in a file


def _address(text: str) -> str:
    return str(ipaddress.IPv4Address(text))


def _network(value: object) -> ipaddress.IPv4Network:
    if not isinstance(value, str) or "/" not in value:
        raise ValueError("expected a network in CIDR notation, as 10.0.3.0/24")
    return ipaddress.IPv4Network(value)


def _number(value: object) -> object:
    return float(value) if isinstance(value, bool) else value


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the low end {pair[0]:g} is above the high end {pair[1]:g}")
    return pair


def _addresses_ordered(pair: tuple[int, int]) -> tuple[int, int]:
    return int(_ordered(pair)[0]), pair[1]


Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
#: What a tag is for, where its entry does not show it: see ``scenarios.targets``.
Use = Literal["setpoint", "measurement", "state", "actuator", "automatic", "by hand", "run", "reset", "other"]
TagName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")]
Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0)]
Delay = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BitRate = Annotated[float, Field(gt=0)]
Level = Annotated[int, Field(ge=0, le=4)]
Port = Annotated[int, Field(ge=1, le=65535)]
Register = Annotated[int, Field(ge=0, le=65535)]
Address = Annotated[str, AfterValidator(_address), WithJsonSchema({"type": "string", "format": "ipv4"})]
Network = Annotated[ipaddress.IPv4Network, PlainValidator(_network), WithJsonSchema({"type": "string"})]
Number = Annotated[
    float, BeforeValidator(_number), WithJsonSchema({"type": ["number", "boolean"]})
]  # true is 1: a coil's
Span = Annotated[tuple[float, float], AfterValidator(_ordered)]
RegisterSpan = Annotated[tuple[Register, Register], AfterValidator(_addresses_ordered)]


class SLVector(Document):
    """A security level per foundational requirement (IEC 62443-3-3 annex A), 0 to 4.

    A file may give one number for all seven, or each of the seven by its short name.
    """

    IAC: Level
    UC: Level
    SI: Level
    DC: Level
    RDF: Level
    TRE: Level
    RA: Level

    @model_validator(mode="before")
    @classmethod
    def _same_for_all(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value <= 4:
                raise ValueError(f"a security level is 0 to 4, got {value}")
            return dict.fromkeys(cls.model_fields, value)
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 4}, handler(core_schema)]}

    def as_tuple(self) -> tuple[int, int, int, int, int, int, int]:
        """The seven levels in the standard's order."""
        return (self.IAC, self.UC, self.SI, self.DC, self.RDF, self.TRE, self.RA)


# ----------------------------------------------------------------------------------------------------- plant


class Instrument(Document):
    """A sensor: the plant's ``signal`` it measures; noise (standard deviation), low and high in ``unit``; lag in s."""

    signal: Text
    unit: Unit
    noise: Delay = 0.0
    low: float
    high: float
    lag: Delay = 0.0

    @model_validator(mode="after")
    def _has_a_range(self) -> Instrument:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self

    def spec(self, name: str) -> SensorSpec:
        """The same in SI units, for ``testbed.plant.Sensor``."""
        return SensorSpec(
            name,
            self.signal,
            noise_sd=difference_to_si(self.noise, self.unit),
            low=to_si(self.low, self.unit),
            high=to_si(self.high, self.unit),
            lag=self.lag,
        )


class Plant(Document):
    """Which plant model, what it starts from (SI, names as the model documents), and what measures it."""

    model: Text
    initial: dict[str, float] = Field(default_factory=dict)
    sensors: dict[TagName, Instrument] = Field(default_factory=dict)


# ------------------------------------------------------------------------------------------ zones and conduits


class Zone(Document):
    """A zone: one local network. ``level`` is Purdue's (0 to 5, 3.5 the DMZ), ``sl_t`` the target level vector."""

    title: Text
    level: Annotated[float, Field(ge=0, le=5)]
    network: Network
    latency: Delay
    bandwidth: BitRate
    loss: Fraction = 0.0
    trusted: bool = True
    safety: bool = False
    sl_t: SLVector


Protocol: TypeAlias = Literal[
    "modbus",
    "opcua",
    "engineering",
    "syslog",
    "historian",
    "auth",
    "ssh",
    "rdp",
    "https",
    "ntp",
    "backup",
    "settings",
    "logs",
    "http",
    "smtp",
    "pop3",
    "dns",
    "status",
    "firewall",
]


class Flow(Document):
    """Traffic that is meant to be: ``source`` opens connections to ``port`` of ``target``, both asset names.

    ``functions`` and ``registers`` (spans of addresses, ends included) narrow a Modbus flow; None allows any.
    """

    source: Name
    target: Name
    port: Port
    protocol: Protocol
    functions: tuple[Annotated[int, Field(ge=1, le=127)], ...] | None = None
    registers: tuple[RegisterSpan, ...] | None = None
    purpose: str = ""


class Conduit(Document):
    """The only way between two zones. ``flows`` are the documented ones; what else passes is up to the controls."""

    between: tuple[Name, Name]
    latency: Delay
    bandwidth: BitRate
    loss: Fraction = 0.0
    purpose: Text
    flows: tuple[Flow, ...] = ()


# ------------------------------------------------------------------------------------------------------ tags

# Format -> struct code; registers are big-endian, and so are the two of a 32-bit value (the order that the Modbus
# specification leaves open and most devices use).
_FORMATS = {"int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "float32": "f"}


class PhysicalSwitch(Document):
    """One switch on which these zones are virtual LANs; ``bandwidth`` is what it forwards in all."""

    zones: Annotated[tuple[Name, ...], Field(min_length=1)]
    bandwidth: BitRate


class Alarms(Document):
    """Limits in the tag's unit. An alarm needs ``delay`` s beyond a limit, and ends ``deadband`` inside of it."""

    LL: float | None = None
    L: float | None = None
    H: float | None = None
    HH: float | None = None
    deadband: Delay = 0.0
    delay: Delay = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> Alarms:
        given = list(self.limits.items())
        for (lower, low), (upper, high) in pairwise(given):
            if low >= high:
                raise ValueError(f"alarm limits out of order: {lower} {low:g} is not below {upper} {high:g}")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, lowest first."""
        named = {"LL": self.LL, "L": self.L, "H": self.H, "HH": self.HH}
        return {name: value for name, value in named.items() if value is not None}


Format: TypeAlias = Literal["bool", "int16", "uint16", "int32", "uint32", "float32"]


def _usual_format(known: dict[str, Any]) -> Format:
    return "bool" if known.get("table") in ("coil", "discrete") else "uint16"


class Tag(Document):
    """A variable of a PLC and its place in the PLC's Modbus tables (protocol addresses, from 0).

    It follows a ``signal`` (a sensor of the plant's, or a switch that the plant publishes itself), drives a
    ``command`` of the plant, or neither (setpoint, mode, result). ``scale`` is engineering units per count;
    ``initial``, ``range`` (what may be written) and alarm limits are in ``unit``. ``writable`` is what the wire may
    do, not the program. ``use`` says what the tag is for where nothing else here does: "run" starts and stops a
    sequence, "reset" lets go of trips.
    """

    table: Literal["coil", "discrete", "input", "holding"]
    address: Register
    format: Format = Field(default_factory=_usual_format)
    signal: str | None = None
    command: str | None = None
    unit: Unit = "1"
    scale: Annotated[float, Field(gt=0)] = 1.0
    initial: Number = 0.0
    writable: bool = False
    range: Span | None = None
    alarms: Alarms | None = None
    use: Use | None = None
    description: str = ""

    @model_validator(mode="after")
    def _can_be(self) -> Tag:
        if (self.format == "bool") != (self.table in ("coil", "discrete")):
            raise ValueError(f"a {self.table} cannot hold {self.format}")
        if self.address + self.words > 65536:
            raise ValueError("its second register would be past address 65535")
        if self.writable and self.table in ("discrete", "input"):
            raise ValueError(f"a {self.table} cannot be writable")
        if self.signal is not None and (self.command is not None or self.writable):
            raise ValueError("a tag that follows a signal can neither drive a command nor be writable")
        for end in (*(self.range or ()), self.initial):
            if not math.isclose(self.decode(self.encode(end)), end, abs_tol=self.scale):
                raise ValueError(
                    f"{end:g} {self.unit} does not fit {self.format} at a scale of {self.scale:g}"
                )
        if self.range and not self.range[0] <= self.initial <= self.range[1]:
            raise ValueError(f"initial {self.initial:g} is outside the range")
        return self

    @property
    def words(self) -> int:
        """How many addresses of its table the tag takes."""
        return 2 if self.format.endswith("32") else 1

    def encode(self, value: float) -> list[int]:
        """Bits or registers for ``value`` in ``unit``, rounded and clipped to what the format holds."""
        if self.format == "bool":
            return [int(value >= 0.5)]
        if self.format == "float32":
            raw = struct.pack(">f", min(max(value / self.scale, -_FLOAT32_MAX), _FLOAT32_MAX))
        else:
            bits = 16 * self.words
            low = 0 if self.format.startswith("u") else -(1 << (bits - 1))
            count = min(max(round(value / self.scale), low), low + (1 << bits) - 1)
            raw = struct.pack(">" + _FORMATS[self.format], count)
        return list(struct.unpack(f">{self.words}H", raw))

    def decode(self, words: list[int]) -> float:
        """The value in ``unit`` that these bits or registers stand for."""
        if self.format == "bool":
            return float(words[0])
        raw = struct.pack(f">{self.words}H", *words)
        return float(struct.unpack(">" + _FORMATS[self.format], raw)[0]) * self.scale


_FLOAT32_MAX = struct.unpack(">f", b"\x7f\x7f\xff\xff")[0]

TagNames: TypeAlias = dict[Name, tuple[TagName, ...]]  # PLC -> tags

# ---------------------------------------------------------------------------------------------------- assets


RequirementId = Annotated[str, StringConstraints(pattern=r"^SR \d\.\d{1,2}( RE \d)?$")]


class _Asset(Document):
    """What every asset tells: where it is and what it is (IEC 62443-3-2 ZCR 6.4).

    ``cannot`` are requirements of IEC 62443-3-3 that this product has no means for, as old equipment often has none.
    """

    zone: Name
    address: Address
    vendor: str = ""
    product: str = ""
    firmware: str = ""
    criticality: Literal["low", "medium", "high"] = "medium"
    roles: tuple[str, ...] = ()
    cannot: tuple[RequirementId, ...] = ()


IdentityText = Annotated[str, StringConstraints(pattern=r"^[ -~]{1,244}$")]


class Identity(Document):
    """The answer to Modbus function 43/14, read device identification, basic objects: ASCII, at most 244 bytes each."""

    vendor: IdentityText
    product: IdentityText
    revision: IdentityText


class Peer(Document):
    """Tags that a PLC reads from another into variables of the same name, each with its quality in NAME_OK."""

    every: Seconds
    tags: Annotated[tuple[TagName, ...], Field(min_length=1)]


class Controller(_Asset):
    """What a PLC and a safety PLC have in common: a program, a scan, tags, and a Modbus/TCP server for them."""

    logic: FileName
    scan: Seconds
    port: Port = 502
    unit_id: Annotated[int, Field(ge=1, le=247)] = 1
    identity: Identity
    tags: dict[TagName, Tag]
    peers: dict[Name, Peer] = Field(default_factory=dict)


class Plc(Controller):
    kind: Literal["plc"]


class SafetyPlc(Controller):
    kind: Literal["safety_plc"]


class Operator(Document):
    """A person at an HMI; ``password_policy`` names the policy that the account is under."""

    name: Text
    role: Literal["operator", "engineer", "supervisor", "maintenance"]
    password_policy: Name = "default"
    #: name of somebody who left, whose identifier this person was given where identifiers are not managed
    took_over: Name | None = None


class FormerPerson(Document):
    """Somebody who had an account at an HMI and left the site ``left`` days before the run."""

    name: Name
    role: Literal["operator", "engineer", "supervisor", "maintenance"]
    left: Annotated[float, Field(ge=0)]


class Heartbeat(Document):
    """A tag that the HMI writes every so often, so that a PLC knows it is being watched."""

    plc: Name
    tag: TagName
    every: Seconds


class Response(Document):
    """One thing that an operator writes in answer to an alarm; ``value`` in the tag's unit."""

    plc: Name
    tag: TagName
    value: Number


AlarmKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*:(LL|L|H|HH|COMM)$")]


class Hmi(_Asset):
    """Operator station: the period of its polls by PLC, and when a value not refreshed is shown as bad, both s.

    ``responses`` is the operators' procedure: what they write when an alarm (``TAG:LEVEL``) stands. ``terminal`` is
    the port of its text terminal, for work from another desk; ``former`` are people who had accounts here.
    """

    kind: Literal["hmi"]
    polls: dict[Name, Seconds]
    stale_after: Seconds
    operators: tuple[Operator, ...] = ()
    heartbeat: Heartbeat | None = None
    terminal: Port | None = None
    former: tuple[FormerPerson, ...] = ()
    responses: dict[AlarmKey, tuple[Response, ...]] = Field(default_factory=dict)


class OpcUaServer(_Asset):
    """OPC UA server in front of PLCs that it polls; of the exposed tags, those also in ``writable`` take writes."""

    kind: Literal["opcua_server"]
    port: Port = 4840
    polls: dict[Name, Seconds]
    exposes: TagNames
    writable: TagNames = Field(default_factory=dict)


class Historian(_Asset):
    """Keeps what the OPC UA ``server`` exposes, one value each ``interval`` s; people read it at its ``portal``."""

    kind: Literal["historian"]
    server: Name
    interval: Seconds
    portal: Port | None = None


class Workstation(_Asset):
    """Engineering workstation; ``programs`` are the PLCs whose logic is kept and loaded here.

    ``predecessors`` are laptops that did its work before: off the network, with its files and papers still on them.
    """

    kind: Literal["workstation"]
    programs: tuple[Name, ...] = ()
    predecessors: tuple[Name, ...] = ()


#: Detectors of the process that a monitor can have.
ProcessRule: TypeAlias = Literal["limits", "rate", "steady", "invariant", "cusum", "pca", "pasad"]


class Monitor(_Asset):
    """Passive network monitor: ``taps`` are the zones and conduits whose traffic it sees.

    ``process`` are the detectors that judge the values it reads there, once the site was trained.
    """

    kind: Literal["monitor"]
    taps: Annotated[tuple[Name, ...], Field(min_length=1)]
    siem: Name | None = None
    process: tuple[ProcessRule, ...] = get_args(ProcessRule)


class Siem(_Asset):
    """A collector of logs. ``rules`` are the site's own Sigma files, beside the shipped ones."""

    kind: Literal["siem"]
    port: Port = 514
    rules: tuple[FileName, ...] = ()


class TimeServer(_Asset):
    """Tells the time of a satellite receiver by NTP."""

    kind: Literal["time_server"]
    port: Port = 123


class BackupServer(_Asset):
    """Keeps copies of what ``station``, an engineering workstation, sends it."""

    kind: Literal["backup_server"]
    station: Name
    port: Port = 9103


class Ups(_Asset):
    """Uninterruptible power supply of the assets and of the conduits' firewalls that it ``feeds``."""

    kind: Literal["ups"]
    feeds: Annotated[tuple[Name, ...], Field(min_length=1)]
    minutes: Annotated[float, Field(gt=0)]


class AuthServer(_Asset):
    """Central authentication server (RADIUS), which HMIs and OPC UA servers can ask who somebody is."""

    kind: Literal["auth_server"]
    port: Port = 1812


class CertificateAuthority(_Asset):
    """Issues the site's certificates and serves the list of those that are revoked."""

    kind: Literal["certificate_authority"]
    port: Port = 80


class NameServer(_Asset):
    """Tells the addresses of the site's assets by name (DNS) to the stations that it ``serves``, unless others do."""

    kind: Literal["name_server"]
    serves: tuple[Name, ...] = ()
    port: Port = 53


class FirewallManager(_Asset):
    """Management interface of the firewalls at the conduits."""

    kind: Literal["firewall_manager"]
    port: Port = 8443


class OfficePc(_Asset):
    kind: Literal["office_pc"]


class MailServer(_Asset):
    """Mail server of ``domain``: ``mailboxes`` maps each to the asset at which its owner reads mail."""

    kind: Literal["mail_server"]
    domain: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")]
    mailboxes: dict[Name, Name] = Field(default_factory=dict)


class JumpHost(_Asset):
    """Where people from outside come in: ``targets`` are the workstations that its gateway opens sessions to.

    ``users`` are the people whom it knows; ``capacity`` is how many sessions its software carries at once.
    """

    kind: Literal["jump_host"]
    targets: tuple[Name, ...] = ()
    users: tuple[Name, ...] = ()
    capacity: Annotated[int, Field(ge=1)] = 4


class AccessPoint(_Asset):
    """Wireless access point of its zone; ``network`` is the name that it announces."""

    kind: Literal["access_point"]
    network: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,32}$")]


class MobileDevice(_Asset):
    """A tablet that an operator carries through the plant; on a round it ``reads`` these tags of PLCs."""

    kind: Literal["mobile_device"]
    reads: TagNames = Field(default_factory=dict)


class CellularRouter(_Asset):
    """A router with a radio link to the ``carrier``, a network outside of the site that anyone may be in."""

    kind: Literal["cellular_router"]
    carrier: Name
    network: Network


Asset = Annotated[
    Plc
    | SafetyPlc
    | Hmi
    | OpcUaServer
    | Historian
    | Workstation
    | Monitor
    | Siem
    | AuthServer
    | CertificateAuthority
    | OfficePc
    | MailServer
    | JumpHost
    | AccessPoint
    | MobileDevice
    | CellularRouter
    | BackupServer
    | TimeServer
    | NameServer
    | FirewallManager
    | Ups,
    Field(discriminator="kind"),
]

# ------------------------------------------------------------------------------------------ essential functions


class View(Document):
    """Someone at ``asset`` sees these tags, none older than ``deadline`` s."""

    asset: Name
    tags: TagNames
    deadline: Seconds


class Control(Document):
    """A command from ``asset`` reaches ``plc`` within ``deadline`` s; the heartbeat ``tag`` proves it."""

    asset: Name
    plc: Name
    tag: TagName
    deadline: Seconds


class Safety(Document):
    """The safety PLC runs, no scan later than ``deadline`` s, and signals stay inside ``envelope`` (SI)."""

    asset: Name
    deadline: Seconds
    envelope: dict[str, Span]


class Production(Document):
    """The plant makes what it should: ``signal`` averages ``expected`` (SI)."""

    signal: Text
    expected: Annotated[float, Field(gt=0)]


class EssentialFunctions(Document):
    """What a control must not take away (IEC 62443-3-3 clause 4.2): all four are needed of every site."""

    view: View
    control: Control
    safety: Safety
    production: Production

    def __getitem__(self, name: str) -> View | Control | Safety | Production:
        if name not in type(self).model_fields:
            raise UnknownNameError("essential function", name, type(self).model_fields)
        found: View | Control | Safety | Production = getattr(self, name)
        return found


# ------------------------------------------------------------------------------------------------------ site


class Site(Document):
    """A whole site. ``epoch`` is the civil time at which a run's clock reads zero."""

    name: Name
    title: Text
    epoch: AwareDatetime
    plant: Plant
    zones: dict[Name, Zone]
    conduits: dict[Name, Conduit]
    #: zones that share hardware; one that is on none has a switch of its own
    switches: dict[Name, PhysicalSwitch] = Field(default_factory=dict)
    assets: dict[Name, Asset]
    essential_functions: EssentialFunctions
    #: what operators write to take the process by hand to a safe state, when they are asked to
    safe_state: tuple[Response, ...] = ()

    _folder: Path | None = PrivateAttr(None)
    _signals: frozenset[str] | None = PrivateAttr(None)
    _commands: frozenset[str] | None = PrivateAttr(None)

    def model_post_init(self, context: Any) -> None:
        """Keep what ``load_site`` knows beside the file: its folder and the names that the plant answers to."""
        known: Mapping[str, Any] = context or {}
        self._folder = known.get("folder")
        self._signals = known.get("signals")
        self._commands = known.get("commands")

    @property
    def folder(self) -> Path:
        """Where the logic files are; the current folder for a site that came from no file."""
        return self._folder or Path()

    @property
    def warnings(self) -> list[str]:
        """What is allowed and yet probably not meant, each as ``key: sentence``."""
        return [f"{'.'.join(map(str, route))}: {text}" for check in _WARNINGS for route, text in check(self)]

    def problems(self) -> Iterator[tuple[Route, str]]:
        for check in _CHECKS:
            yield from check(self)

    def controllers(self) -> dict[str, Controller]:
        """The PLCs and safety PLCs by name, in file order."""
        return {name: asset for name, asset in self.assets.items() if isinstance(asset, Controller)}

    def tag(self, plc: str, name: str) -> Tag:
        """Raises UnknownNameError for a PLC or tag that does not exist."""
        controllers = self.controllers()
        if plc not in controllers:
            raise UnknownNameError("PLC", plc, controllers)
        tags = controllers[plc].tags
        if name not in tags:
            raise UnknownNameError(f"tag of {plc}", name, tags)
        return tags[name]

    def logic(self, plc: str) -> str:
        """Text of a PLC's program file. Raises UnknownNameError for a PLC that does not exist."""
        controllers = self.controllers()
        if plc not in controllers:
            raise UnknownNameError("PLC", plc, controllers)
        return (self.folder / controllers[plc].logic).read_text("utf-8")

    def route(self, source: str, target: str) -> tuple[str, ...] | None:
        """Names of the conduits that traffic between two zones crosses; None when nothing joins them.

        The fewest conduits, and of equals those that come first in the file: as the network routes.
        """
        came: dict[str, tuple[str, ...]] = {source: ()}
        queue = deque([source])
        while queue:
            zone = queue.popleft()
            if zone == target:
                return came[zone]
            for name, conduit in self.conduits.items():
                if zone in conduit.between:
                    other = conduit.between[1] if conduit.between[0] == zone else conduit.between[0]
                    if other not in came:
                        came[other] = (*came[zone], name)
                        queue.append(other)
        return None


def site_names() -> tuple[str, ...]:
    """The sites that are shipped, by name."""
    return tuple(sorted(path.parent.name for path in _shipped_folder().glob("*/site.yaml")))


def load_site(
    name_or_path: str | Path,
    *,
    signals: Collection[str] | None = None,
    commands: Collection[str] | None = None,
) -> Site:
    """Load a shipped site by name, or the site whose ``site.yaml`` or folder is at the path.

    ``signals`` and ``commands`` are the names that the plant answers to; given, every name in the file is checked
    against them. Raises UnknownNameError for a name that is neither, DocumentError with every mistake in the file.
    A shipped site is read once in a process: the same object comes back.
    """
    if isinstance(name_or_path, str) and name_or_path in site_names():
        path = _shipped_folder() / name_or_path / "site.yaml"
        return _shipped(path) if signals is None and commands is None else _load(path, signals, commands)
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and path.name == name_or_path and not path.suffix and not path.exists():
        raise UnknownNameError("site", name_or_path, site_names())
    return _load(path / "site.yaml" if path.is_dir() else path, signals, commands)


def site_schema() -> dict[str, Any]:
    """JSON Schema of a site's file, for editors."""
    return json_schema(Site)


def _shipped_folder() -> Path:
    return Path(str(files("testbed"))) / "sites"


@cache
def _shipped(path: Path) -> Site:
    return _load(path, None, None)


def _load(path: Path, signals: Collection[str] | None, commands: Collection[str] | None) -> Site:
    context = {
        "folder": path.parent,
        "signals": None if signals is None else frozenset(signals),
        "commands": None if commands is None else frozenset(commands),
    }
    return load(path, Site, context=context)


# -------------------------------------------------------------------------------------------- cross-checks

Found: TypeAlias = Iterator[tuple[Route, str]]


def _names_distinct(site: Site) -> Found:
    """A tap, a policy and a trace name zones, conduits and assets in one breath, so no two share a name."""
    for kind, known, names in (
        ("conduits", site.zones, site.conduits),
        ("assets", {**site.zones, **site.conduits}, site.assets),
    ):
        for name in names:
            if name in known:
                yield (
                    (kind, name),
                    f"{name!r} is already the name of a {'zone' if name in site.zones else 'conduit'}",
                )


def _zone_networks(site: Site) -> Found:
    for (first, one), (second, other) in combinations(site.zones.items(), 2):
        if one.network.overlaps(other.network):
            yield ("zones", second, "network"), f"overlaps {one.network} of zone {first!r}"


def _zones_joined(site: Site) -> Found:
    joined = {zone for conduit in site.conduits.values() for zone in conduit.between}
    for zone in site.zones:
        if zone not in joined and len(site.zones) > 1:
            yield ("zones", zone), "no conduit reaches this zone"


def _conduit_ends(site: Site) -> Found:
    for name, conduit in site.conduits.items():
        for end, zone in enumerate(conduit.between):
            if zone not in site.zones:
                yield ("conduits", name, "between", end), _unknown("zone", zone, site.zones)
        if conduit.between[0] == conduit.between[1]:
            yield ("conduits", name, "between"), f"joins zone {conduit.between[0]!r} with itself"


def _asset_places(site: Site) -> Found:
    holders: dict[str, str] = {}
    for name, asset in site.assets.items():
        zone = site.zones.get(asset.zone)
        if zone is None:
            yield ("assets", name, "zone"), _unknown("zone", asset.zone, site.zones)
        elif ipaddress.IPv4Address(asset.address) not in zone.network:
            where = f"{asset.address} is outside {zone.network} of zone {asset.zone!r}"
            yield ("assets", name, "address"), where
        elif zone.network.prefixlen < 31 and asset.address in (
            str(zone.network.network_address),
            str(zone.network.broadcast_address),
        ):
            yield (
                ("assets", name, "address"),
                f"{asset.address} names the network {zone.network}, not a host in it",
            )
        elif asset.address == str(zone.network[1] if zone.network.num_addresses > 1 else zone.network[0]):
            yield ("assets", name, "address"), f"{asset.address} is the gateway's of zone {asset.zone!r}"
        first = holders.setdefault(asset.address, name)
        if first != name:
            yield ("assets", name, "address"), f"{asset.address} is already the address of {first!r}"


def _switch_zones(site: Site) -> Found:
    homes: dict[str, str] = {}
    for name, switch in site.switches.items():
        for index, zone in enumerate(switch.zones):
            first = homes.setdefault(zone, name)
            if zone not in site.zones:
                yield ("switches", name, "zones", index), _unknown("zone", zone, site.zones)
            elif first != name or zone in switch.zones[:index]:
                yield ("switches", name, "zones", index), f"zone {zone!r} is on switch {first!r} already"


def _tag_addresses(site: Site) -> Found:
    for plc, controller in site.controllers().items():
        holders: dict[tuple[str, int], str] = {}
        for name, tag in controller.tags.items():
            for address in range(tag.address, tag.address + tag.words):
                first = holders.setdefault((tag.table, address), name)
                if first != name:
                    yield (
                        ("assets", plc, "tags", name, "address"),
                        f"{tag.table} {address} is already {first!r}",
                    )
                    break


def _tag_sources(site: Site) -> Found:
    sensors = site.plant.sensors
    for plc, controller in site.controllers().items():
        for name, tag in controller.tags.items():
            route = ("assets", plc, "tags", name)
            signals = None if site._signals is None else site._signals | sensors.keys()
            if tag.signal is not None and signals is not None and tag.signal not in signals:
                yield (*route, "signal"), _unknown("sensor or plant signal", tag.signal, signals)
            if tag.command is not None and site._commands is not None and tag.command not in site._commands:
                yield (*route, "command"), _unknown("plant command", tag.command, site._commands)


def _one_driver(site: Site) -> Found:
    """Two outputs on one command would take turns at it, scan by scan."""
    drivers: dict[str, str] = {}
    for plc, controller in site.controllers().items():
        for name, tag in controller.tags.items():
            if tag.command is not None:
                first = drivers.setdefault(tag.command, f"{plc}.{name}")
                if first != f"{plc}.{name}":
                    yield (
                        ("assets", plc, "tags", name, "command"),
                        f"{tag.command} is already driven by {first}",
                    )


def _plant_names(site: Site) -> Found:
    if site.plant.model not in PLANTS and site.plant.model not in brought():
        yield ("plant", "model"), _unknown("plant model", site.plant.model, [*PLANTS, *brought()])
    if site._signals is not None:
        for name, sensor in site.plant.sensors.items():
            if sensor.signal not in site._signals:
                yield (
                    ("plant", "sensors", name, "signal"),
                    _unknown("plant signal", sensor.signal, site._signals),
                )
        functions = site.essential_functions
        for signal in functions.safety.envelope:
            if signal not in site._signals:
                route: Route = ("essential_functions", "safety", "envelope", signal)
                yield route, _unknown("plant signal", signal, site._signals)
        if functions.production.signal not in site._signals:
            message = _unknown("plant signal", functions.production.signal, site._signals)
            yield ("essential_functions", "production", "signal"), message


def _logic_files(site: Site) -> Found:
    if site._folder is not None:
        for name, controller in site.controllers().items():
            if not (site._folder / controller.logic).is_file():
                yield ("assets", name, "logic"), f"no file {controller.logic!r} beside the site's file"
        for name, asset in site.assets.items():
            for number, rules in enumerate(asset.rules if isinstance(asset, Siem) else ()):
                if not (site._folder / rules).is_file():
                    yield ("assets", name, "rules", number), f"no file {rules!r} beside the site's file"


def _safe_state(site: Site) -> Found:
    for index, step in enumerate(site.safe_state):
        yield from _writable(site, ("safe_state", index), step.plc, step.tag)


def _asset_references(site: Site) -> Found:
    """Names of PLCs, tags, zones and other assets inside assets."""
    for name, asset in site.assets.items():
        here: Route = ("assets", name)
        match asset:
            case Controller():
                for peer, what in asset.peers.items():
                    if peer == name:
                        yield (*here, "peers", peer), "a PLC cannot be its own peer"
                    else:
                        yield from _tags_exist(site, (*here, "peers"), peer, what.tags, ("tags",))
            case Hmi():
                yield from _polls_exist(site, here, asset.polls)
                yield from _names_apart(site, here, asset.polls)
                if asset.heartbeat is not None:
                    yield from _writable(site, (*here, "heartbeat"), asset.heartbeat.plc, asset.heartbeat.tag)
                for alarm, steps in asset.responses.items():
                    for index, step in enumerate(steps):
                        yield from _writable(site, (*here, "responses", alarm, index), step.plc, step.tag)
            case OpcUaServer():
                yield from _polls_exist(site, here, asset.polls)
                yield from _names_apart(site, here, asset.polls)
                yield from _opcua_tags(site, here, asset)
            case Historian():
                yield from _is(site, (*here, "server"), asset.server, OpcUaServer, "an OPC UA server")
            case Workstation():
                for index, plc in enumerate(asset.programs):
                    yield from _is(site, (*here, "programs", index), plc, Controller, "a PLC")
            case JumpHost():
                for index, target in enumerate(asset.targets):
                    yield from _is(site, (*here, "targets", index), target, Workstation, "a workstation")
            case MailServer():
                for mailbox, place in asset.mailboxes.items():
                    if place not in site.assets:
                        yield (*here, "mailboxes", mailbox), _unknown("asset", place, site.assets)
            case MobileDevice():
                for plc, tags in asset.reads.items():
                    yield from _tags_exist(site, (*here, "reads"), plc, tags)
            case CellularRouter():
                if asset.carrier in {**site.zones, **site.conduits, **site.assets}:
                    yield (
                        (*here, "carrier"),
                        f"{asset.carrier!r} is already the name of something on the site",
                    )
                for other, zone in site.zones.items():
                    if asset.network.overlaps(zone.network):
                        yield (*here, "network"), f"overlaps {zone.network} of zone {other!r}"
            case NameServer():
                for index, station in enumerate(asset.serves):
                    yield from _is(site, (*here, "serves", index), station, Hmi, "an HMI")
            case BackupServer():
                yield from _is(site, (*here, "station"), asset.station, Workstation, "a workstation")
            case Ups():
                for index, fed in enumerate(asset.feeds):
                    if not isinstance(site.assets.get(fed), Controller | Hmi) and fed not in site.conduits:
                        yield (*here, "feeds", index), f"{fed!r} is neither a PLC, an HMI nor a conduit"
            case Monitor():
                places = {**site.zones, **site.conduits}
                for index, tap in enumerate(asset.taps):
                    if tap not in places:
                        yield (*here, "taps", index), _unknown("zone or conduit", tap, places)
                if asset.siem is not None:
                    yield from _is(site, (*here, "siem"), asset.siem, Siem, "a SIEM")


def _names_apart(site: Site, here: Route, polls: Collection[str]) -> Found:
    """A station shows tags of several PLCs by name, so the PLCs it polls share none."""
    owners: dict[str, str] = {}
    for plc in polls:
        controller = site.controllers().get(plc)
        for tag in controller.tags if controller is not None else ():
            first = owners.setdefault(tag, plc)
            if first != plc:
                yield (*here, "polls", plc), f"tag {tag!r} of {plc} has the name of a tag of {first}"


def _opcua_tags(site: Site, here: Route, asset: OpcUaServer) -> Found:
    for plc, tags in asset.exposes.items():
        if plc not in asset.polls and plc in site.assets:
            yield (*here, "exposes", plc), f"{plc!r} is not polled"
        yield from _tags_exist(site, (*here, "exposes"), plc, tags)
    for plc, tags in asset.writable.items():
        for index, tag in enumerate(tags):
            if tag not in asset.exposes.get(plc, ()):
                yield (*here, "writable", plc, index), f"{plc}.{tag} is not exposed"
            elif _has(site, plc, tag) and not site.tag(plc, tag).writable:
                yield (*here, "writable", plc, index), f"{plc} does not let {tag} be written"


def _essential(site: Site) -> Found:
    view, control, safety = (
        site.essential_functions.view,
        site.essential_functions.control,
        site.essential_functions.safety,
    )
    here: Route = ("essential_functions",)
    yield from _is(site, (*here, "view", "asset"), view.asset, Hmi, "an HMI")
    viewer = site.assets.get(view.asset)
    for plc, tags in view.tags.items():
        yield from _tags_exist(site, (*here, "view", "tags"), plc, tags)
        if isinstance(viewer, Hmi) and plc in site.assets and plc not in viewer.polls:
            yield (*here, "view", "tags", plc), f"{view.asset!r} does not poll {plc!r}"
    if control.asset not in site.assets:
        yield (*here, "control", "asset"), _unknown("asset", control.asset, site.assets)
    yield from _writable(site, (*here, "control"), control.plc, control.tag)
    yield from _is(site, (*here, "safety", "asset"), safety.asset, SafetyPlc, "a safety PLC")


def _flow_ends(site: Site) -> Found:
    whole = all(
        len({*conduit.between}) == 2 and {*conduit.between} <= site.zones.keys()
        for conduit in site.conduits.values()
    )
    for conduit, name, index, flow in _each_flow(site):
        here: Route = ("conduits", name, "flows", index)
        unknown = [end for end in ("source", "target") if getattr(flow, end) not in site.assets]
        for end in unknown:
            yield (*here, end), _unknown("asset", getattr(flow, end), site.assets)
        if unknown:
            continue
        first, last = site.assets[flow.source].zone, site.assets[flow.target].zone
        sound = len({*conduit.between}) == 2 and {*conduit.between, first, last} <= site.zones.keys()
        route = site.route(first, last) if sound else None
        # Where another conduit is broken there may be no way at all: that conduit's own problem is told.
        if sound and (whole or route is not None) and name not in (route or ()):
            ends = " and ".join(conduit.between)
            yield here, f"traffic from {first} to {last} does not cross this conduit, which joins {ends}"


def _flow_ports(site: Site) -> Found:
    services = {(name, port): what for name, asset in site.assets.items() for port, what in _serves(asset)}
    usual = {(name, what): port for (name, port), what in services.items()}
    for _, name, index, flow in _each_flow(site):
        here: Route = ("conduits", name, "flows", index)
        if flow.target not in site.assets:
            continue
        served = services.setdefault((flow.target, flow.port), flow.protocol)
        port = usual.get((flow.target, flow.protocol), flow.port)
        if served != flow.protocol:
            yield (*here, "port"), f"port {flow.port} of {flow.target!r} serves {served}, not {flow.protocol}"
        elif port != flow.port:
            yield (*here, "port"), f"{flow.target!r} serves {flow.protocol} at port {port}"
        if flow.protocol == "modbus" and not isinstance(site.assets[flow.target], Controller):
            yield (*here, "target"), f"{flow.target!r} is not a PLC, so it serves no modbus"
        if flow.protocol != "modbus" and (flow.functions is not None or flow.registers is not None):
            yield here, "functions and registers are of modbus only"


_CHECKS: tuple[Callable[[Site], Found], ...] = (
    _names_distinct,
    _zone_networks,
    _zones_joined,
    _conduit_ends,
    _asset_places,
    _switch_zones,
    _tag_addresses,
    _tag_sources,
    _one_driver,
    _plant_names,
    _logic_files,
    _safe_state,
    _asset_references,
    _essential,
    _flow_ends,
    _flow_ports,
)


def _safety_apart(site: Site) -> Found:
    """IEC 62443-3-2 ZCR 3.3: safety-related assets are kept apart."""
    for name, asset in site.assets.items():
        in_safety = site.zones[asset.zone].safety
        if isinstance(asset, SafetyPlc) and not in_safety:
            yield ("assets", name, "zone"), f"a safety PLC in zone {asset.zone!r}, which is no safety zone"
        if in_safety and not isinstance(asset, SafetyPlc):
            yield ("assets", name, "zone"), f"no safety asset, yet in safety zone {asset.zone!r}"


def _business_apart(site: Site) -> Found:
    """IEC 62443-3-2 ZCR 3.2: business assets are kept apart from the control system's."""
    for name, conduit in site.conduits.items():
        levels = sorted(site.zones[zone].level for zone in conduit.between)
        if levels[0] < 3.5 < levels[1]:
            yield ("conduits", name), "joins a business zone with the control system without a DMZ between"


def _routes_documented(site: Site) -> Found:
    """A flow is let through only where every conduit on its way knows it."""
    documented = {(name, flow.source, flow.target, flow.port) for _, name, _, flow in _each_flow(site)}
    for _, name, index, flow in _each_flow(site):
        route = site.route(site.assets[flow.source].zone, site.assets[flow.target].zone)
        for conduit in route or ():
            if (conduit, flow.source, flow.target, flow.port) not in documented:
                yield (
                    ("conduits", name, "flows", index),
                    f"conduit {conduit!r} on the way does not list this flow",
                )


def _needs_documented(site: Site) -> Found:
    """What an asset is told to do needs a flow through each conduit on the way."""
    documented = {(name, flow.source, flow.target, flow.port) for _, name, _, flow in _each_flow(site)}
    for name, asset in site.assets.items():
        for target in _talks_to(asset):
            peer = site.assets[target]
            route = site.route(asset.zone, peer.zone)
            if route is None:
                yield ("assets", name), f"no conduits lead to {target!r}"
            for conduit in route or ():
                if not any((conduit, name, target, port) in documented for port, _ in _serves(peer)):
                    yield ("assets", name), f"talks to {target!r}, but conduit {conduit!r} lists no such flow"


def _alarms_reachable(site: Site) -> Found:
    for plc, controller in site.controllers().items():
        for name, tag in controller.tags.items():
            sensor = site.plant.sensors.get(tag.signal or "")
            if sensor is None or tag.alarms is None:
                continue
            for limit, value in tag.alarms.limits.items():
                si = to_si(value, tag.unit)
                if not to_si(sensor.low, sensor.unit) <= si <= to_si(sensor.high, sensor.unit):
                    yield (
                        ("assets", plc, "tags", name, "alarms", limit),
                        f"{value:g} is outside the sensor's range",
                    )


_WARNINGS: tuple[Callable[[Site], Found], ...] = (
    _safety_apart,
    _business_apart,
    _routes_documented,
    _needs_documented,
    _alarms_reachable,
)

# --------------------------------------------------------------------------------- what the checks have in common


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    return str(UnknownNameError(kind, name, known))


def _each_flow(site: Site) -> Iterator[tuple[Conduit, str, int, Flow]]:
    for name, conduit in site.conduits.items():
        for index, flow in enumerate(conduit.flows):
            yield conduit, name, index, flow


def _serves(asset: Asset) -> tuple[tuple[int, str], ...]:
    """Port and protocol of each service that an asset offers by its kind."""
    match asset:
        case Controller():
            return ((asset.port, "modbus"),)
        case OpcUaServer():
            return ((asset.port, "opcua"),)
        case Siem():
            return ((asset.port, "syslog"),)
        case MailServer():
            return ((25, "smtp"), (110, "pop3"))
        case BackupServer():
            return ((asset.port, "backup"),)
        case TimeServer():
            return ((asset.port, "ntp"),)
        case AuthServer():
            return ((asset.port, "auth"),)
        case CertificateAuthority():
            return ((asset.port, "http"),)
        case NameServer():
            return ((asset.port, "dns"),)
        case FirewallManager():
            return ((asset.port, "firewall"),)
        case _:
            return ()


def _talks_to(asset: Asset) -> tuple[str, ...]:
    """Names of the assets that an asset opens connections to by what its entry says."""
    match asset:
        case Controller():
            return tuple(asset.peers)
        case Hmi() | OpcUaServer():
            return tuple(asset.polls)
        case MobileDevice():
            return tuple(asset.reads)
        case Historian():
            return (asset.server,)
        case Monitor() if asset.siem is not None:
            return (asset.siem,)
        case _:
            return ()


def _is(site: Site, route: Route, name: str, kind: type[_Asset], words: str) -> Found:
    if name not in site.assets:
        yield route, _unknown("asset", name, site.assets)
    elif not isinstance(site.assets[name], kind):
        yield route, f"{name!r} is not {words}"


def _has(site: Site, plc: str, tag: str) -> bool:
    controller = site.controllers().get(plc)
    return controller is not None and tag in controller.tags


def _tags_exist(site: Site, here: Route, plc: str, tags: Collection[str], inner: Route = ()) -> Found:
    """Check ``tags`` listed at ``here`` under the key ``plc`` (and then ``inner``)."""
    wrong = list(_is(site, (*here, plc), plc, Controller, "a PLC"))
    if wrong:
        yield from wrong
        return
    for index, tag in enumerate(tags):
        if not _has(site, plc, tag):
            yield (*here, plc, *inner, index), _unknown(f"tag of {plc}", tag, site.controllers()[plc].tags)


def _polls_exist(site: Site, here: Route, polls: Collection[str]) -> Found:
    for plc in polls:
        yield from _is(site, (*here, "polls", plc), plc, Controller, "a PLC")


def _writable(site: Site, here: Route, plc: str, tag: str) -> Found:
    """Check the keys ``plc`` and ``tag`` at ``here``: they must name a tag that the wire may write."""
    wrong = list(_is(site, (*here, "plc"), plc, Controller, "a PLC"))
    if wrong:
        yield from wrong
    elif not _has(site, plc, tag):
        yield (*here, "tag"), _unknown(f"tag of {plc}", tag, site.controllers()[plc].tags)
    elif not site.tag(plc, tag).writable:
        yield (*here, "tag"), f"{plc} does not let {tag} be written"

"""What an OPC UA server exposes and what its clients get, in words that need no OPC UA library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["viewer", "operator", "engineer", "admin"]

#: The offers a server can make for a channel's security, weakest first.
SECURITY = ("None", "Basic256Sha256_Sign", "Basic256Sha256_SignAndEncrypt")
_, SIGN, SIGN_AND_ENCRYPT = SECURITY

#: Alarm limit -> (state of OPC 10000-9's ExclusiveLimitStateMachineType, severity). Severities go from 1 to 1000
#: (OPC 10000-5, BaseEventType); these two are assumptions.
LIMIT_STATES: Mapping[str, tuple[str, int]] = {
    "LL": ("LowLow", 800),
    "L": ("Low", 500),
    "H": ("High", 500),
    "HH": ("HighHigh", 800),
}

#: Engineering unit -> common code of UNECE Recommendation 20, which OPC 10000-8 packs into a UnitId.
UNIT_CODES: Mapping[str, str] = {
    "%": "P1",
    "A": "AMP",
    "Hz": "HTZ",
    "K": "KEL",
    "L": "LTR",
    "L/min": "L2",
    "L/s": "G51",
    "Pa": "PAL",
    "V": "VLT",
    "W": "WTT",
    "bar": "BAR",
    "cm": "CMT",
    "degC": "CEL",
    "h": "HUR",
    "kPa": "KPA",
    "kW": "KWT",
    "kWh": "KWH",
    "m": "MTR",
    "m3": "MTQ",
    "m3/h": "MQH",
    "m3/s": "MQS",
    "m³": "MTQ",
    "m³/h": "MQH",
    "m³/s": "MQS",
    "mA": "4K",
    "mV": "2Z",
    "mbar": "MBR",
    "mg/L": "M1",
    "mg/l": "M1",
    "min": "MIN",
    "mm": "MMT",
    "mm/s": "C16",
    "pH": "Q30",
    "rpm": "RPM",
    "s": "SEC",
    "uS/cm": "G42",
    "°C": "CEL",
}


def unit_id(unit: str) -> int:
    """UnitId of ``unit``: the bytes of its common code as one number; -1, "not specified", for an unknown unit."""
    code = UNIT_CODES.get(unit)
    return int.from_bytes(code.encode("ascii"), "big") if code is not None else -1


@dataclass(frozen=True, slots=True)
class UaTag:
    """One variable of the server.

    ``name`` is unique in the server and is what clients ask for; ``folder`` is the device that has the tag ("plc1").
    ``low``, ``high``, ``limits`` (of LL, L, H, HH) and ``deadband`` are in ``unit``. A change of no more than
    ``deadband`` from the last accepted value is noise and is not passed on, and an alarm clears only when the value
    is back by more than ``deadband``.
    """

    name: str
    folder: str
    type: Literal["float", "bool", "int"]
    unit: str = ""
    writable: bool = False
    low: float | None = None
    high: float | None = None
    description: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)
    deadband: float = 0.0


@dataclass(frozen=True, slots=True)
class UaUser:
    """Who a session acts for. An ``admin`` may also change the address space itself."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class UaRefusal:
    """The server said no; ``status`` is the name of its status code ("BadUserAccessDenied")."""

    status: str


@dataclass(frozen=True, slots=True)
class UaValue:
    """A value as read: ``time`` is its source timestamp (virtual s), ``status`` the name of its status code."""

    value: Any
    good: bool
    time: float
    status: str = "Good"


@dataclass(frozen=True, slots=True)
class UaAlarm:
    """A limit alarm as its subscribers learn of it: ``source`` is the tag, ``limit`` LL, L, H or HH, ``time`` s."""

    source: str
    limit: str
    active: bool
    severity: int
    message: str
    time: float


class UaServiceError(ConnectionError):
    """The server refused a whole service call, as it does when the session is gone; ``status`` names the code."""

    def __init__(self, status: str) -> None:
        super().__init__(f"the OPC UA server answers {status}")
        self.status = status

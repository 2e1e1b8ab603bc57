"""Engineering units as an operator reads them, and the SI units everything inside is kept in.

The factors are exact by the definition of the unit (SI Brochure, 9th edition, tables 4, 7 and 8; 1 bar = 100 kPa;
1 kgf = 9.80665 N). pH is a logarithm without a unit and stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator

from testbed.errors import UnknownNameError

#: Unit -> (factor, offset): SI value = value * factor + offset.
UNITS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "1": (1.0, 0.0),
        "%": (0.01, 0.0),
        "pH": (1.0, 0.0),
        # length, area, volume
        "mm": (0.001, 0.0),
        "m": (1.0, 0.0),
        "m2": (1.0, 0.0),
        "L": (0.001, 0.0),
        "m3": (1.0, 0.0),
        # time, frequency
        "ms": (0.001, 0.0),
        "s": (1.0, 0.0),
        "min": (60.0, 0.0),
        "h": (3600.0, 0.0),
        "d": (86400.0, 0.0),
        "Hz": (1.0, 0.0),
        "1/min": (1 / 60, 0.0),
        # speed, flow
        "mm/s": (0.001, 0.0),
        "m/s": (1.0, 0.0),
        "L/min": (1 / 60_000, 0.0),
        "m3/h": (1 / 3600, 0.0),
        "m3/s": (1.0, 0.0),
        # mass, amount
        "kg": (1.0, 0.0),
        "t": (1000.0, 0.0),
        "kg/h": (1 / 3600, 0.0),
        "kg/s": (1.0, 0.0),
        "kg/m3": (1.0, 0.0),
        "mg/L": (0.001, 0.0),
        "kmol": (1000.0, 0.0),
        "kmol/h": (1 / 3.6, 0.0),
        "mol/s": (1.0, 0.0),
        # pressure, temperature
        "Pa": (1.0, 0.0),
        "kPa": (1000.0, 0.0),
        "bar": (100_000.0, 0.0),
        "kgf/cm2": (98_066.5, 0.0),
        "degC": (1.0, 273.15),
        "K": (1.0, 0.0),
        # electricity, power
        "uS/cm": (1e-4, 0.0),
        "S/m": (1.0, 0.0),
        "mV": (0.001, 0.0),
        "V": (1.0, 0.0),
        "W": (1.0, 0.0),
        "kW": (1000.0, 0.0),
        "MW": (1e6, 0.0),
        # data
        "bit/s": (1.0, 0.0),
        "Mbit/s": (1e6, 0.0),
    }
)


def to_si(value: float, unit: str) -> float:
    """Convert ``value`` in ``unit`` to SI. Raises UnknownNameError for a unit not in the table."""
    factor, offset = _unit(unit)
    return value * factor + offset


def from_si(value: float, unit: str) -> float:
    """Convert an SI ``value`` to ``unit``. Raises UnknownNameError for a unit not in the table."""
    factor, offset = _unit(unit)
    return (value - offset) / factor


def difference_to_si(value: float, unit: str) -> float:
    """Convert a difference (noise, deadband, rate) to SI: a rise of 1 degC is one of 1 K, not of 274.15 K."""
    return value * _unit(unit)[0]


def _unit(name: str) -> tuple[float, float]:
    try:
        return UNITS[name]
    except KeyError:
        raise UnknownNameError("unit", name, UNITS) from None


def _known(name: str) -> str:
    try:
        _unit(name)
    except UnknownNameError as error:
        raise ValueError(str(error)) from None
    return name


#: The type of a unit's name in a user's file.
Unit = Annotated[str, AfterValidator(_known)]

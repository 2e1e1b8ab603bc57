"""How a site brings back what was wrecked: by a procedure that was written and tried, or as people can.

The steps themselves, over the wire, are in ``scenarios.steps.recovery``; here is what a control may decide about them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from devices.plc import PlcSeams


@dataclass(frozen=True, slots=True)
class Protection:
    """What protected a controller until it was set back as shipped: its seams, and its settings agent's settings."""

    seams: PlcSeams
    community: str
    service: str


@dataclass(slots=True)
class RecoveryPlan:
    """The seam of recovery; by default people improvise, and forget what protected the device.

    ``pace`` is the prefix of the figures that times are drawn from. ``reinstate`` are called with the name of a
    controller that has its program again, and the protection that it lost; ``bare`` are those that came back without.
    """

    pace: str = "recovery.improvised"
    reinstate: list[Callable[[str, Protection], object]] = field(default_factory=list)
    bare: dict[str, None] = field(default_factory=dict)

"""What a network monitor has learned of the hosts it sees: an inventory from traffic alone."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Objects of Read Device Identification that say what a device is (Modbus Application Protocol 1.1b3, 6.21).
_OBJECTS = {0: "vendor", 1: "product code", 2: "revision", 4: "product", 5: "model"}


@dataclass(slots=True)
class Sighting:
    """One address as its traffic shows it; ``first`` and ``last`` in s.

    ``serves`` are (protocol, port) from which it answered, ``uses`` (address, port) that it opened, ``about`` what it
    or its clients said of it in clear text.
    """

    address: str
    first: float
    last: float
    mac: str = ""
    serves: set[tuple[str, int]] = field(default_factory=set)
    uses: set[tuple[str, int]] = field(default_factory=set)
    about: dict[str, str] = field(default_factory=dict)

    def identify(self, objects: dict[int, str]) -> None:
        """Take what the device answered to an identification request."""
        for number, text in objects.items():
            if number in _OBJECTS:
                self.about[_OBJECTS[number]] = text


class Sightings:
    """The inventory of one monitor, by address."""

    #: Addresses that are remembered: a flood from forged ones must not eat the monitor's memory.
    MOST = 4096

    def __init__(self) -> None:
        self.hosts: dict[str, Sighting] = {}

    def of(self, address: str, now: float) -> Sighting:
        """The entry of ``address``, made if there is none."""
        found = self.hosts.get(address)
        if found is None:
            if len(self.hosts) >= self.MOST:
                del self.hosts[min(self.hosts, key=lambda each: self.hosts[each].last)]
            found = self.hosts[address] = Sighting(address, now, now)
        return found

    def table(self) -> list[dict[str, object]]:
        """The inventory as plain rows, by address."""
        return [
            {
                "address": seen.address,
                "mac": seen.mac,
                "first": round(seen.first, 3),
                "last": round(seen.last, 3),
                "serves": [f"{protocol}/{port}" for protocol, port in sorted(seen.serves)],
                "uses": [f"{address}:{port}" for address, port in sorted(seen.uses)],
                **dict(sorted(seen.about.items())),
            }
            for _, seen in sorted(self.hosts.items())
        ]

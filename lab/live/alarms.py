"""The alarm list of a station as ISA-18.2 has it: unacknowledged, acknowledged, returned, shelved.

The station itself (``devices.hmi``) knows which alarms stand. What a person has seen of them, and what is out of sight
for a while, is kept here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from devices.hmi import Alarm, Hmi

#: Priority by level, 1 the most urgent; a station that has lost a controller is blind, which is urgent too.
PRIORITY: Final = {"HH": 1, "LL": 1, "COMM": 1, "H": 2, "L": 2}
State = Literal["unacknowledged", "acknowledged", "returned", "shelved"]


@dataclass(slots=True)
class Entry:
    """One line of the list; times in s."""

    alarm: Alarm
    standing: bool = True
    acknowledged: bool = False
    cleared: float | None = None
    shelved_until: float = 0.0

    def state(self, now: float) -> State:
        if now < self.shelved_until:
            return "shelved"
        if self.standing:
            return "acknowledged" if self.acknowledged else "unacknowledged"
        return "returned"

    @property
    def priority(self) -> int:
        return PRIORITY.get(self.alarm.level, 3)


class AlarmList:
    """The list of one station."""

    def __init__(self, hmi: Hmi) -> None:
        self.hmi = hmi
        self.entries: dict[str, Entry] = {}
        hmi.on_alarm.append(self._hear)

    def _hear(self, alarm: Alarm, raised: bool) -> None:
        entry = self.entries.get(alarm.key)
        if raised:
            shelved = entry.shelved_until if entry is not None else 0.0
            self.entries[alarm.key] = Entry(alarm, shelved_until=shelved)
        elif entry is not None:
            entry.standing, entry.cleared = False, self.hmi.loop.time()
            if entry.acknowledged and self.hmi.loop.time() >= entry.shelved_until:
                del self.entries[alarm.key]

    def acknowledge(self, key: str | None) -> list[str]:
        """Take note of one alarm, or of all that are shown; the keys of those that were new."""
        now, noted = self.hmi.loop.time(), []
        for one in [key] if key is not None else list(self.entries):
            entry = self.entries.get(one)
            if entry is None or entry.acknowledged or entry.state(now) == "shelved":
                continue
            entry.acknowledged = True
            noted.append(one)
            if not entry.standing:
                del self.entries[one]
        return noted

    def shelve(self, key: str, seconds: float) -> bool:
        """Keep an alarm out of sight for ``seconds``, 0 to show it again; False if there is no such alarm."""
        entry = self.entries.get(key)
        if entry is None:
            return False
        entry.shelved_until = self.hmi.loop.time() + seconds
        if not seconds and not entry.standing and entry.acknowledged:
            del self.entries[key]
        return True

    def shown(self) -> list[tuple[Entry, State]]:
        """Most urgent first: new before seen, then by priority, then the latest; shelved ones last."""
        now = self.hmi.loop.time()
        for key, entry in self.entries.items():
            if entry.standing and key not in self.hmi.alarms:  # the station has been started anew
                entry.standing = False
        order = {"unacknowledged": 0, "returned": 1, "acknowledged": 2, "shelved": 3}
        found = [
            (entry, entry.state(now))
            for entry in self.entries.values()
            if entry.standing or not entry.acknowledged or now < entry.shelved_until
        ]
        return sorted(found, key=lambda one: (order[one[1]], one[0].priority, -one[0].alarm.raised))

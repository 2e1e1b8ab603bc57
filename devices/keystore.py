"""Where a machine keeps the secrets of its programs: in files, or in hardware that uses them and gives none away.

A program of the machine can use either. Only a file can be copied: from hardware (a TPM, a secure element) somebody
who has the machine can have things done while being there, and takes nothing along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from testbed.network import Host


@dataclass(slots=True)
class KeyStore:
    """The secrets of ``host`` by name; each is asked for when it is wanted, because secrets are renewed.

    ``hardware`` names those that are in hardware. By default none is.
    """

    host: Host
    hardware: set[str] = field(default_factory=set)
    _held: dict[str, Callable[[], bytes | None]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, held in self._held.items() if held() is not None)

    def keep(self, name: str, held: Callable[[], bytes | None]) -> None:
        """Have a secret under ``name``; ``held`` gives it, or None while there is none."""
        self._held[name] = held

    def use(self, name: str, by: Host) -> bytes | None:
        """The secret in the hands of a program of this machine; None for anybody else, or if there is none."""
        held = self._held.get(name)
        return held() if held is not None and by is self.host else None

    def export(self, name: str) -> bytes | None:
        """What copying gives: the secret from a file, nothing from hardware."""
        return None if name in self.hardware or name not in self._held else self._held[name]()

"""A disk: blocks of bytes and a directory. Deleting a file frees its blocks and leaves what is in them.

That is how file systems work, and why a disk that leaves the site takes its past along. ``purge`` writes over the
whole of it, which takes time, and ``Disk.raw`` is what somebody reads who buys it second-hand.
"""

from __future__ import annotations

import re
from typing import Final

from testbed.errors import OtlabError

#: Bytes in a block (usual).
BLOCK: Final = 512

#: What a carving tool looks for: what begins and what ends a thing of that kind.
CARVED: Final = {
    "program": re.compile(rb"PROGRAM \w+\s.*?END_PROGRAM", re.DOTALL),
    "private key": re.compile(rb"-----BEGIN PRIVATE KEY-----.*?-----END CERTIFICATE-----\n?", re.DOTALL),
    "password": re.compile(rb"password=([^\s\0]+)"),
}


class DiskFull(OtlabError):
    """There is no room for a file."""


class Disk:
    """``blocks`` blocks, all zero at first."""

    def __init__(self, blocks: int = 1024) -> None:
        self._bytes = bytearray(blocks * BLOCK)
        self._files: dict[str, tuple[list[int], int]] = {}
        self._free = list(range(blocks))

    @property
    def files(self) -> tuple[str, ...]:
        """Names in the directory, in order of writing."""
        return tuple(self._files)

    def write(self, name: str, content: bytes) -> None:
        """Keep ``content`` under ``name``, in place of what was there. Raises DiskFull."""
        self.delete(name)
        count = -(-len(content) // BLOCK)
        if count > len(self._free):
            raise DiskFull(f"no room for {name!r}: {count} blocks wanted, {len(self._free)} free")
        taken, self._free = self._free[:count], self._free[count:]
        self._files[name] = (taken, len(content))
        for place, block in enumerate(taken):
            part = content[place * BLOCK : (place + 1) * BLOCK]
            self._bytes[block * BLOCK : block * BLOCK + len(part)] = part

    def read(self, name: str) -> bytes | None:
        """The file's content; None if the directory has no such name."""
        if name not in self._files:
            return None
        taken, length = self._files[name]
        return b"".join(self._bytes[block * BLOCK : (block + 1) * BLOCK] for block in taken)[:length]

    def delete(self, name: str) -> None:
        """Forget the name; the bytes stay until something else needs their place."""
        taken, _ = self._files.pop(name, ([], 0))
        self._free = sorted([*self._free, *taken])

    def purge(self) -> None:
        """Write over every block, used or free (NIST SP 800-88 Rev. 1 calls an overwrite of all of it a clear)."""
        self._files.clear()
        self._free = list(range(len(self._bytes) // BLOCK))
        self._bytes[:] = bytes(len(self._bytes))

    @property
    def raw(self) -> bytes:
        """Every byte, as a reader below the file system gets it."""
        return bytes(self._bytes)


def carve(raw: bytes) -> dict[str, list[bytes]]:
    """What is left in the bytes of a disk, by kind, whatever its directory says."""
    return {kind: [found.group() for found in pattern.finditer(raw)] for kind, pattern in CARVED.items()}

"""How a product protects an export file: with a scheme of its own, or with a published algorithm.

``XorScheme`` is what "proprietary encryption" turned out to be in more than one product: a fixed key, repeated over
the text. Whoever knows as much of the text as the key is long, and a little more, has the key.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import cycle
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

#: NIST SP 800-38D, 8.2: a nonce of 96 bits, which may never come twice under one key.
_NONCE: Final = 12
_TAG: Final = 16


class Cipher(Protocol):
    """Seals and opens; ``open`` gives None for what does not open."""

    def seal(self, plain: bytes) -> bytes: ...

    def open(self, sealed: bytes) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class XorScheme:
    """The text with ``key`` repeated over it, which opens again in the same way."""

    key: bytes

    def seal(self, plain: bytes) -> bytes:
        return bytes(one ^ other for one, other in zip(plain, cycle(self.key), strict=False))

    def open(self, sealed: bytes) -> bytes | None:
        return self.seal(sealed)


@dataclass(slots=True)
class AesGcm:
    """AES-256-GCM (NIST SP 800-38D), each message under a nonce of its own from ``stream``."""

    key: bytes
    stream: random.Random
    _used: set[bytes] = field(default_factory=set)

    def seal(self, plain: bytes) -> bytes:
        nonce = self.stream.randbytes(_NONCE)
        while nonce in self._used:
            nonce = self.stream.randbytes(_NONCE)
        self._used.add(nonce)
        return nonce + AESGCM(self.key).encrypt(nonce, plain, None)

    def open(self, sealed: bytes) -> bytes | None:
        if len(sealed) < _NONCE + _TAG:
            return None
        try:
            return AESGCM(self.key).decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
        except InvalidTag:
            return None


def break_repeating_key(sealed: bytes, known: bytes) -> bytes | None:
    """The text under a repeated key, from its known beginning; None if it is under nothing of the kind.

    The key is the shortest that makes the text begin with ``known``; four bytes of ``known`` beyond the key's length
    must fit too, so that chance finds none.
    """
    stream = bytes(one ^ other for one, other in zip(sealed, known, strict=False))
    for length in range(1, len(stream) - 3):
        if all(stream[at] == stream[at % length] for at in range(length, len(stream))):
            return XorScheme(stream[:length]).open(sealed)
    return None

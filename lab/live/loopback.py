"""The only place of the product where a socket of the operating system is made, and it is bound to loopback.

Everything else that listens (the web pages, the attachment points) is handed a socket from here.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import ip_address

from testbed.errors import OtlabError

#: The two addresses that never leave the machine and that every system has.
LOOPBACK = ("127.0.0.1", "::1")
#: Connections that wait to be taken; more are refused by the operating system.
BACKLOG = 32


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket on loopback; port 0 takes a free one.

    Raises OtlabError for any other address, and for a port that is taken or not allowed.
    """
    address = "127.0.0.1" if host == "localhost" else host
    if address not in LOOPBACK:
        raise OtlabError(f"the live lab listens on 127.0.0.1 or ::1 only, not on {host!r}")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((address, port))
        made.listen(BACKLOG)
        made.setblocking(False)
        # What the operating system says it bound, not what was asked for.
        if not ip_address(made.getsockname()[0]).is_loopback:
            raise OtlabError(f"the live lab did not get a loopback address for {host!r}")
    except OSError as error:
        made.close()
        raise OtlabError(
            f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}"
        ) from None
    except BaseException:
        made.close()
        raise
    return made


def port_of(made: socket.socket) -> int:
    """The port that a socket listens on."""
    return int(made.getsockname()[1])


def reset(transport: asyncio.BaseTransport) -> None:
    """End a connection with a reset instead of a goodbye, as a refused one ends."""
    made = transport.get_extra_info("socket")
    if made is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert isinstance(transport, asyncio.Transport)
    transport.abort()

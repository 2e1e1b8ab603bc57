"""OPC UA read from its bytes alone: ids as the library has them, and no bytes that break the reader."""

from __future__ import annotations

import contextlib

import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary
from hypothesis import given
from hypothesis import strategies as st

from devices.ua_wire import MESSAGE_MOST, REQUESTS, UaReader, UaSeen


def message(request: object, kind: bytes = b"MSGF") -> bytes:
    """One unsecured chunk with a request in it, encoded by the library."""
    body = struct_to_binary(request)  # type: ignore[no-untyped-call]
    number = request.TypeId.Identifier  # type: ignore[attr-defined]
    assert body[:4] == b"\1\0" + number.to_bytes(2, "little")
    return kind + (24 + len(body)).to_bytes(4, "little") + bytes(16) + body


@pytest.mark.parametrize("number", REQUESTS)
def test_ids_are_the_librarys(number: int) -> None:
    name = {"TranslateBrowsePaths": "TranslateBrowsePathsToNodeIds"}.get(REQUESTS[number], REQUESTS[number])
    assert getattr(ua.ObjectIds, f"{name}Request_Encoding_DefaultBinary") == number


def write_of(*values: object) -> bytes:
    request = ua.WriteRequest()
    for at, value in enumerate(values):
        item = ua.WriteValue()
        item.NodeId = ua.NodeId(f"TAG{at}", 2)
        item.AttributeId = ua.AttributeIds.Value
        item.Value = ua.DataValue(ua.Variant(value))
        request.Parameters.NodesToWrite.append(item)
    return message(request)


def test_written_numbers_are_read() -> None:
    [seen] = UaReader().feed(write_of(1.5, True, -3, [1, 2], "text"))
    assert seen.service == "Write"
    assert seen.written == {"TAG0": 1.5, "TAG1": 1.0, "TAG2": -3.0, "TAG3": None, "TAG4": None}


@pytest.mark.parametrize(
    ("token", "identity"),
    [(ua.AnonymousIdentityToken(), "anonymous"), (ua.UserNameIdentityToken(UserName="ada"), "user name ada")],
)
def test_who_a_session_is_for_is_read(token: object, identity: str) -> None:
    request = ua.ActivateSessionRequest()
    request.Parameters.UserIdentityToken = token
    [seen] = UaReader().feed(message(request))
    assert seen == UaSeen("ActivateSession", {"identity": identity})


def test_a_message_in_chunks_and_segments_is_one() -> None:
    whole = write_of(7.0)
    body = whole[24:]
    first = b"MSGC" + (24 + 10).to_bytes(4, "little") + bytes(16) + body[:10]
    last = b"MSGF" + (24 + len(body) - 10).to_bytes(4, "little") + bytes(16) + body[10:]
    reader, found = UaReader(), []
    for octet in first + last:
        found += reader.feed(bytes([octet]))
    assert [seen.written for seen in found] == [{"TAG0": 7.0}]


def test_bytes_of_another_protocol_are_refused() -> None:
    with pytest.raises(ValueError, match="not OPC UA"):
        UaReader().feed(b"GET / HTTP/1.1\r\n")


def test_a_message_without_end_is_refused_before_it_fills_the_memory() -> None:
    reader, chunk = UaReader(), b"MSGC" + (1 << 20).to_bytes(4, "little") + bytes((1 << 20) - 8)
    for _ in range(MESSAGE_MOST // len(chunk)):
        reader.feed(chunk)
    with pytest.raises(ValueError, match="without end"):
        reader.feed(chunk + chunk)


@given(st.data())
def test_no_bytes_break_it(data: st.DataObject) -> None:
    valid = write_of(1.5, [1.0], "x")
    at = data.draw(st.integers(0, len(valid)))
    octets = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.binary(max_size=8).map(lambda piece: valid[:at] + piece + valid[at + len(piece) :]),
            st.binary(max_size=60).map(lambda b: b"MSGF" + (len(b) + 8).to_bytes(4, "little") + b),
        )
    )
    with contextlib.suppress(ValueError):
        UaReader().feed(octets)


@given(st.binary(max_size=80), st.sampled_from(sorted(REQUESTS)))
def test_no_body_breaks_it(body: bytes, number: int) -> None:
    head = bytes(16) + b"\1\0" + number.to_bytes(2, "little")
    chunk = b"MSGF" + (8 + len(head) + len(body)).to_bytes(4, "little") + head + body
    with contextlib.suppress(ValueError):
        UaReader().feed(chunk)

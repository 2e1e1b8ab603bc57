"""OPC UA of the simulated devices: asyncua's server and client, made to live in virtual time.

asyncua's protocol code does the work, and its encoding is kept byte for byte. What differs, and why:

* its modules read clocks, random numbers and tasks through names of their own; ``_install`` replaces those names,
  once per process, by ones that belong to the world while a ``SimLoop`` runs and are the real ones otherwise;
* building the standard address space takes a second; it is built once per process and every server looks through it
  (``_Nodes``), copying a node when it first touches it;
* the few structures that nearly all traffic is made of are encoded and decoded in one piece;
* limits that a peer may set are taken only within reason, and a peer that breaks the protocol loses its connection;
* a server begins sessions only over channels that it offers, which asyncua leaves to the client to respect;
* a subscription compares with what it last reported, as [P4] 7.22.2 has it, and without copying each value.

References
    [P4], [P6]         OPC 10000-4 Services, -6 Mappings (1.05)
    [P8], [P9], [P11]  OPC 10000-8 Data Access, -9 Alarms and Conditions, -11 Historical Access

asyncua is pinned to 2.1: several names used here are private to it.
"""

# Everything made through ``ua`` is untyped, and so is part of asyncua.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import logging
import math
import operator
import os
import random
import struct
import time
import types
import uuid
from asyncio import events
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from importlib import import_module
from itertools import count
from typing import Any, Final, NamedTuple, SupportsIndex, TypeVar, cast

from asyncua import ua as _ua
from asyncua.client import ua_client
from asyncua.client.client import Client
from asyncua.client.ua_session import UaSession
from asyncua.common.connection import SecureConnection
from asyncua.common.node import Node
from asyncua.common.shortcuts import Shortcuts
from asyncua.common.subscription import Subscription
from asyncua.common.utils import Buffer, NotEnoughData, ServiceError, create_nonce
from asyncua.crypto import uacrypto
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.security_policies import (
    CryptographyNone,
    SecurityPolicy,
    SecurityPolicyBasic256Sha256,
    SecurityPolicyFactory,
    SecurityPolicyNone,
)
from asyncua.server import uaprocessor
from asyncua.server.address_space import (
    AddressSpace,
    AttributeService,
    AttributeValue,
    MethodService,
    NodeData,
    NodeManagementService,
    ViewService,
)
from asyncua.server.binary_server_asyncio import BinaryServer, OPCUAProtocol
from asyncua.server.history import HistoryStorageInterface
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.monitored_item_service import MonitoredItemService
from asyncua.server.server import Server
from asyncua.server.standard_address_space import standard_address_space
from asyncua.server.subscription_service import SubscriptionService
from asyncua.server.uaprocessor import PublishRequestData, UaProcessor
from asyncua.server.user_managers import UserManager
from asyncua.ua import ua_binary, uatypes
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.uaprotocol_auto import (
    ActivateSessionParameters,
    ActivateSessionResult,
    CreateMonitoredItemsParameters,
    CreateSessionParameters,
    CreateSessionResult,
    CreateSubscriptionParameters,
    CreateSubscriptionResult,
    DataChangeFilter,
    DataChangeNotification,
    EventFilter,
    MonitoredItemCreateResult,
    MonitoredItemModifyRequest,
    MonitoredItemModifyResult,
    NodeClass,
    PublishResult,
    RequestHeader,
    ResponseHeader,
    SimpleAttributeOperand,
    WriteParameters,
)
from asyncua.ua.uatypes import DataValue, NodeId, QualifiedName, StatusCode, Variant, VariantType
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devices.opcua_model import (
    LIMIT_STATES,
    SECURITY,
    UaAlarm,
    UaRefusal,
    UaServiceError,
    UaTag,
    UaUser,
    UaValue,
    unit_id,
)
from testbed.clock import EPOCH, SimLoop
from testbed.errors import UnknownNameError
from testbed.network import Host

__all__ = [
    "LIMIT_STATES",
    "NAMESPACE",
    "SECURITY",
    "PlantServer",
    "UaAlarm",
    "UaClient",
    "UaRefusal",
    "UaServiceError",
    "UaTag",
    "UaUser",
    "UaValue",
    "make_certificate",
]

T = TypeVar("T")

#: asyncua collects the protocol's names in one module at import, where a type checker does not find them, and declares
#: their fields by types that no plain number or string is; so they are made through this, and annotated by themselves.
ua: Any = _ua

#: Namespace of tags, devices and device types; its index is always 2.
NAMESPACE: Final = "urn:otlab:plant"
_PLANT: Final = 2

# A server reports a value in steps no finer than 100 ms and no coarser than an hour (assumption: what controllers with
# an embedded server offer).
_PUBLISH_MIN: Final = 0.1
_PUBLISH_MAX: Final = 3600.0

# -- the world's clock and random numbers ------------------------------------------------------------------------


def _world() -> SimLoop | None:
    loop = events._get_running_loop()
    return loop if isinstance(loop, SimLoop) else None


class _AnyDatetime(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


class _Datetime(datetime, metaclass=_AnyDatetime):
    """``datetime`` as asyncua's modules see it: only ``now`` differs, and every instance is a plain datetime."""

    def __new__(  # type: ignore[misc]
        cls, year: SupportsIndex, month: SupportsIndex, day: SupportsIndex, *rest: Any, **named: Any
    ) -> datetime:
        return datetime(year, month, day, *rest, **named)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        loop = _world()
        if loop is None:
            return datetime.now(tz)
        moment = loop.epoch + timedelta(seconds=loop.env.now)
        if tz is UTC:
            return moment
        return moment.astimezone(tz) if tz is not None else moment.astimezone(UTC).replace(tzinfo=None)


def _monotonic() -> float:
    loop = _world()
    return loop.env.now if loop is not None else time.monotonic()


def _seconds_since_1970() -> float:
    loop = _world()
    return loop.epoch.timestamp() + loop.env.now if loop is not None else time.time()


def _localtime(seconds: float | None = None) -> time.struct_time:
    """UTC in a world: its events must not tell the time zone of the machine."""
    return time.localtime(seconds) if _world() is None else time.gmtime(seconds)


def _urandom(size: int) -> bytes:
    loop = _world()
    return loop.entropy.randbytes(size) if loop is not None else os.urandom(size)


def _uuid4() -> uuid.UUID:
    return uuid.UUID(bytes=_urandom(16), version=4)


#: What a peer's disappearance or misbehavior raises in asyncua's own tasks; anything else is a defect.
_EXPECTED: Final = (OSError, ua.UaError, cast(Any, uacrypto).InvalidSignature)


def _create_task(coroutine: Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:
    """A task whose failure is known at once, and not when the garbage collector finds it."""
    task = asyncio.create_task(coroutine, **options)
    if _world() is not None:
        task.add_done_callback(_settle)
    return task


async def _sleep(delay: float, result: Any = None) -> Any:
    """Virtual time stands still within an instant, so a wait too short to move the clock would be repeated for ever."""
    if 0 < delay < _LEAST_WAIT and _world() is not None:
        delay = _LEAST_WAIT
    return await asyncio.sleep(delay, result)


_LEAST_WAIT: Final = 1e-6


def _settle(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        error = task.exception()
        if error is not None and not isinstance(error, _EXPECTED):
            cast(SimLoop, task.get_loop()).fail(error)


def _variation(module: types.ModuleType, **changed: Any) -> types.ModuleType:
    """A copy of ``module`` with some names changed; a real module, because attribute look-up in one is fastest."""
    varied = types.ModuleType(module.__name__)
    vars(varied).update(vars(module))
    vars(varied).update(changed)
    return varied


#: Name within asyncua's modules -> what it stands for now, and the modules that use it for more than types.
_REPLACED: Final[Mapping[str, tuple[Any, tuple[str, ...]]]] = {
    "datetime": (
        _Datetime,
        (
            "common.connection",
            "common.structures104",
            "common.ua_utils",
            "crypto.uacrypto",
            "crypto.validator",
            "server.address_space",
            "server.event_generator",
            "server.history",
            "server.internal_server",
            "server.server",
            "ua.uaprotocol_auto",
            "ua.uatypes",
        ),
    ),
    "time": (
        _variation(time, monotonic=_monotonic, time=_seconds_since_1970, localtime=_localtime),
        (
            "client.client",
            "common.subscription",
            "crypto.security_policies",
            "observer",
            "server.event_generator",
            "server.internal_session",
            "server.internal_subscription",
            "server.uaprocessor",
        ),
    ),
    # A processor makes the node id of each request type it knows, for each message.
    "ua": (_variation(_ua, NodeId=functools.cache(NodeId)), ("server.uaprocessor",)),
    "os": (_variation(os, urandom=_urandom), ("common.utils",)),
    "uuid": (
        _variation(uuid, uuid4=_uuid4),
        ("common.structures104", "server.event_generator", "ua.uatypes"),
    ),
    "asyncio": (
        _variation(asyncio, create_task=_create_task, sleep=_sleep),
        (
            "client.client",
            "client.ua_session",
            "common.subscription",
            "server.binary_server_asyncio",
            "server.history",
            "server.internal_server",
            "server.internal_session",
            "server.internal_subscription",
            "server.uaprocessor",
        ),
    ),
}


@functools.cache
def _install() -> None:
    """Let asyncua see the world's clock, random numbers and tasks; quiet its loggers unless somebody set them."""
    for name, (stand_in, modules) in _REPLACED.items():
        for module in modules:
            setattr(import_module(f"asyncua.{module}"), name, stand_in)
    _install_codec()
    # It reports what peers do wrong, which here is the audit seam's business, with tracebacks.
    logger = logging.getLogger("asyncua")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL + 1)


def _finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, as those of a server's internal session do not."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    raise RuntimeError(f"{coroutine!r} waits")


class _Done:
    """What an asynchronous hook returns whose work is done already."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


_DONE: Final = _Done()


class _Calendar:
    """Virtual seconds as civil time and back; of a real loop, its seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._zero = (
            loop.epoch if isinstance(loop, SimLoop) else datetime.now(UTC) - timedelta(seconds=loop.time())
        )
        self._last = (0.0, self._zero)

    def moment(self, seconds: float) -> datetime:
        if self._last[0] != seconds:  # the tags of one poll have the same time
            self._last = (seconds, self._zero + timedelta(seconds=seconds))
        return self._last[1]

    def seconds(self, moment: datetime) -> float:
        return (moment - self._zero).total_seconds()


# -- the hottest structures of the binary encoding ---------------------------------------------------------------
#
# asyncua walks each structure field by field, which for a value takes as long as all the rest of a publication. The
# common shape of a value (a scalar with status and both timestamps) and of the two headers goes in one piece here;
# any other shape goes to asyncua. The bytes are the same, and tests hold that against asyncua's own functions.

_WHOLE_VALUE: Final = 0x0F  # value, status, source and server timestamp; no picoseconds
_FORMATS: Final[Mapping[VariantType, str]] = {
    VariantType.Boolean: "?",
    VariantType.Int32: "i",
    VariantType.Int64: "q",
    VariantType.Double: "d",
}
#: By type: encoding, type, scalar, status and both timestamps; the same after a client's handle; both by type code.
_SCALARS: Final = {kind: struct.Struct(f"<BB{form}Iqq") for kind, form in _FORMATS.items()}
_ITEMS: Final = {kind: struct.Struct(f"<IBB{form}Iqq") for kind, form in _FORMATS.items()}
_SCALARS_BY_CODE: Final = {kind.value: (kind, shape) for kind, shape in _SCALARS.items()}
_ITEMS_BY_CODE: Final = {kind.value: (kind, shape) for kind, shape in _ITEMS.items()}
_REQUEST_TAIL: Final = struct.Struct("<qIIiI3s")  # time, handle, diagnostics, no audit id, timeout, no extra
_RESPONSE: Final = struct.Struct("<qIIBi3s")  # time, handle, result, no diagnostics, strings, no extra
_READ_TAIL: Final = struct.Struct("<IiHi")  # attribute, no index range, default encoding
_SEQUENCE_AND_TIME: Final = struct.Struct("<Iq")
_NO_EXTRA: Final = b"\0\0\0"
_U32: Final = struct.Struct("<I")


def _value_of(
    scalar: Any, kind: VariantType, status: StatusCode, source: datetime, server: datetime
) -> DataValue:
    """A value made without its initializers, which only check what is known here."""
    variant: Any = Variant.__new__(Variant)
    variant.Value, variant.VariantType, variant.Dimensions, variant.is_array = scalar, kind, None, False
    value: Any = DataValue.__new__(DataValue)
    value.Encoding, value.Value, value.StatusCode = 0, variant, status
    value.SourceTimestamp, value.ServerTimestamp = source, server
    value.SourcePicoseconds = value.ServerPicoseconds = None
    return cast(DataValue, value)


#: The values of a publication mostly have one time.
_moment_of: Final = functools.lru_cache(maxsize=64)(uatypes.win_epoch_to_datetime)


def _is_whole(value: DataValue) -> bool:
    variant = value.Value
    return (
        variant is not None
        and not variant.is_array
        and variant.Value is not None
        and value.StatusCode is not None
        and value.SourceTimestamp is not None
        and value.ServerTimestamp is not None
        and value.SourcePicoseconds is None
        and value.ServerPicoseconds is None
    )


def _pack(shape: struct.Struct, value: Any, *before: int) -> bytes:
    source, server, variant = value.SourceTimestamp, value.ServerTimestamp, value.Value
    ticks = uatypes.datetime_to_win_epoch(source)
    return shape.pack(
        *before,
        _WHOLE_VALUE,
        variant.VariantType,
        variant.Value,
        value.StatusCode.value,
        ticks,
        ticks if server is source else uatypes.datetime_to_win_epoch(server),
    )


def _write_value(value: DataValue, otherwise: Callable[[Any], bytes]) -> bytes:
    shape = _SCALARS.get(value.Value.VariantType) if _is_whole(value) and value.Value is not None else None
    if shape is not None:
        try:
            return _pack(shape, value)
        except struct.error:
            pass  # asyncua says what is wrong with it
    return otherwise(value)


def _read_value(data: Buffer, otherwise: Callable[[Any], Any]) -> Any:
    content, position, left = data._data, data._cur_pos, data._size
    if left >= 2 and content[position] == _WHOLE_VALUE:
        found = _SCALARS_BY_CODE.get(content[position + 1])
        if found is not None and left >= found[1].size:
            kind, shape = found
            _, _, scalar, code, source, server = shape.unpack_from(content, position)
            data.skip(shape.size)
            status = StatusCode(code) if code else _GOOD
            return _value_of(scalar, kind, status, _moment_of(source), _moment_of(server))
    return otherwise(data)


def _write_changes(changes: DataChangeNotification, otherwise: Callable[[Any], bytes]) -> bytes:
    if changes.DiagnosticInfos != [] or changes.MonitoredItems is None:
        return otherwise(changes)
    parts = [_U32.pack(len(changes.MonitoredItems))]
    for item in changes.MonitoredItems:
        value = item.Value
        shape = _ITEMS.get(value.Value.VariantType) if _is_whole(value) and value.Value is not None else None
        if shape is not None:
            try:
                parts.append(_pack(shape, value, item.ClientHandle))
                continue
            except struct.error:
                pass  # asyncua says what is wrong with it
        parts.append(_U32.pack(item.ClientHandle))
        parts.append(ua_binary.struct_to_binary(value))
    parts.append(b"\0\0\0\0")
    return b"".join(parts)


def _read_changes(data: Buffer, otherwise: Callable[[Any], Any]) -> Any:
    (number,) = _U32.unpack(data.read(4))
    if number > data._size:  # also "no list", which is -1
        data._cur_pos, data._size = data._cur_pos - 4, data._size + 4
        return otherwise(data)
    items = []
    for _ in range(number):
        content, position, left = data._data, data._cur_pos, data._size
        if left >= 6 and content[position + 4] == _WHOLE_VALUE:
            found = _ITEMS_BY_CODE.get(content[position + 5])
            if found is not None and left >= found[1].size:
                kind, shape = found
                handle, _, _, scalar, code, source, server = shape.unpack_from(content, position)
                data._cur_pos, data._size = position + shape.size, left - shape.size
                status = StatusCode(code) if code else _GOOD
                value = _value_of(scalar, kind, status, _moment_of(source), _moment_of(server))
                items.append(ua.MonitoredItemNotification(handle, value))
                continue
        (handle,) = _U32.unpack(data.read(4))
        items.append(ua.MonitoredItemNotification(handle, _read_any_value(data)))
    return ua.DataChangeNotification(items, ua_binary.from_binary(_DIAGNOSTICS, data))


def _read_any_value(data: Buffer) -> Any:
    return ua_binary.struct_from_binary(DataValue, data)


_DIAGNOSTICS: Final = list[_ua.DiagnosticInfo]


def _write_request_header(header: RequestHeader, otherwise: Callable[[Any], bytes]) -> bytes:
    if header.AuditEntryId is not None or not _is_nothing(header.AdditionalHeader):
        return otherwise(header)
    return ua_binary.nodeid_to_binary(header.AuthenticationToken) + _REQUEST_TAIL.pack(
        uatypes.datetime_to_win_epoch(header.Timestamp),
        header.RequestHandle,
        header.ReturnDiagnostics,
        -1,
        header.TimeoutHint,
        _NO_EXTRA,
    )


def _read_request_header(data: Buffer, otherwise: Callable[[Any], Any]) -> Any:
    start = data.copy()
    token = ua_binary.nodeid_from_binary(data)
    if data._size >= _REQUEST_TAIL.size:
        moment, handle, diagnostics, audit, timeout, extra = _REQUEST_TAIL.unpack_from(
            data._data, data._cur_pos
        )
        if audit == -1 and extra == _NO_EXTRA:
            data.skip(_REQUEST_TAIL.size)
            return ua.RequestHeader(
                token,
                uatypes.win_epoch_to_datetime(moment),
                handle,
                diagnostics,
                None,
                timeout,
                ua.ExtensionObject(),
            )
    data._cur_pos, data._size = start._cur_pos, start._size
    return otherwise(data)


def _write_response_header(header: ResponseHeader, otherwise: Callable[[Any], bytes]) -> bytes:
    if (
        header.StringTable
        or header.ServiceDiagnostics != _NO_DIAGNOSTICS
        or not _is_nothing(header.AdditionalHeader)
    ):
        return otherwise(header)
    strings = 0 if header.StringTable is not None else -1
    moment = uatypes.datetime_to_win_epoch(header.Timestamp)
    return _RESPONSE.pack(moment, header.RequestHandle, header.ServiceResult.value, 0, strings, _NO_EXTRA)


def _read_response_header(data: Buffer, otherwise: Callable[[Any], Any]) -> Any:
    if data._size >= _RESPONSE.size:
        moment, handle, result, diagnostics, strings, extra = _RESPONSE.unpack_from(data._data, data._cur_pos)
        if diagnostics == 0 and strings in (0, -1) and extra == _NO_EXTRA:
            data.skip(_RESPONSE.size)
            return ua.ResponseHeader(
                uatypes.win_epoch_to_datetime(moment),
                handle,
                ua.StatusCode(result),
                ua.DiagnosticInfo(),
                None if strings < 0 else [],
                ua.ExtensionObject(),
            )
    return otherwise(data)


_NO_DIAGNOSTICS: Final = ua.DiagnosticInfo()
_GOOD: Final = ua.StatusCode(ua.StatusCodes.Good)


def _write_read_value_id(item: Any, otherwise: Callable[[Any], bytes]) -> bytes:
    if item.IndexRange is not None or item.DataEncoding.Name is not None or item.DataEncoding.NamespaceIndex:
        return otherwise(item)
    return ua_binary.nodeid_to_binary(item.NodeId) + _READ_TAIL.pack(item.AttributeId, -1, 0, -1)


def _read_read_value_id(data: Buffer, otherwise: Callable[[Any], Any]) -> Any:
    start = data.copy()
    node = ua_binary.nodeid_from_binary(data)
    if data._size >= _READ_TAIL.size:
        attribute, *rest = _READ_TAIL.unpack_from(data._data, data._cur_pos)
        if rest == [-1, 0, -1]:
            data.skip(_READ_TAIL.size)
            return ua.ReadValueId(node, attribute, None, ua.QualifiedName(None, 0))
    data._cur_pos, data._size = start._cur_pos, start._size
    return otherwise(data)


def _write_published(result: PublishResult, otherwise: Callable[[Any], bytes]) -> bytes:
    message, waiting, codes = result.NotificationMessage, result.AvailableSequenceNumbers, result.Results
    if result.DiagnosticInfos or message.NotificationData is None or waiting is None or codes is None:
        return otherwise(result)
    head = struct.pack(
        f"<Ii{len(waiting)}I?", result.SubscriptionId, len(waiting), *waiting, result.MoreNotifications
    )
    moment = uatypes.datetime_to_win_epoch(message.PublishTime)
    return b"".join(
        (
            head,
            _SEQUENCE_AND_TIME.pack(message.SequenceNumber, moment),
            _U32.pack(len(message.NotificationData)),
            *map(ua_binary.extensionobject_to_binary, message.NotificationData),
            struct.pack(f"<i{len(codes)}Ii", len(codes), *[code.value for code in codes], 0),
        )
    )


def _read_published(data: Buffer, otherwise: Callable[[Any], Any]) -> Any:
    (subscription,) = _U32.unpack(data.read(4))
    waiting = ua_binary.from_binary(_COUNTERS, data)
    (more,) = data.read(1)
    sequence, moment = _SEQUENCE_AND_TIME.unpack(data.read(_SEQUENCE_AND_TIME.size))
    notifications = ua_binary.from_binary(_EXTENSIONS, data)
    return ua.PublishResult(
        subscription,
        waiting,
        more != 0,
        ua.NotificationMessage(sequence, uatypes.win_epoch_to_datetime(moment), notifications),
        ua_binary.from_binary(_CODES, data),
        ua_binary.from_binary(_DIAGNOSTICS, data),
    )


_COUNTERS: Final = list[_ua.UInt32]
_EXTENSIONS: Final = list[_ua.ExtensionObject]
_CODES: Final = list[StatusCode]


def _fixed(kind: Any, layout: str, *names: str) -> tuple[Callable[..., bytes], Callable[..., Any]]:
    """Writer and reader of a structure that always has the same size."""
    shape = struct.Struct(layout)
    fields = operator.attrgetter(*names)
    single = len(names) == 1

    def write(item: Any, otherwise: Callable[[Any], bytes]) -> bytes:
        return shape.pack(fields(item)) if single else shape.pack(*fields(item))

    def read(data: Buffer, otherwise: Callable[[Any], Any]) -> Any:
        return kind(*shape.unpack(data.read(shape.size)))

    return write, read


_any_node_id: Final = ua_binary.nodeid_from_binary
_FORMS: Final = {form.value: form for form in ua.NodeIdType}


def _read_node_id(data: Buffer) -> Any:
    """The compact forms of a node id ([P6] 5.2.2.9), made without checks of what cannot be otherwise."""
    content, position, left = data._data, data._cur_pos, data._size
    form = content[position] if left >= 4 else -1
    namespace: int = 0
    identifier: int | str | bytes
    if form == 1:
        namespace, identifier, size = (
            content[position + 1],
            content[position + 2] | content[position + 3] << 8,
            4,
        )
    elif form == 0:
        identifier, size = content[position + 1], 2
    elif form in (3, 5) and left >= 7:
        namespace, length = _STRING_HEAD.unpack_from(content, position + 1)
        size = 7 + length
        if not 0 <= length <= left - 7:
            return _any_node_id(data)
        raw = content[position + 7 : position + size]
        identifier = raw.decode("utf-8", "surrogateescape") if form == 3 else raw
    else:
        return _any_node_id(data)
    data.skip(size)
    node: Any = NodeId.__new__(NodeId)
    node.Identifier, node.NamespaceIndex, node.NodeIdType = identifier, namespace, _FORMS[form]
    return node


_STRING_HEAD: Final = struct.Struct("<Hi")


def _read_bytes(data: Buffer, size: int) -> bytes:
    """``Buffer.read`` that does not take a negative length for a step back, which could go on for ever."""
    if not 0 <= size <= data._size:
        raise NotEnoughData(f"{size} bytes wanted of {data._size}")
    start = data._cur_pos
    data._cur_pos = end = start + size
    data._size -= size
    return data._data[start:end]


def _read_variant(data: Buffer) -> Any:
    """A variant, unless it is an array of nothings: of those, a few bytes can announce two thousand million."""
    if data._size >= 5 and data._data[data._cur_pos] & 0xBF == 0x80:
        raise ua.UaError("an array of null values")
    return _any_variant(data)


_any_variant: Final = ua_binary.variant_from_binary


class _Whole(ua.Message):  # type: ignore[misc]
    """A message that came in one chunk without security."""

    def __init__(self, channel: int, sequence: int, request: int, content: bytes) -> None:
        self._sequence_header = ua.SequenceHeader(sequence, request)
        self._content = content

    def request_id(self) -> int:
        return cast(int, self._sequence_header.RequestId)

    def SequenceHeader(self) -> Any:
        return self._sequence_header

    def body(self) -> Buffer:
        return Buffer(self._content)


class _Connection(SecureConnection):
    """A secure channel that spares messages without security the steps that would secure them."""

    def message_to_binary(self, message: bytes, message_type: Any = b"MSG", request_id: int = 0) -> bytes:
        size = _CHUNK.size + len(message)
        number = self._sequence_number + 1
        if (
            message_type != b"MSG"
            or type(self.security_policy.symmetric_cryptography) is not CryptographyNone
            or size > self._limits.max_send_buffer
            or number >= 1 << 32
        ):
            return super().message_to_binary(message, message_type, request_id)
        self._sequence_number = number
        token = self.security_token
        return _CHUNK.pack(b"MSG", b"F", size, token.ChannelId, token.TokenId, number, request_id) + message

    def receive_from_header_and_body(self, header: Any, body: Buffer) -> Any:
        content, position = body._data, body._cur_pos
        size = header.body_size
        if (
            header.MessageType == b"MSG"
            and header.ChunkType == b"F"
            and type(self.security_policy.symmetric_cryptography) is CryptographyNone
            and not self._incoming_parts
            and 12 <= size <= body._size
            and header.packet_size <= self._limits.max_recv_buffer
            and header.ChannelId == self.security_token.ChannelId
        ):
            token, number, request = _CHUNK_TAIL.unpack_from(content, position)
            if (
                token == self.security_token.TokenId
                and self._peer_sequence_number is not None
                and number == self._peer_sequence_number + 1
                and (not self._limits.max_message_size or size <= self._limits.max_message_size)
            ):
                self._peer_sequence_number = number
                body.skip(size)
                return _Whole(header.ChannelId, number, request, content[position + 12 : position + size])
        # Anything out of the ordinary, above all what must be refused.
        return super().receive_from_header_and_body(header, body)


_CHUNK: Final = struct.Struct("<3scIIIII")  # type, last chunk, size, channel, token, sequence number, request
_CHUNK_TAIL: Final = struct.Struct("<III")


def _is_nothing(extra: Any) -> bool:
    return type(extra) is ua.ExtensionObject and extra.Body is None and extra.TypeId.is_null()


_CODECS: Final[Mapping[type, tuple[Callable[..., bytes], Callable[..., Any]]]] = {
    ua.DataValue: (_write_value, _read_value),
    ua.DataChangeNotification: (_write_changes, _read_changes),
    ua.RequestHeader: (_write_request_header, _read_request_header),
    ua.ResponseHeader: (_write_response_header, _read_response_header),
    ua.ReadValueId: (_write_read_value_id, _read_read_value_id),
    ua.PublishResult: (_write_published, _read_published),
    ua.SequenceHeader: _fixed(ua.SequenceHeader, "<II", "SequenceNumber", "RequestId"),
    ua.SymmetricAlgorithmHeader: _fixed(ua.SymmetricAlgorithmHeader, "<I", "TokenId"),
    ua.SubscriptionAcknowledgement: _fixed(
        ua.SubscriptionAcknowledgement, "<II", "SubscriptionId", "SequenceNumber"
    ),
}


def _install_codec() -> None:
    generic_writer, generic_reader = (
        ua_binary.create_dataclass_serializer,
        ua_binary._create_dataclass_deserializer,
    )

    @functools.cache
    def writer(kind: type) -> Callable[[Any], bytes]:
        found = _CODECS.get(kind)
        return (
            generic_writer(kind)
            if found is None
            else functools.partial(found[0], otherwise=generic_writer(kind))
        )

    @functools.cache
    def reader(kind: type | str) -> Callable[[Any], Any]:
        found = _CODECS.get(kind) if isinstance(kind, type) else None
        return (
            generic_reader(kind)
            if found is None
            else functools.partial(found[1], otherwise=generic_reader(kind))
        )

    ua_binary.create_dataclass_serializer = writer
    ua_binary._create_dataclass_deserializer = reader
    setattr(Buffer, "read", _read_bytes)  # noqa: B010 - so that type checkers let it be replaced
    setattr(ua_binary, "variant_from_binary", _read_variant)  # noqa: B010
    for module in (ua_binary, uaprocessor, ua_client):
        setattr(module, "nodeid_from_binary", _read_node_id)  # noqa: B010 - a name of theirs that they do not export
    # Whoever used asyncua before has functions in these caches that lead past the ones above.
    for cached in vars(ua_binary).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()
    generic_writer.cache_clear()
    generic_reader.cache_clear()


# -- certificates ------------------------------------------------------------------------------------------------

_KEY_BITS: Final = 2048  # the least that Basic256Sha256 allows (OPC 10000-7, MinAsymmetricKeyLength)
_SIEVE: Final = tuple(n for n in range(3, 4000, 2) if all(n % d for d in range(3, math.isqrt(n) + 1, 2)))


def _prime(stream: random.Random, bits: int) -> int:
    """The first probable prime after a random odd number whose two highest bits are set."""
    while True:
        start = stream.getrandbits(bits) | 3 << (bits - 2) | 1
        remainders = [(start % divisor, divisor) for divisor in _SIEVE]
        for step in range(0, 4000, 2):
            if all((rest + step) % divisor for rest, divisor in remainders):
                candidate = start + step
                if candidate % 65537 != 1 and pow(2, candidate - 1, candidate) == 1:
                    return candidate


#: Far enough either side of any simulated date.
ALWAYS: Final = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


@functools.cache
def _key(name: str) -> rsa.RSAPrivateKey:
    """The key of whoever is called ``name``, the same in every process and run.

    A certificate crosses the wire in the clear, so a run whose keys came from the operating system would not repeat.
    The keys protect nothing outside a simulated world.
    """
    stream = random.Random(f"opcua key:{name}")
    p, q = _prime(stream, _KEY_BITS // 2), _prime(stream, _KEY_BITS // 2)
    e = 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(e, p * q)
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    )
    return numbers.private_key()


def make_certificate(
    common_name: str,
    uri: str,
    stream: random.Random,
    *,
    issuer: tuple[x509.Name, Ed25519PrivateKey] | None = None,
    valid: tuple[datetime, datetime] = ALWAYS,
) -> tuple[bytes, bytes]:
    """Return an application instance certificate (DER) and its private key (PKCS #8, DER).

    It is signed by ``issuer``, or by itself; ``uri`` is the application's; the serial number is drawn from ``stream``.
    By default valid from 2000 to 2100, so that it is at any epoch; sizes depend on nothing but the lengths of the two
    names. The first call for a name in a process takes some tenths of a second to find its key, later ones 2 ms.
    """
    key = _key(common_name)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer[0])
        .public_key(key.public_key())
        .serial_number(stream.getrandbits(126) | 1 << 126)  # 16 bytes, whatever is drawn
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(purposes, critical=False)
        .sign(*((key, hashes.SHA256()) if issuer is None else (issuer[1], None)))
    )
    private = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _LOADED[private] = key
    return certificate.public_bytes(serialization.Encoding.DER), private


def _is_pem(content: bytes) -> bool:
    return content.lstrip().startswith(b"-----BEGIN")


def _certificate(content: bytes) -> x509.Certificate:
    return (
        x509.load_pem_x509_certificate(content)
        if _is_pem(content)
        else x509.load_der_x509_certificate(content)
    )


#: Keys by their DER or PEM: OpenSSL takes 40 ms to check one that it loads, and a client may connect often.
_LOADED: Final[dict[bytes, Any]] = {}


def _private_key(content: bytes) -> Any:
    if content not in _LOADED:
        load = serialization.load_pem_private_key if _is_pem(content) else serialization.load_der_private_key
        _LOADED[content] = load(content, None)
    return _LOADED[content]


def _application_uri(certificate: x509.Certificate) -> str | None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if uris else None


# -- the address space -------------------------------------------------------------------------------------------

Nodes = Mapping[NodeId, NodeData]


def _copied(node: NodeData) -> NodeData:
    """A copy that a server may change: values that can be changed in place are copied, all others shared."""
    twin = NodeData(node.nodeid)
    for attribute, held in node.attributes.items():
        kept = held.value
        if kept is not None and attribute == ua.AttributeIds.Value and kept.Value is not None:
            kept = _own(kept)
        twin.attributes[attribute] = AttributeValue(cast(ua.DataValue, kept))
    for reference in node.references:
        other = ua.ReferenceDescription.__new__(ua.ReferenceDescription)
        for name in _REFERENCE_FIELDS:
            setattr(other, name, getattr(reference, name))
        twin.references.append(other)
    twin.call = node.call
    return twin


_REFERENCE_FIELDS: Final = tuple(ua.ReferenceDescription.__dataclass_fields__)
_FIXED: Final = (bool, int, float, str, bytes, datetime, type(None))


def _own(value: DataValue) -> DataValue:
    held = cast(ua.Variant, value.Value).Value
    if isinstance(held, _FIXED):
        return value
    return cast(ua.DataValue, copy.deepcopy(value))


class _Nodes(dict[NodeId, NodeData]):
    """The nodes of one server: those of ``base``, each copied when it is first touched, and its own."""

    def __init__(self, base: Nodes) -> None:
        super().__init__()
        self._base = base
        self._gone: dict[NodeId, None] = {}

    def __missing__(self, key: NodeId) -> NodeData:
        if key in self._gone:
            raise KeyError(key)
        twin = self[key] = _copied(self._base[key])
        return twin

    def get(self, key: NodeId, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (key in self._base and key not in self._gone)

    def __delitem__(self, key: NodeId) -> None:
        if key not in self:
            raise KeyError(key)
        self._gone[key] = None
        super().pop(key, None)

    def __setitem__(self, key: NodeId, value: NodeData) -> None:
        self._gone.pop(key, None)
        super().__setitem__(key, value)

    def keys(self) -> list[NodeId]:  # type: ignore[override]
        """A list, because asyncua touches nodes, and thereby copies them, while it goes through this."""
        inherited = [key for key in self._base if key not in self._gone and not dict.__contains__(self, key)]
        return [*inherited, *super().keys()]

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@functools.cache
def _standard_nodes() -> Nodes:
    """The nodes of OPC 10000-5, built once per process."""
    space = AddressSpace()
    # A million objects are made here and none of them dies: collecting meanwhile doubles the time, and leaving them
    # to later full collections would slow each run and, in a forked worker, copy every page.
    collecting = gc.isenabled()
    gc.disable()
    try:
        standard_address_space.fill_address_space(NodeManagementService(space))
        gc.freeze()
    finally:
        if collecting:
            gc.enable()
    return cast(Nodes, space._nodes)


class _Row(NamedTuple):
    """What of a tag shows in the address space."""

    name: str
    folder: str
    type: str
    unit: str
    writable: bool
    low: float | None
    high: float | None
    description: str


_KINDS: Final[Mapping[str, VariantType]] = {
    "float": ua.VariantType.Double,
    "bool": ua.VariantType.Boolean,
    "int": ua.VariantType.Int64,  # holds whatever two registers can say
}


def _tag_id(name: str) -> NodeId:
    return ua.NodeId(name, _PLANT)


def _variable_type(row: _Row) -> int:
    """The VariableType of [P8] that has the properties the tag can fill."""
    if row.type == "bool":
        return ua.ObjectIds.TwoStateDiscreteType
    if row.low is not None and row.high is not None:
        return ua.ObjectIds.AnalogItemType
    return ua.ObjectIds.AnalogUnitType if row.unit else ua.ObjectIds.DataItemType


def _properties(row: _Row) -> Iterator[tuple[str, int, Variant]]:
    """Name, data type and value of each property of a tag's variable."""
    if row.type == "bool":
        for name, text in (("TrueState", "on"), ("FalseState", "off")):
            yield (
                name,
                ua.ObjectIds.LocalizedText,
                ua.Variant(ua.LocalizedText(text), ua.VariantType.LocalizedText),
            )
        return
    if row.low is not None and row.high is not None:
        span = ua.Range(float(row.low), float(row.high))
        yield "EURange", ua.ObjectIds.Range, ua.Variant(span, ua.VariantType.ExtensionObject)
    if row.unit:
        unit = ua.EUInformation(
            NamespaceUri="http://www.opcfoundation.org/UA/units/un/cefact",
            UnitId=unit_id(row.unit),
            DisplayName=ua.LocalizedText(row.unit),
            Description=ua.LocalizedText(row.unit),
        )
        yield "EngineeringUnits", ua.ObjectIds.EUInformation, ua.Variant(unit, ua.VariantType.ExtensionObject)


def _device_kind(folder: str) -> str:
    """ "plc1" -> "Plc": devices of one kind share an ObjectType."""
    stem = folder.rstrip("0123456789")
    return (stem.rstrip("_- ") or folder).capitalize()


@functools.lru_cache(maxsize=16)
def _plant_nodes(rows: tuple[_Row, ...]) -> Nodes:
    """The address space of a server with these tags, before its first start; worlds of one campaign share it."""
    server = InternalServer()
    space = server.aspace
    nodes = space._nodes = _Nodes(_standard_nodes())
    _finish(server._address_space_fixes())
    _finish(server.setup_nodes())

    def add(
        parent: NodeId,
        reference: int,
        node_class: NodeClass,
        node_id: NodeId,
        name: QualifiedName,
        attributes: Any,
        kind: NodeId | None = None,
    ) -> None:
        item = ua.AddNodesItem()
        item.ParentNodeId, item.RequestedNewNodeId = parent, node_id
        item.ReferenceTypeId, item.NodeClass, item.BrowseName = ua.NodeId(reference), node_class, name
        attributes.DisplayName = ua.LocalizedText(name.Name)
        item.NodeAttributes = attributes
        if kind is not None:
            item.TypeDefinition = kind
        server.node_mgt_service.add_nodes([item])[0].StatusCode.check()

    folder_type, base_type = ua.NodeId(ua.ObjectIds.FolderType), ua.NodeId(ua.ObjectIds.BaseObjectType)
    plant = ua.NodeId("plant", _PLANT)
    add(
        ua.NodeId(ua.ObjectIds.ObjectsFolder),
        ua.ObjectIds.Organizes,
        ua.NodeClass.Object,
        plant,
        ua.QualifiedName("Plant", _PLANT),
        ua.ObjectAttributes(),
        folder_type,
    )
    for kind in dict.fromkeys(_device_kind(row.folder) for row in rows):
        type_id = ua.NodeId(f"type:{kind}", _PLANT)
        name = ua.QualifiedName(f"{kind}Type", _PLANT)
        attributes = ua.ObjectTypeAttributes()
        add(base_type, ua.ObjectIds.HasSubtype, ua.NodeClass.ObjectType, type_id, name, attributes)
    for folder in dict.fromkeys(row.folder for row in rows):
        add(
            plant,
            ua.ObjectIds.Organizes,
            ua.NodeClass.Object,
            ua.NodeId(f"device:{folder}", _PLANT),
            ua.QualifiedName(folder, _PLANT),
            ua.ObjectAttributes(),
            ua.NodeId(f"type:{_device_kind(folder)}", _PLANT),
        )
    readable = 1 << ua.AccessLevel.CurrentRead | 1 << ua.AccessLevel.HistoryRead
    for row in rows:
        variable = ua.VariableAttributes()
        variable.DataType = ua.NodeId(_KINDS[row.type].value)
        variable.ValueRank = ua.ValueRank.Scalar
        variable.Description = ua.LocalizedText(row.description)
        variable.Historizing = True
        variable.AccessLevel = variable.UserAccessLevel = (
            readable | 1 << ua.AccessLevel.CurrentWrite if row.writable else readable
        )
        add(
            ua.NodeId(f"device:{row.folder}", _PLANT),
            ua.ObjectIds.HasComponent,
            ua.NodeClass.Variable,
            _tag_id(row.name),
            ua.QualifiedName(row.name, _PLANT),
            variable,
            ua.NodeId(_variable_type(row)),
        )
        for title, data_type, value in _properties(row):
            held = ua.VariableAttributes()
            held.DataType, held.ValueRank, held.Value = ua.NodeId(data_type), ua.ValueRank.Scalar, value
            held.AccessLevel = held.UserAccessLevel = 1 << ua.AccessLevel.CurrentRead
            add(
                _tag_id(row.name),
                ua.ObjectIds.HasProperty,
                ua.NodeClass.Variable,
                ua.NodeId(f"{row.name}.{title}", _PLANT),
                ua.QualifiedName(title, 0),
                held,
                ua.NodeId(ua.ObjectIds.PropertyType),
            )
    # Alarms come from the Server object, as from most servers.
    source = ua.NodeId(ua.ObjectIds.Server)
    notifier = ua.DataValue(ua.Variant(1 << ua.EventNotifier.SubscribeToEvents, ua.VariantType.Byte))
    nodes[source].attributes[ua.AttributeIds.EventNotifier].value = notifier
    generates = ua.AddReferencesItem()
    generates.SourceNodeId, generates.IsForward = source, True
    generates.ReferenceTypeId = ua.NodeId(ua.ObjectIds.GeneratesEvent)
    generates.TargetNodeClass, generates.TargetNodeId = ua.NodeClass.ObjectType, _ALARM_TYPE
    server.node_mgt_service.add_references([generates])[0].check()
    for node in nodes.values():
        for attribute in node.attributes.values():
            if attribute.value is not None:
                # Of whichever world happened to build this.
                attribute.value.SourceTimestamp = attribute.value.ServerTimestamp = None
    return {**_standard_nodes(), **dict(nodes.items())}


_ALARM_TYPE: Final = ua.NodeId(ua.ObjectIds.ExclusiveLevelAlarmType)


# -- a server's parts --------------------------------------------------------------------------------------------


class _Items(MonitoredItemService):
    """The monitored items of one subscription."""

    @staticmethod
    def _accepts(of_events: bool, wanted: Any) -> bool:
        if of_events:
            return isinstance(wanted, EventFilter)
        if wanted is None or (isinstance(wanted, ua.ExtensionObject) and not wanted):
            return True
        # Percent deadbands, which [P8] leaves to the server, are not offered.
        return isinstance(wanted, DataChangeFilter) and wanted.DeadbandType in (
            ua.DeadbandType.None_,
            ua.DeadbandType.Absolute,
        )

    async def create_monitored_items(
        self, params: CreateMonitoredItemsParameters
    ) -> list[MonitoredItemCreateResult]:
        results = []
        for item in params.ItemsToCreate:
            of_events = item.ItemToMonitor.AttributeId == ua.AttributeIds.EventNotifier
            wanted = item.RequestedParameters
            if not self._accepts(of_events, wanted.Filter):
                refused = ua.MonitoredItemCreateResult()
                refused.StatusCode = ua.StatusCode(ua.StatusCodes.BadMonitoredItemFilterUnsupported)
                results.append(refused)
                continue
            if not wanted.Filter:
                wanted.Filter = None
            if not of_events:
                wanted.QueueSize = max(wanted.QueueSize, 1)  # [P4] 7.21: 0 asks for the least
            single = ua.CreateMonitoredItemsParameters()
            single.ItemsToCreate = [item]
            results += await super().create_monitored_items(single)
        return results

    def _modify_monitored_item(self, params: MonitoredItemModifyRequest) -> MonitoredItemModifyResult:
        result = ua.MonitoredItemModifyResult()
        item = self._monitored_items.get(params.MonitoredItemId)
        wanted = params.RequestedParameters
        if item is None:
            result.StatusCode = ua.StatusCode(ua.StatusCodes.BadMonitoredItemIdInvalid)
            return result
        of_events = item.where_clause_evaluator is not None
        if not self._accepts(of_events, wanted.Filter):
            result.StatusCode = ua.StatusCode(ua.StatusCodes.BadMonitoredItemFilterUnsupported)
            return result
        item.filter = wanted.Filter or None
        item.queue_size = self._revise_queue_size(wanted.QueueSize if of_events else max(wanted.QueueSize, 1))
        result.RevisedSamplingInterval = self.isub.data.RevisedPublishingInterval
        result.RevisedQueueSize = item.queue_size
        return result

    def datachange_callback(  # type: ignore[override]
        self, handle: int, value: DataValue | None, error: StatusCode | None = None
    ) -> Awaitable[None]:
        """Queue a value for the next publication; all is done when this returns."""
        number = self._monitored_datachange[handle]
        item = self._monitored_items[number]
        if item.mode == ua.MonitoringMode.Disabled:
            return _DONE
        if value is None:  # the node is gone
            value = ua.DataValue(StatusCode=error)
        last = item.mvalue.current_dvalue
        if last is not None and not _worth_reporting(last, value, item.filter):
            return _DONE
        item.mvalue.current_dvalue = value
        entry = ua.MonitoredItemNotification(item.client_handle, value)
        waiting = self.isub._triggered_datachanges.get(number)
        if waiting is None:
            self.isub._triggered_datachanges[number] = [entry]
        else:
            if len(waiting) >= item.queue_size:
                del waiting[0]
            waiting.append(entry)
        return _DONE


def _worth_reporting(last: DataValue, value: DataValue, wanted: DataChangeFilter | None) -> bool:
    if last.StatusCode is not value.StatusCode and last.StatusCode != value.StatusCode:
        return True
    trigger = wanted.Trigger if wanted is not None else ua.DataChangeTrigger.StatusValue
    if trigger == ua.DataChangeTrigger.Status:
        return False
    if trigger == ua.DataChangeTrigger.StatusValueTimestamp and last.SourceTimestamp != value.SourceTimestamp:
        return True
    before, now = cast(ua.Variant, last.Value).Value, cast(ua.Variant, value.Value).Value
    if before == now:
        return False
    if wanted is None or wanted.DeadbandType != ua.DeadbandType.Absolute:
        return True
    if not isinstance(before, float | int) or not isinstance(now, float | int):
        return True
    return abs(now - before) > wanted.DeadbandValue


class _Subscriptions(SubscriptionService):
    """All subscriptions of a server."""

    def __init__(self, space: AddressSpace, server: InternalServer, publish_min: float) -> None:
        super().__init__(space, server)
        self._publish_min = publish_min

    async def create_subscription(
        self,
        params: CreateSubscriptionParameters,
        callback: Callable[..., Any],
        session_id: NodeId,
        request_callback: Callable[..., Any] | None = None,
    ) -> CreateSubscriptionResult:
        # In this order, because the smaller of a number and "not a number" is whichever comes first.
        params.RequestedPublishingInterval = min(
            _PUBLISH_MAX * 1000, max(self._publish_min * 1000, params.RequestedPublishingInterval)
        )
        result = await super().create_subscription(params, callback, session_id, request_callback)
        subscription = self.subscriptions[result.SubscriptionId]
        subscription.monitored_item_srv = _Items(subscription, self.aspace)
        return result


class _Account(User):
    """asyncua's notion of a user, with ours in it."""

    def __init__(self, user: UaUser) -> None:
        super().__init__(UserRole.Admin if user.role == "admin" else UserRole.User, user.name)
        self.user = user


class _Users(UserManager):
    """Asks the plant server's seam who somebody is."""

    def __init__(self, plant: PlantServer) -> None:
        self._plant = plant

    def get_user(
        self,
        iserver: InternalServer,
        username: str | None = None,
        password: str | None = None,
        certificate: Any = None,
    ) -> User | None:
        user = self._plant._identify(username, password, certificate)
        return _Account(user) if user is not None else None


class _Asking(Exception):
    """The plant's seam has to ask somebody else who this is: ``answer`` will say."""

    def __init__(self, answer: Awaitable[UaUser | None]) -> None:
        super().__init__()
        self.answer = answer


class _Session(InternalSession):
    """A client's session."""

    iserver: _InternalServer

    def __init__(self, server: _InternalServer, peer: tuple[str, int]) -> None:
        super().__init__(server, server.aspace, server.subscription_service, str(peer), external=False)
        self.external = True
        self.peer = peer[0]
        #: what the seam answered to the activation that is being carried out, once it has
        self.identified: tuple[UaUser | None] | None = None
        # asyncua counts both for the whole process, and a world would show what ran before it; [P4] wants tokens
        # that cannot be guessed.
        self.session_id = ua.NodeId(next(server.session_numbers), 1)
        self.auth_token = ua.NodeId(create_nonce(32), 1)
        server.register_external_session(self)

    @property
    def actor(self) -> UaUser:
        return cast(_Account, self.user).user

    async def create_session(
        self, params: CreateSessionParameters, sockname: tuple[str, int] | None = None
    ) -> CreateSessionResult:
        if not math.isfinite(params.RequestedSessionTimeout):
            params.RequestedSessionTimeout = 0.0  # which the server revises; not a time to wait for
        return await super().create_session(params, sockname)

    def activate_session(
        self, params: ActivateSessionParameters, peer_certificate: bytes | None
    ) -> ActivateSessionResult:
        InternalSession._current_connections = 0  # of the whole process; sessions are counted when created
        token = params.UserIdentityToken
        name = token.UserName if isinstance(token, ua.UserNameIdentityToken) else None
        self.iserver.plant.asking = self.peer
        self.iserver.plant._answered = self.identified
        try:
            result = super().activate_session(params, peer_certificate)
        except (ServiceError, ua.UaStatusCodeError) as refusal:
            self.iserver.plant._refused(self.peer, name or "anonymous", refusal.code)
            raise
        self.iserver.plant._tell("session.opened", user=self.actor.name, role=self.actor.role, peer=self.peer)
        return result

    async def close_session(self, delete_subs: bool = True) -> None:
        was_open = self.is_activated()
        await super().close_session(delete_subs)
        if was_open:
            self.iserver.plant._tell("session.closed", user=self.actor.name, peer=self.peer)

    async def write(self, params: WriteParameters) -> list[StatusCode]:
        results = []
        for item in params.NodesToWrite:
            point = self.iserver.plant._points_by_id.get(item.NodeId)
            if point is not None and item.AttributeId == ua.AttributeIds.Value:
                code = await self.iserver.plant._take_write(self, point, item.Value)
                results.append(ua.StatusCode(code))
            else:
                single = ua.WriteParameters()
                single.NodesToWrite = [item]
                results += await super().write(single)
        return results


#: Requests that begin a session, and so must come over a channel that the server offers.
_OPENING: Final = (
    ua.NodeId(ua.ObjectIds.CreateSessionRequest_Encoding_DefaultBinary),
    ua.NodeId(ua.ObjectIds.ActivateSessionRequest_Encoding_DefaultBinary),
)


_PUBLISH_REQUEST: Final = ua.NodeId(ua.ObjectIds.PublishRequest_Encoding_DefaultBinary)


class _Processor(UaProcessor):
    """What is behind one connection."""

    iserver: _InternalServer

    def __init__(self, server: _InternalServer, transport: asyncio.BaseTransport, limits: Any) -> None:
        super().__init__(server, transport, limits)
        self._connection = _Connection(SecurityPolicyNone(), self._limits)
        # Half the session's time-out does; asyncua's second would cost each session a wake-up a second.
        self._watchdog_interval = 60.0

    async def _process_message(self, typeid: Any, requesthdr: Any, seqhdr: Any, body: Any) -> Any:
        if typeid in _OPENING:
            policy = self._connection.security_policy
            code = None
            # A channel without security is open to everybody for discovery. asyncua would also begin sessions on it.
            if not any(offer.matches(policy.URI, policy.Mode) for offer in self._connection._policies):
                code = ua.StatusCodes.BadSecurityPolicyRejected
            elif typeid == _OPENING[0] and self.iserver.is_full():
                code = ua.StatusCodes.BadTooManySessions
            if code is not None:
                self.iserver.plant._refused(self.name[0], "", code)
                raise ServiceError(code)
        session = self.session
        if typeid == _PUBLISH_REQUEST and session is not None and session.is_activated():
            return await self._take_publish_request(session, typeid, requesthdr, seqhdr, body)
        if typeid != _OPENING[1]:
            return await super()._process_message(typeid, requesthdr, seqhdr, body)
        # asyncua activates in one go. Where the seam has to wait for an answer, the request is taken up to the
        # question, and once more from its beginning when the answer is there.
        again = body.copy()
        try:
            return await super()._process_message(typeid, requesthdr, seqhdr, body)
        except _Asking as asking:
            waiting = cast(_Session, self.session)
            with self.iserver.plant._seam:
                waiting.identified = (await asking.answer,)
            try:
                return await super()._process_message(typeid, requesthdr, seqhdr, again)
            finally:
                waiting.identified = None

    async def _take_publish_request(
        self, session: InternalSession, typeid: Any, requesthdr: Any, seqhdr: Any, body: Any
    ) -> bool:
        """What asyncua does, after it has compared the request with all other types, for by far the most frequent."""
        permissions = self._connection.security_policy.permissions
        if permissions is not None and not permissions.check_validity(session.user, typeid, body):
            raise ua.uaerrors.BadUserAccessDenied
        self.session_last_activity = _monotonic()
        session.touch()
        acknowledged = ua_binary.struct_from_binary(ua.PublishParameters, body).SubscriptionAcknowledgements
        subscriptions, results = session.publish(acknowledged)
        data = PublishRequestData(requesthdr, seqhdr, results)
        while self._publish_results_subs:
            number = next(iter(self._publish_results_subs))
            del self._publish_results_subs[number]
            waiting = session.subscription_service.subscriptions.get(number)
            if waiting is not None and await waiting.publish_results(data):
                return True
        if len(self._publish_requests) >= self.publish_request_limit(subscriptions):
            self._evict_publish_request()
        self._publish_requests.append(data)
        return True


class _Protocol(OPCUAProtocol):
    """A connection whose peer is cut off when it breaks the protocol, with the error message of [P6] 7.1.2.5."""

    iserver: _InternalServer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.processor is not None:
            self.processor = _Processor(self.iserver, transport, self.limits)
            self.processor.set_policies(self.policies)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while len(buffer) >= 8:
            least = _HEADERS.get(buffer[:3])
            size = int.from_bytes(buffer[4:8], "little")
            if least is None:
                return self._cut_off(ua.StatusCodes.BadTcpMessageTypeInvalid)
            if not least <= size <= self.limits.max_recv_buffer:
                return self._cut_off(ua.StatusCodes.BadTcpMessageTooLarge)
            if len(buffer) < size:
                break
            message = Buffer(buffer[:size])
            buffer = buffer[size:]
            if self.messages.full():
                return self._cut_off(ua.StatusCodes.BadTcpNotEnoughResources)
            self.messages.put_nowait((ua_binary.header_from_binary(message), message))
        self._buffer = buffer
        return None

    def _cut_off(self, code: int) -> None:
        self._buffer = b""
        if self.transport is not None and not self.transport.is_closing():
            error = ua.ErrorMessage(ua.StatusCode(code), ua.StatusCode(code).name)
            self.transport.write(ua_binary.uatcp_to_binary(ua.MessageType.Error, error))
            self.transport.close()

    async def _process_one_msg(self, header: Any, buf: Buffer) -> bool:
        code: int | None = ua.StatusCodes.BadTcpInternalError
        try:
            going_on = await super()._process_one_msg(header, buf)
            code = None
        except ua.UaStatusCodeError as refusal:
            code = refusal.code
            self.iserver.plant._refused(self.peer_name[0], "", code)
            going_on = False
        finally:
            # Whatever else a malformed message raises in asyncua is logged there, and the connection would live on.
            if code is not None:
                self._cut_off(code)
        return going_on


#: Message type -> least size of a message that means anything ([P6] 6.7.2.2, 7.1.2.2).
_HEADERS: Final[Mapping[bytes, int]] = {b"HEL": 9, b"OPN": 13, b"MSG": 13, b"CLO": 13, b"ERR": 9, b"ACK": 9}


class _Offer:
    """One security policy that a server offers, to certificates it trusts."""

    def __init__(self, factory: SecurityPolicyFactory, plant: PlantServer) -> None:
        self._factory, self._plant = factory, plant
        self.matches = factory.matches

    def create(self, peer_certificate: bytes | None) -> SecurityPolicy:
        secured = self._factory.mode != ua.MessageSecurityMode.None_
        if secured and not (peer_certificate and self._plant._trusts(peer_certificate)):
            # [P4] 6.1.3: the reason is for the server's log and not for the peer.
            raise ua.UaStatusCodeError(ua.StatusCodes.BadSecurityChecksFailed)
        return cast(SecurityPolicy, self._factory.create(peer_certificate))


class _Listener(BinaryServer):
    def _make_protocol(self) -> _Protocol:
        return _Protocol(self.iserver, self._policies, self.clients, self.closing_tasks, self.limits)


class _Space(AddressSpace):
    """An address space whose clock ticks only once somebody watches it."""

    def __init__(self, server: InternalServer, nodes: Nodes) -> None:
        super().__init__()
        self._server = server
        self._nodes = _Nodes(nodes)

    def add_datachange_callback(
        self, nodeid: NodeId, attr: AttributeIds, callback: Callable[..., Any]
    ) -> tuple[StatusCode, int]:
        if nodeid in _CLOCKS and self._server.time_task is None:
            self._server.time_task = _create_task(self._server._set_current_time_loop())
        return super().add_datachange_callback(nodeid, attr, callback)


_CURRENT_TIME: Final = ua.NodeId(ua.ObjectIds.Server_ServerStatus_CurrentTime)
_STATUS: Final = ua.NodeId(ua.ObjectIds.Server_ServerStatus)
_CLOCKS: Final = (_CURRENT_TIME, _STATUS)


_ANYBODY: Final = User(role=UserRole.Anonymous)


class _InternalServer(InternalServer):
    """Address space and services."""

    def __init__(self, plant: PlantServer, nodes: Nodes) -> None:
        super().__init__(user_manager=_Users(plant))
        self.plant = plant
        self.session_numbers = count(1)
        self.disabled_clock = True
        space = self.aspace = _Space(self, nodes)
        self.attribute_service = AttributeService(space)
        self.view_service = ViewService(space)
        self.method_service = MethodService(space)
        self.node_mgt_service = NodeManagementService(space)
        self.subscription_service = _Subscriptions(space, self, plant.publish_min)
        inside = User(role=UserRole.Admin)
        self.isession = InternalSession(self, space, self.subscription_service, "Internal", user=inside)
        self.current_time_node = Node(self.isession, _CURRENT_TIME)
        self.server_status_node = Node(self.isession, _STATUS)
        self.history_manager.set_storage(_History(plant))

    def is_full(self) -> bool:
        return len(self._external_sessions) >= self.plant.max_sessions

    def create_session(self, name: Any, user: User = _ANYBODY, external: bool = False) -> InternalSession:
        return _Session(self, name) if external else super().create_session(name, user)

    async def start(self) -> None:
        await super().start()
        space = self.aspace
        space.set_attribute_value_callback(_CURRENT_TIME, ua.AttributeIds.Value, self._tell_time)
        status = cast(ua.Variant, space.read_attribute_value(_STATUS, ua.AttributeIds.Value).Value).Value

        def tell_status(_node: NodeId, _attribute: AttributeIds) -> DataValue:
            return _dated(ua.Variant(replace(status, CurrentTime=_Datetime.now(UTC))))

        space.set_attribute_value_callback(_STATUS, ua.AttributeIds.Value, tell_status)

    def _tell_time(self, _node: NodeId, _attribute: AttributeIds) -> DataValue:
        return _dated(ua.Variant(_Datetime.now(UTC)))


def _dated(value: Variant) -> DataValue:
    now = _Datetime.now(UTC)
    return ua.DataValue(value, SourceTimestamp=now, ServerTimestamp=now)


class _Server(Server):
    iserver: _InternalServer

    async def start(self) -> None:
        await self._setup_server_nodes()
        offers: list[Any] = [_Offer(policy, self.iserver.plant) for policy in self._policies]
        await self.iserver.start()
        plant = self.iserver.plant
        self.bserver = _Listener(self.iserver, plant.host.address, plant.port, self.limits)
        self.bserver.set_policies(offers)
        try:
            await self.bserver.start()
        except OSError:
            await self.iserver.stop()
            raise

    async def stop(self) -> None:
        """Stop for good: asyncua leaves running what belongs to sessions whose connection is gone."""
        await super().stop()
        for session in list(self.iserver._external_sessions.values()):
            await session.close_session(True)


# -- the plant's server ------------------------------------------------------------------------------------------


class _Point:
    """The current value of one tag, its recent past and its alarms."""

    __slots__ = ("active", "data", "good", "history", "kind", "node_id", "slot", "tag", "time", "value")

    def __init__(self, tag: UaTag, keep: int) -> None:
        self.tag = tag
        self.node_id = _tag_id(tag.name)
        self.kind = _KINDS[tag.type]
        self.value: float | bool | int | None = None  # the last good one
        self.good: bool | None = None  # None: nothing known yet
        self.time = 0.0
        self.data: DataValue | None = None
        self.slot: AttributeValue | None = None  # where the running server keeps who watches the value
        self.history: deque[tuple[float, float | bool | int | None, bool]] = deque(maxlen=keep)
        self.active: dict[str, _AlarmEvent] = {}


class _AlarmEvent:
    """An alarm as asyncua's subscriptions handle events: fields by browse path, absent ones null."""

    def __init__(self, condition: NodeId, fields: Mapping[str, Variant]) -> None:
        self.emitting_node = ua.NodeId(ua.ObjectIds.Server)
        self.NodeId = condition
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        """Fields by name, for the where clause of a filter."""
        fields = self.__dict__.get("fields", {})
        if name not in fields:
            raise AttributeError(name)
        return fields[name].Value

    def to_event_fields(self, select_clauses: Iterable[SimpleAttributeOperand]) -> list[Variant]:
        found = []
        for clause in select_clauses:
            if clause.BrowsePath:
                path = "/".join(str(part.Name) for part in clause.BrowsePath)
                found.append(self.fields.get(path, _NULL))
            else:  # [P9] 5.5.2: how a client asks for the condition's own id
                found.append(ua.Variant(self.NodeId, ua.VariantType.NodeId))
        return found


_NULL: Final = ua.Variant(None, ua.VariantType.Null)


class _History(HistoryStorageInterface):
    """Serves HistoryRead from what the tags remember."""

    def __init__(self, plant: PlantServer) -> None:
        super().__init__()
        self._plant = plant

    async def init(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def new_historized_node(self, node_id: Any, period: Any, count: int = 0) -> None:
        """Every tag is historized already."""

    async def save_node_value(self, node_id: Any, datavalue: Any) -> None:
        """The tags remember by themselves."""

    async def new_historized_event(self, source_id: Any, evtypes: Any, period: Any, count: int = 0) -> None:
        """Events are not historized."""

    async def save_event(self, event: Any) -> None:
        """Events are not historized."""

    async def read_event_history(
        self, source_id: Any, start: Any, end: Any, nb_values: int, evfilter: Any
    ) -> tuple[list[Any], None]:
        return [], None

    async def read_node_history(
        self, node_id: NodeId, start: datetime | None, end: datetime | None, nb_values: int
    ) -> tuple[list[DataValue], datetime | None]:
        """As [P11] reads raw data: oldest first, or newest first if no start is given or it lies behind the end."""
        point = self._plant._points_by_id.get(node_id)
        if point is None:
            return [], None
        never = ua.get_win_epoch()
        first = start if start is not None and start > never else None
        last = end if end is not None and end > never else None
        backward = first is None or (last is not None and first > last)
        low, high = (last, first) if backward and first is not None else (first, last)
        calendar = self._plant._calendar
        found = []
        for seconds, value, good in reversed(point.history) if backward else point.history:
            moment = calendar.moment(seconds)
            if (low is None or moment >= low) and (high is None or moment <= high):
                found.append(_data(point.kind, _TYPES[point.kind](value) if good else None, good, moment))
        most = nb_values or _MOST_HISTORY
        following = found[most].SourceTimestamp if len(found) > most else None
        return found[:most], following


_MOST_HISTORY: Final = 10_000  # values in one response; asyncua's own limit


def _data(kind: VariantType, value: Any, good: bool, moment: datetime) -> DataValue:
    """[P4]: a value whose status is bad is null."""
    if good:
        return _value_of(value, kind, _GOOD, moment, moment)
    return ua.DataValue(_NULL, _NO_COMMUNICATION, moment, moment)


_NO_COMMUNICATION: Final = ua.StatusCode(ua.StatusCodes.BadNoCommunication)

_POLICIES: Final[Mapping[str, Any]] = {
    "None": ua.SecurityPolicyType.NoSecurity,
    "Basic256Sha256_Sign": ua.SecurityPolicyType.Basic256Sha256_Sign,
    "Basic256Sha256_SignAndEncrypt": ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
}


class _Seam:
    """What runs in here is a device's or control's code: its errors end the run, whatever asyncua makes of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and isinstance(self._loop, SimLoop):
            self._loop.fail(error)


class PlantServer:
    """An OPC UA server on ``host`` that shows ``tags`` and passes clients' writes to ``write``.

    ``write(tag, value)`` carries a value to the process (engineering units) and returns whether that succeeded; the
    client's write is good only then, and the new value shows when ``update`` brings it.

    The seams are attributes and may be filled in later; those marked * are read by ``start``. Their defaults are a
    server as it comes from the factory: anonymous sessions without security, and everybody may write what is writable.

    ``authenticate(user, password, certificate)`` -> UaUser, or None to refuse, at once or awaited; ``user`` is None
        for an anonymous session, ``certificate`` the DER of the channel's client, if any.
    ``authorize_write(user, tag, value)`` false: BadUserAccessDenied. ``validate_write(tag, value)`` false:
        BadOutOfRange.
    ``security``* the offers, of ``SECURITY``; ``certificate``* and ``key``* (DER or PEM), made for the host when an
        offer needs them and none are given; ``trust(certificate)`` which client certificates may open a channel.
    ``max_sessions`` further ones are refused with BadTooManySessions.
    ``on_event(kind, data)`` the audit: ``session.opened`` (user, role, peer), ``session.closed`` (user, peer),
        ``session.refused`` (user, peer, reason), ``write.accepted`` and ``write.denied`` (user, peer, tag, value,
        reason), ``alarm.raised`` and ``alarm.cleared`` (tag, limit, severity, value). ``peer`` is an address and
        ``reason`` the name of a status code.

    What a seam or ``write`` raises ends the run.
    """

    def __init__(
        self,
        host: Host,
        tags: Sequence[UaTag],
        write: Callable[[UaTag, float], Awaitable[bool]],
        *,
        authenticate: Callable[
            [str | None, str | None, bytes | None], UaUser | Awaitable[UaUser | None] | None
        ]
        | None = None,
        authorize_write: Callable[[UaUser, UaTag, float], bool] | None = None,
        validate_write: Callable[[UaTag, float], bool] | None = None,
        security: tuple[str, ...] = ("None",),
        certificate: bytes | None = None,
        key: bytes | None = None,
        trust: Callable[[bytes], bool] | None = None,
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
        max_sessions: int = 100,
        port: int = 4840,
        publish_min: float = _PUBLISH_MIN,
        history: int = 1000,
    ) -> None:
        _install()
        self.host, self.port = host, port
        self.tags = tuple(tags)
        self.authenticate, self.authorize_write, self.validate_write = (
            authenticate,
            authorize_write,
            validate_write,
        )
        self.security, self.certificate, self.key, self.trust = security, certificate, key, trust
        self.on_event = on_event
        self.max_sessions = max_sessions
        self._answered: tuple[UaUser | None] | None = None
        self.publish_min = publish_min
        self.uri = f"urn:{host.name}:opcua"
        #: address of the client that ``authenticate`` or ``authorize_write`` is being asked about
        self.asking = ""
        self._write = write
        self._loop = host.network.loop
        self._seam = _Seam(self._loop)
        self._points = {tag.name: _Point(tag, history) for tag in tags}
        if len(self._points) != len(self.tags):
            raise ValueError("two tags of one server have the same name")
        self._points_by_id = {point.node_id: point for point in self._points.values()}
        self._calendar = _Calendar(self._loop)
        self._server: _Server | None = None

    # -- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to serve; again after a stop or a loss of power. OSError if the port is taken."""
        inner = _InternalServer(self, _plant_nodes(self._rows()))
        server = _Server(inner)
        server.set_endpoint(f"opc.tcp://{self.host.address}:{self.port}/")
        server.name = f"{self.host.name} OPC UA server"
        server.product_uri, server.manufacturer_name = "urn:otlab:plant-server", "OT Lab"
        await server.set_application_uri(self.uri)
        await server.register_namespace(NAMESPACE)
        await server.set_build_info(
            server.product_uri, server.manufacturer_name, server.name, "1.0", "1", EPOCH
        )
        if any(offer != "None" for offer in self.security):
            self._load_certificate(server)
        server.set_security_policy([_POLICIES[offer] for offer in self.security])
        inner.bind_condition_methods = 1  # the severity of the events that frame a refresh
        await inner.setup_condition_methods()
        for point in self._points.values():
            point.slot = inner.aspace[point.node_id].attributes[ua.AttributeIds.Value]
            point.slot.value_callback = functools.partial(self._current, point)
            for event in point.active.values():
                inner.subscription_service._conditions[event.NodeId] = event
        await server.start()
        self._server = server

    def _rows(self) -> tuple[_Row, ...]:
        return tuple(
            _Row(tag.name, tag.folder, tag.type, tag.unit, tag.writable, tag.low, tag.high, tag.description)
            for tag in self.tags
        )

    def _load_certificate(self, server: _Server) -> None:
        if self.certificate is None or self.key is None:
            stream = self.host.network.randomness.stream(f"opcua certificate:{self.host.name}")
            self.certificate, self.key = make_certificate(self.host.name, self.uri, stream)
        server.iserver.certificate = _certificate(self.certificate)
        server.iserver.private_key = _private_key(self.key)

    async def stop(self) -> None:
        """Stop serving and close every session; does nothing when not serving."""
        server, self._server = self._server, None
        if server is not None:
            for point in self._points.values():
                point.slot = None
            await server.stop()

    @property
    def sessions(self) -> int:
        """Sessions that count toward ``max_sessions`` now."""
        return len(self._server.iserver._external_sessions) if self._server is not None else 0

    # -- values ------------------------------------------------------------------------------------------------

    def _point(self, name: str) -> _Point:
        point = self._points.get(name)
        if point is None:
            raise UnknownNameError("tag", name, self._points)
        return point

    def update(
        self, name: str, value: float | bool | int, *, good: bool = True, timestamp: float | None = None
    ) -> None:
        """Take a value from the process, measured at ``timestamp`` (virtual s, default now).

        A value that is neither good nor bad news, because it lies within the deadband, is dropped. While not ``good``
        the tag has no value and the status BadNoCommunication. A good one also raises and clears limit alarms.
        """
        point = self._points.get(name)
        if point is None:
            raise UnknownNameError("tag", name, self._points)
        if good is point.good and (not good or abs(value - point.value) <= point.tag.deadband):  # type: ignore[operator]
            return
        now = self._loop.time()
        point.time = now if timestamp is None else timestamp
        point.good = good
        if good:
            point.value = value
        point.data = None
        point.history.append((point.time, value, good))
        slot = point.slot
        if slot is not None and slot.datachange_callbacks:
            data = self._current(point)
            for handle, watcher in slot.datachange_callbacks.items():
                watcher(handle, data)
        if good and point.tag.limits:
            self._judge(point, value)

    def _current(self, point: _Point, *_: object) -> DataValue:
        """The value as the address space shows it; made when somebody looks."""
        data = point.data
        if data is None:
            moment = self._calendar.moment(point.time)
            if point.good is None:
                data = ua.DataValue(_NULL, _WAITING, moment, moment)
            else:
                value = _TYPES[point.kind](point.value) if point.good else None
                data = _data(point.kind, value, point.good, moment)
            point.data = data
        return data

    # -- alarms ------------------------------------------------------------------------------------------------

    def _judge(self, point: _Point, value: float) -> None:
        """Raise an alarm at its limit and clear it when the value is back by more than the deadband."""
        for limit, edge in point.tag.limits.items():
            beyond = edge - value if limit[0] == "L" else value - edge
            if limit in point.active:
                if beyond < -point.tag.deadband:
                    self.clear_alarm(point.tag.name, limit)
            elif beyond >= 0:
                self.raise_alarm(point.tag.name, limit)

    def raise_alarm(
        self, name: str, limit: str, *, severity: int | None = None, message: str | None = None
    ) -> None:
        """Raise the alarm of tag ``name`` at ``limit`` (LL, L, H, HH) as an event; nothing if it is raised already.

        ``severity`` (1 to 1000) and ``message`` default to those of the limit.
        """
        point = self._point(name)
        if limit not in LIMIT_STATES:
            raise UnknownNameError("alarm limit", limit, LIMIT_STATES)
        if limit not in point.active:
            point.active[limit] = self._emit(point, limit, True, severity or LIMIT_STATES[limit][1], message)

    def clear_alarm(self, name: str, limit: str) -> None:
        """Tell that the alarm is over; nothing if it is not raised."""
        point = self._point(name)
        raised = point.active.pop(limit, None)
        if raised is not None:
            self._emit(point, limit, False, raised.Severity, None)

    def _emit(
        self, point: _Point, limit: str, active: bool, severity: int, message: str | None
    ) -> _AlarmEvent:
        tag, state = point.tag, LIMIT_STATES[limit][0]
        moment = self._calendar.moment(self._loop.time())
        if message is None:
            shown = f"{point.value:g} {tag.unit}".rstrip() if point.value is not None else "no value"
            message = f"{tag.name} {limit}: {shown}" if active else f"{tag.name} {limit} cleared: {shown}"
        kinds = ua.VariantType
        values: tuple[tuple[str, Any, VariantType], ...] = (
            ("EventId", self._random(16), kinds.ByteString),
            ("EventType", _ALARM_TYPE, kinds.NodeId),
            ("SourceNode", point.node_id, kinds.NodeId),
            ("SourceName", tag.name, kinds.String),
            ("Time", moment, kinds.DateTime),
            ("ReceiveTime", moment, kinds.DateTime),
            ("Message", ua.LocalizedText(message), kinds.LocalizedText),
            ("Severity", severity, kinds.UInt16),
            ("ConditionName", f"{tag.name}.{limit}", kinds.String),
            ("Retain", active, kinds.Boolean),
            ("EnabledState", ua.LocalizedText("Enabled"), kinds.LocalizedText),
            ("EnabledState/Id", True, kinds.Boolean),
            ("ActiveState", ua.LocalizedText("Active" if active else "Inactive"), kinds.LocalizedText),
            ("ActiveState/Id", active, kinds.Boolean),
            ("InputNode", point.node_id, kinds.NodeId),
            ("LimitState/CurrentState", ua.LocalizedText(state), kinds.LocalizedText),
        )
        event = _AlarmEvent(
            ua.NodeId(f"{tag.name}.{limit}", _PLANT),
            {path: ua.Variant(value, kind) for path, value, kind in values},
        )
        if self._server is not None:
            _finish(self._server.iserver.subscription_service.trigger_event(event))
        self._tell(
            "alarm.raised" if active else "alarm.cleared",
            tag=tag.name,
            limit=limit,
            severity=severity,
            value=point.value,
        )
        return event

    def _random(self, size: int) -> bytes:
        """Of the world's, also when whoever calls ``update`` does so from outside its loop."""
        return self._loop.entropy.randbytes(size) if isinstance(self._loop, SimLoop) else os.urandom(size)

    # -- seams -------------------------------------------------------------------------------------------------

    def _tell(self, kind: str, **data: Any) -> None:
        if self.on_event is not None:
            with self._seam:
                self.on_event(kind, data)

    def _refused(self, peer: str, user: str, code: int) -> None:
        self._tell("session.refused", user=user, peer=peer, reason=ua.StatusCode(code).name)

    def _identify(self, user: str | None, password: str | None, certificate: bytes | None) -> UaUser | None:
        if self.authenticate is None:
            # As asyncua comes: whoever says "admin" is the administrator.
            return UaUser(user or "anonymous", "admin" if user in ("admin", "Admin") else "engineer")
        if self._answered is not None:
            return self._answered[0]
        with self._seam:
            found = self.authenticate(user, password, certificate or None)
        if isinstance(found, Awaitable):
            raise _Asking(found)
        return found

    def _trusts(self, certificate: bytes) -> bool:
        if self.trust is None:
            return True
        with self._seam:
            return self.trust(certificate)

    async def _take_write(self, session: _Session, point: _Point, data: DataValue) -> int:
        """Authorize, validate and carry out a client's write; returns the status code of the answer."""
        tag = point.tag
        given = data.Value if data is not None else None
        if given is None or given.is_array or given.VariantType != point.kind:
            return self._deny(session, tag, None, ua.StatusCodes.BadTypeMismatch)
        value = given.Value
        if not tag.writable:
            return self._deny(session, tag, value, ua.StatusCodes.BadNotWritable)
        self.asking = session.peer
        with self._seam:
            if self.authorize_write is not None and not self.authorize_write(session.actor, tag, value):
                return self._deny(session, tag, value, ua.StatusCodes.BadUserAccessDenied)
            # No process value is infinite or not a number, whatever the range.
            if not math.isfinite(value) or (self.validate_write and not self.validate_write(tag, value)):
                return self._deny(session, tag, value, ua.StatusCodes.BadOutOfRange)
        # In a task of its own, because a write on its way to the process does not stop when its client goes away.
        return await asyncio.shield(
            self.host.spawn(self._carry(session, tag, value), f"opcua write {tag.name}")
        )

    async def _carry(self, session: _Session, tag: UaTag, value: float) -> int:
        if not await self._write(tag, value):
            return self._deny(session, tag, value, ua.StatusCodes.BadNoCommunication)
        self._tell(
            "write.accepted",
            user=session.actor.name,
            peer=session.peer,
            tag=tag.name,
            value=value,
            reason="Good",
        )
        return ua.StatusCodes.Good

    def _deny(self, session: _Session, tag: UaTag, value: float | None, code: int) -> int:
        reason = ua.StatusCode(code).name
        self._tell(
            "write.denied",
            user=session.actor.name,
            peer=session.peer,
            tag=tag.name,
            value=value,
            reason=reason,
        )
        return code


_WAITING: Final = ua.StatusCode(ua.StatusCodes.BadWaitingForInitialData)
_TYPES: Final[Mapping[VariantType, Callable[[Any], Any]]] = {
    ua.VariantType.Double: float,
    ua.VariantType.Boolean: bool,
    ua.VariantType.Int64: int,
}


# -- the client --------------------------------------------------------------------------------------------------

Told = Callable[[str, float, bool, float], None]

#: What asyncua's client raises when bytes are not what they should be, besides status codes.
_GARBAGE: Final = (
    ua.UaError,
    cast(Any, uacrypto).InvalidSignature,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    RecursionError,
    struct.error,
)

_AS_PUBLISHED: Final = uatypes.Double(-1)  # [P4] 7.21: the sampling interval is the publishing interval


#: How a publish response begins: its type's node id, in the form that every server gives it.
_PUBLISH_RESPONSE: Final = ua_binary.nodeid_to_binary(
    ua.FourByteNodeId(ua.ObjectIds.PublishResponse_Encoding_DefaultBinary)
)


class _ClientSession(UaSession):
    async def publish(self, acks: list[Any]) -> Any:
        """As asyncua's, without the layers that bound, count and time a request that may take for ever."""
        protocol = self._client.protocol
        if protocol is None:
            raise ConnectionError("the connection is closed")
        request = ua.PublishRequest()
        request.Parameters.SubscriptionAcknowledgements = acks
        data = await protocol._send_request(request, 0)
        if not data._data.startswith(_PUBLISH_RESPONSE):
            protocol.check_answer(data, " in response to PublishRequest")
        return ua_binary.struct_from_binary(ua.PublishResponse, data)


class _Channel(ua_client.UaClient):
    """The lower half of a client, with our session and secure channel in it."""

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self.session = _ClientSession(self)

    def _make_protocol(self) -> ua_client.UASocketProtocol:
        protocol = super()._make_protocol()
        protocol._connection = _Connection(self.security_policy, protocol._connection._limits)
        return protocol


class _Feed(Subscription):
    """A subscription whose publications go straight to a callback; asyncua would start a task for each value."""

    def __init__(self, session: Any, period: float, keep_alive: int, take: Callable[[Any], None]) -> None:
        params = ua.CreateSubscriptionParameters()
        params.RequestedPublishingInterval = period * 1000
        params.RequestedMaxKeepAliveCount = keep_alive
        params.RequestedLifetimeCount = (
            3 * keep_alive
        )  # [P4] 5.14.2: at least three times the keep-alive count
        params.MaxNotificationsPerPublish = 0
        params.PublishingEnabled = True
        super().__init__(session, params)
        self._take = take

    def publish_callback(self, publish_result: PublishResult) -> Awaitable[None]:  # type: ignore[override]
        self.last_publish_at = _monotonic()
        message = publish_result.NotificationMessage
        if message.NotificationData:
            self.last_sequence_number = message.SequenceNumber
            for notification in message.NotificationData:
                self._take(notification)
        return _DONE

    async def watch(
        self, nodes: Sequence[NodeId], attribute: AttributeIds, wanted: Any, queue: int
    ) -> tuple[list[int], list[int | StatusCode]]:
        """Monitor ``nodes``; returns the handles that notifications will carry, and the server's answers."""
        items = [
            self._make_monitored_item_request(
                Node(self.server, node), attribute, wanted, queue, ua.MonitoringMode.Reporting, _AS_PUBLISHED
            )
            for node in nodes
        ]
        return [item.RequestedParameters.ClientHandle for item in items], await self.create_monitored_items(
            items
        )


_ALARM_PATHS: Final = (
    "EventId",
    "EventType",
    "SourceName",
    "Time",
    "Message",
    "Severity",
    "ConditionName",
    "Retain",
    "ActiveState/Id",
    "LimitState/CurrentState",
)
#: Those without which an event is no limit alarm.
_ALARM_FIELDS: Final[Mapping[str, type]] = {
    "SourceName": str,
    "Time": datetime,
    "Message": ua.LocalizedText,
    "Severity": int,
    "ActiveState/Id": bool,
    "LimitState/CurrentState": ua.LocalizedText,
}
_LIMIT_OF_STATE: Final = {state: limit for limit, (state, _) in LIMIT_STATES.items()}


def _alarm_filter() -> EventFilter:
    """Written out, because asyncua would browse the event types and put them in the order of a set."""
    wanted = ua.EventFilter()
    for path in _ALARM_PATHS:
        clause = ua.SimpleAttributeOperand()
        clause.TypeDefinitionId = ua.NodeId(ua.ObjectIds.BaseEventType)
        clause.BrowsePath = [ua.QualifiedName(part, 0) for part in path.split("/")]
        clause.AttributeId = ua.AttributeIds.Value
        wanted.SelectClauses.append(clause)
    return wanted


class UaClient:
    """A client of a ``PlantServer``, or of any OPC UA server whose variables it is told node ids of.

    A name is a tag's, or a node id in its text form ("i=2258", "ns=3;s=Pump.Speed"). Times are virtual seconds.

    ``security`` is one of ``SECURITY`` (None: without), with ``certificate`` and ``key`` (DER or PEM) of the client;
    ``trust(certificate)`` says whether the server's certificate (DER) is the right one. ``timeout`` (s) bounds
    connecting and each request. While connected the client reads the server's state every ``keep_alive`` s, and a
    server forgets a client of which it hears nothing for ``session_timeout`` s.

    Requests raise TimeoutError, ConnectionError when there is no connection (any more), and of those UaServiceError
    when the server refuses the whole request.
    """

    def __init__(
        self,
        url: str,
        user: str | None = None,
        password: str | None = None,
        security: str | None = None,
        certificate: bytes | None = None,
        key: bytes | None = None,
        timeout: float = 4.0,
        *,
        trust: Callable[[bytes], bool] | None = None,
        keep_alive: float = 10.0,  # assumption; clients come with 5 s to 30 s
        session_timeout: float = 60.0,  # the .NET reference client's default
    ) -> None:
        _install()
        if security not in (None, *SECURITY):
            raise UnknownNameError("OPC UA security", str(security), SECURITY)
        self.url, self.user, self.password = url, user, password
        self.security = None if security == "None" else security
        self.certificate, self.key, self.trust = certificate, key, trust
        self.timeout, self.keep_alive, self.session_timeout = timeout, keep_alive, session_timeout
        self._client: Client | None = None
        self._gone = asyncio.Event()
        self._gone.set()
        self._kinds: dict[str, VariantType] = {}
        self._ids: dict[str, NodeId] = {}

    @property
    def connected(self) -> bool:
        return not self._gone.is_set()

    # -- the connection ----------------------------------------------------------------------------------------

    async def connect(self) -> UaRefusal | None:
        """Open channel and session; returns the refusal if the server wants neither of this client.

        Raises TimeoutError or ConnectionError if no OPC UA server answers. Drops the connection it had before.
        """
        await self.disconnect()
        loop = asyncio.get_running_loop()
        self._calendar, self._seam = _Calendar(loop), _Seam(loop)
        client = Client(self.url, timeout=self.timeout, watchdog_intervall=self.keep_alive)
        client.uaclient = _Channel(self.timeout)
        client.uaclient.pre_request_hook = client._wait_until_ready
        client.nodes = Shortcuts(client.uaclient.session)
        client.session_timeout = int(self.session_timeout * 1000)
        client._stale_check_interval = self.keep_alive
        client.connection_lost_callback = functools.partial(self._lose, client)
        client.name = client.description = "OT Lab client"
        if self.user is not None:
            client.set_user(self.user)
            client.set_password(self.password or "")
        if self.trust is not None:
            client.certificate_validator = self._check_server
        opened = False
        try:
            if self.security is not None:
                await self._secure(client, self.security)
            await client.connect()
            opened = True
        except ua.UaStatusCodeError as refusal:
            return UaRefusal(ua.StatusCode(refusal.code).name)
        except _GARBAGE as failure:
            if "No matching endpoints" in str(failure):  # asyncua's own words, for want of a code
                return UaRefusal("BadSecurityModeRejected")
            raise ConnectionError(f"{self.url}: {failure}") from failure
        except TimeoutError:
            raise TimeoutError(f"{self.url} does not answer within {self.timeout:g} s") from None
        except ConnectionError:
            raise
        except OSError as failure:
            raise ConnectionError(f"{self.url}: {failure}") from failure
        finally:
            if not opened:  # also when canceled, for which asyncua would leave the socket open
                client.disconnect_socket()
        self._client = client
        self._gone.clear()
        return None

    async def _secure(self, client: Client, security: str) -> None:
        """Ask for the server's certificate, over a channel without security as every client does, and use it."""
        if self.certificate is None or self.key is None:
            raise ValueError("a secured channel needs the client's certificate and key")
        certificate = _certificate(self.certificate)
        client.application_uri = _application_uri(certificate) or client.application_uri
        mode = getattr(ua.MessageSecurityMode, security.rpartition("_")[2])
        endpoints = await client.connect_and_get_server_endpoints()
        offer = Client.find_endpoint(endpoints, mode, SecurityPolicyBasic256Sha256.URI)
        peer = uacrypto.x509_from_der(offer.ServerCertificate)
        policy: Any = SecurityPolicyBasic256Sha256(peer, certificate, _private_key(self.key), mode)
        client.security_policy = policy
        client.uaclient.set_security(policy)

    async def _check_server(self, certificate: x509.Certificate, _description: Any) -> None:
        with self._seam:
            assert self.trust is not None
            trusted = self.trust(certificate.public_bytes(serialization.Encoding.DER))
        if not trusted:
            raise ServiceError(ua.StatusCodes.BadCertificateUntrusted)

    async def _lose(self, client: Client, _error: Exception) -> None:
        """The connection is gone: end what would go on trying."""
        for task in (client.uaclient._publish_task, client._renew_channel_task, client._stale_watchdog_task):
            if task is not None:
                task.cancel()
        client.disconnect_socket()
        if self._client is client:
            self._gone.set()

    async def lost(self) -> None:
        """Return when there is no connection, however it ended."""
        await self._gone.wait()

    async def disconnect(self) -> None:
        """Close session and connection; does nothing without one."""
        client, self._client = self._client, None
        if client is not None:
            was_there = self.connected
            self._gone.set()
            if was_there:
                await client.disconnect()

    def _require(self) -> Client:
        if self._client is None or self._gone.is_set():
            raise ConnectionError(f"not connected to {self.url}")
        return self._client

    async def _ask(self, request: Awaitable[T]) -> T:
        try:
            return await request
        except ua.UaStatusCodeError as fault:
            raise UaServiceError(ua.StatusCode(fault.code).name) from None
        except _GARBAGE as failure:
            raise ConnectionError(f"{self.url}: {failure!r}") from failure

    # -- values ------------------------------------------------------------------------------------------------

    def _id(self, name: str) -> NodeId:
        found = self._ids.get(name)
        if found is None:
            found = ua.NodeId.from_string(name) if _is_node_id(name) else _tag_id(name)
            self._ids[name] = found
        return found

    def _parts(self, data: DataValue) -> tuple[Any, bool, float, str]:
        value = data.Value.Value if data.Value is not None else None
        stamp = data.SourceTimestamp or data.ServerTimestamp
        moment = self._calendar.seconds(stamp) if stamp is not None else asyncio.get_running_loop().time()
        status = data.StatusCode
        if status is None or status.value == 0:
            return value, True, moment, "Good"
        return value, status.is_good(), moment, status.name

    def _value(self, data: DataValue) -> UaValue:
        return UaValue(*self._parts(data))

    async def read(self, name: str) -> UaValue:
        """Read one value."""
        return (await self.read_many((name,)))[name]

    async def read_many(self, names: Iterable[str]) -> dict[str, UaValue]:
        """Read values in one request; one that cannot be read has a status that says why."""
        names = tuple(names)
        session = self._require().uaclient.session
        answers = await self._ask(
            session.read_attributes([self._id(name) for name in names], ua.AttributeIds.Value)
        )
        if len(answers) != len(names):
            raise ConnectionError(f"{self.url}: {len(answers)} answers to a read of {len(names)}")
        return {name: self._value(data) for name, data in zip(names, answers, strict=True)}

    async def write(self, name: str, value: float | bool | int) -> UaRefusal | None:
        """Write one value, in the type that the server's variable has."""
        session = self._require().uaclient.session
        node = self._id(name)
        try:
            kind = self._kinds.get(name)
            if kind is None:
                answer = (await session.read_attributes([node], ua.AttributeIds.DataType))[0]
                if answer.StatusCode is not None and not answer.StatusCode.is_good():
                    return UaRefusal(answer.StatusCode.name)
                kind = self._kinds[name] = _kind_of(answer, value)
            typed = _TYPES[kind](value) if kind in _TYPES else value
            data = ua.DataValue(ua.Variant(typed, kind))
            status = (await session.write_attributes([node], [data], ua.AttributeIds.Value))[0]
        except ua.UaStatusCodeError as fault:
            return UaRefusal(ua.StatusCode(fault.code).name)
        except _GARBAGE as failure:
            raise ConnectionError(f"{self.url}: {failure!r}") from failure
        return None if status.is_good() else UaRefusal(status.name)

    async def history(self, name: str, start: float | None = None, end: float | None = None) -> list[UaValue]:
        """Values the server remembers with ``start <= time <= end`` (virtual s), oldest first."""
        calendar = self._calendar
        first = calendar.moment(start) if start is not None else _BEFORE_ALL
        last = calendar.moment(end) if end is not None else None
        node = self._require().get_node(self._id(name))
        found = await self._ask(node.read_raw_history(first, last))
        return [self._value(data) for data in found]

    # -- browsing ----------------------------------------------------------------------------------------------

    async def browse(self) -> dict[str, Any]:
        """Names of the server's own objects and variables as a tree: name -> the same below it.

        What every server has, OPC 10000-5's own nodes and all properties, is left out. One request per level.
        """
        session = self._require().uaclient.session
        tree: dict[str, Any] = {}
        level = [(ua.NodeId(ua.ObjectIds.ObjectsFolder), tree)]
        seen = {ua.NodeId(ua.ObjectIds.ObjectsFolder)}
        while level:
            params = ua.BrowseParameters()
            for node, _ in level:
                wanted = ua.BrowseDescription()
                wanted.NodeId, wanted.BrowseDirection = node, ua.BrowseDirection.Forward
                wanted.ReferenceTypeId = ua.NodeId(ua.ObjectIds.HierarchicalReferences)
                wanted.IncludeSubtypes, wanted.ResultMask = True, ua.BrowseResultMask.All
                params.NodesToBrowse.append(wanted)
            answers = await self._ask(session.browse(params))
            below = []
            for (_, branch), answer in zip(level, answers, strict=False):
                for reference in answer.References:
                    node = reference.NodeId
                    if (
                        node.NamespaceIndex > 0
                        and node not in seen
                        and reference.ReferenceTypeId != _HAS_PROPERTY
                    ):
                        seen.add(node)
                        twig = branch[str(reference.BrowseName.Name)] = {}
                        below.append((node, twig))
            level = below
        return tree

    # -- subscriptions -----------------------------------------------------------------------------------------

    async def _feed(self, period: float, take: Callable[[Any], None]) -> _Feed:
        client = self._require()
        # A keep-alive at least as often as the session needs one, as asyncua's client has it.
        feed = _Feed(client.uaclient.session, period, client.get_keepalive_count(period * 1000) or 1, take)
        await self._ask(feed.init())
        client._subscriptions.append(feed)
        return feed

    async def subscribe(
        self, names: Iterable[str], period: float, callback: Told, *, deadband: float = 0.0
    ) -> dict[str, UaRefusal]:
        """Call ``callback(name, value, good, time)`` for each change, at most every ``period`` s; first with what is.

        While not ``good``, ``value`` is the last good one, NaN if there was none. ``deadband`` is absolute. Returns
        the names that the server refused, with its reasons.
        """
        names = tuple(names)
        by_handle: dict[int, str] = {}
        last: dict[str, Any] = {}

        def take(notification: Any) -> None:
            if isinstance(notification, ua.DataChangeNotification):
                for item in notification.MonitoredItems:
                    name = by_handle.get(item.ClientHandle)
                    if name is not None:
                        value, good, moment, _ = self._parts(item.Value)
                        if good:
                            last[name] = value
                        with self._seam:
                            callback(name, last.get(name, math.nan), good, moment)

        feed = await self._feed(period, take)
        wanted = None
        if deadband > 0:
            wanted = ua.DataChangeFilter(
                ua.DataChangeTrigger.StatusValue, ua.DeadbandType.Absolute, float(deadband)
            )
        first = feed._client_handle + 1
        by_handle.update(
            enumerate(names, first)
        )  # before asking: the first publication may overtake the answer
        _, answers = await self._ask(
            feed.watch([self._id(name) for name in names], ua.AttributeIds.Value, wanted, 1)
        )
        return {
            name: UaRefusal(answer.name)
            for name, answer in zip(names, answers, strict=False)
            if isinstance(answer, ua.StatusCode)
        }

    async def subscribe_alarms(self, callback: Callable[[UaAlarm], None], *, period: float = 1.0) -> None:
        """Call ``callback`` for each alarm raised or cleared, first for those that are active already."""

        def take(notification: Any) -> None:
            if isinstance(notification, ua.EventNotificationList):
                for event in notification.Events:
                    alarm = self._alarm(event.EventFields)
                    if alarm is not None:
                        with self._seam:
                            callback(alarm)

        feed = await self._feed(period, take)
        await self._ask(
            feed.watch([ua.NodeId(ua.ObjectIds.Server)], ua.AttributeIds.EventNotifier, _alarm_filter(), 0)
        )
        refresh = ua.CallMethodRequest()
        refresh.ObjectId = ua.NodeId(ua.ObjectIds.ConditionType)
        refresh.MethodId = ua.NodeId(ua.ObjectIds.ConditionType_ConditionRefresh)
        refresh.InputArguments = [ua.Variant(feed.subscription_id, ua.VariantType.UInt32)]
        await self._ask(self._require().uaclient.session.call([refresh]))

    def _alarm(self, fields: Sequence[Variant]) -> UaAlarm | None:
        if len(fields) != len(_ALARM_PATHS):
            return None
        found = {path: field.Value for path, field in zip(_ALARM_PATHS, fields, strict=True)}
        if any(not isinstance(found[path], kind) for path, kind in _ALARM_FIELDS.items()):
            return None  # the start or end of a refresh, or another kind of event
        state, active = found["LimitState/CurrentState"], found["ActiveState/Id"]
        return UaAlarm(
            source=str(found["SourceName"]),
            limit=_LIMIT_OF_STATE.get(str(state.Text), str(state.Text)),
            active=active,
            severity=int(found["Severity"]),
            message=str(found["Message"].Text),
            time=self._calendar.seconds(found["Time"]),
        )


_HAS_PROPERTY: Final = ua.NodeId(ua.ObjectIds.HasProperty)
#: OPC UA's zero of time means "not given"; this is the first moment that is.
_BEFORE_ALL: Final = datetime(1601, 1, 1, tzinfo=UTC) + timedelta(seconds=1)


_BUILT_IN: Final = frozenset(int(kind) for kind in VariantType)


def _is_node_id(name: str) -> bool:
    return name.startswith(("i=", "s=", "g=", "b=", "ns="))


def _kind_of(data_type: DataValue, value: float | bool | int) -> VariantType:
    """The built-in type to send ``value`` in: the variable's own, or by the look of the value."""
    held = data_type.Value.Value if data_type.Value is not None else None
    if isinstance(held, NodeId) and held.NamespaceIndex == 0 and held.Identifier in _BUILT_IN:
        return VariantType(cast(int, held.Identifier))
    return cast(ua.VariantType, ua.Variant(value).VariantType)

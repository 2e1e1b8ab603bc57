"""OPC UA on the virtual loop: the plant's server, its clients, and what strangers do to them."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import math
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncua
import pytest
from asyncua import ua as _ua
from asyncua.client.client import Client
from asyncua.server import internal_session
from asyncua.ua import ua_binary
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices import opcua
from devices.opcua import (
    NAMESPACE,
    PlantServer,
    UaAlarm,
    UaClient,
    UaRefusal,
    UaServiceError,
    UaTag,
    UaUser,
    make_certificate,
)
from devices.opcua_model import unit_id
from testbed.clock import EPOCH, SimLoop
from testbed.errors import UnknownNameError
from testbed.network import Host, Link, Network, Packet, Verdict
from testbed.randomness import Randomness

ua: Any = _ua  # whose names a type checker does not find

LEVEL = UaTag(
    "LIT101", "plc1", "float", "mm", False, 0.0, 1200.0, "tank", {"L": 250.0, "H": 800.0, "HH": 1000.0}
)
SETPOINT = UaTag("LIT101_SP", "plc1", "float", "mm", True, 300.0, 1100.0, "level to keep")
PUMP = UaTag("P101", "plc1", "bool", writable=True)
COUNT = UaTag("N101", "plc2", "int", writable=True)
TAGS = (LEVEL, SETPOINT, PUMP, COUNT)
SIGN, ENCRYPT = "Basic256Sha256_Sign", "Basic256Sha256_SignAndEncrypt"

Event = tuple[str, dict[str, Any]]


OPEN_WORLDS: list[World] = []


class World:
    """A server and two client hosts in one zone."""

    def __init__(self, tags: tuple[UaTag, ...] = TAGS, seed: int = 0, **seams: Any) -> None:
        self.loop = SimLoop()
        self.loop.entropy = random.Random(f"{seed}:entropy")
        self.network = Network(self.loop, Randomness(seed))
        self.zone = self.network.zone("dmz", "10.0.0.0/24")
        self.host = self.network.host("opcua1", "dmz", "10.0.0.2")
        self.near = self.network.host("hist1", "dmz", "10.0.0.3")
        self.far = self.network.host("laptop", "dmz", "10.0.0.4")
        self.events: list[Event] = []
        self.writes: list[tuple[str, float]] = []
        self.write_works = True
        seams.setdefault("on_event", lambda kind, data: self.events.append((kind, data)))
        self.server = PlantServer(self.host, tags, self.write, **seams)
        OPEN_WORLDS.append(self)

    async def write(self, tag: UaTag, value: float) -> bool:
        await asyncio.sleep(0.05)
        self.writes.append((tag.name, value))
        return self.write_works

    def client(self, *args: Any, **options: Any) -> UaClient:
        return UaClient("opc.tcp://10.0.0.2:4840", *args, **options)

    def run(self, program: Coroutine[Any, Any, Any], host: Host | None = None) -> Any:
        """The result of ``program``, run on a host to its end."""
        place = host or self.near
        return self.loop.run_until_complete(self.loop.create_task(program, context=place.context.copy()))

    def start(self) -> World:
        self.run(self.server.start(), self.host)
        return self

    def until(self, seconds: float) -> None:
        self.loop.run_to(seconds)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Ends every world of a test, as a run ends, so that no task of it is collected half-way through another test."""
    yield
    while OPEN_WORLDS:
        OPEN_WORLDS.pop().loop.close()


@pytest.fixture(autouse=True)
def swallowed(caplog: pytest.LogCaptureFixture) -> Iterator[list[BaseException]]:
    """What asyncua catches and logs; a test that provokes strange errors empties it, for any other they are defects."""
    with caplog.at_level(logging.ERROR, "asyncua"):
        found: list[BaseException] = []

        class Keep(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if record.exc_info and record.exc_info[1] is not None:
                    found.append(record.exc_info[1])

        handler = Keep()
        logger = logging.getLogger("asyncua")
        logger.addHandler(handler)
        yield found
        logger.removeHandler(handler)
    defects = [error for error in found if not isinstance(error, OSError | ua.UaError)]
    assert not defects, defects


def moment(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def certificate_of(name: str) -> tuple[bytes, bytes]:
    return make_certificate(name, f"urn:{name}", random.Random(name))


# -- values ------------------------------------------------------------------------------------------------------


def test_a_client_reads_what_the_plant_reported() -> None:
    world = World().start()
    world.server.update("LIT101", 512.25, timestamp=1.5)
    world.server.update("P101", True)
    world.server.update("N101", 3_000_000_000)

    async def read() -> Any:
        client = world.client()
        assert await client.connect() is None
        return await client.read_many(["LIT101", "P101", "N101"])

    values = world.run(read())
    assert values["LIT101"] == opcua.UaValue(512.25, True, 1.5)
    assert (values["P101"].value, values["N101"].value) == (True, 3_000_000_000)


def test_a_tag_has_no_good_value_before_its_first_update_nor_without_communication() -> None:
    world = World().start()

    async def read() -> list[Any]:
        client = world.client()
        await client.connect()
        first = await client.read("LIT101")
        world.server.update("LIT101", 5.0)
        second = await client.read("LIT101")
        world.server.update("LIT101", 5.0, good=False)
        return [first, second, await client.read("LIT101")]

    first, second, third = world.run(read())
    assert (first.good, first.status) == (False, "BadWaitingForInitialData")
    assert second.good
    assert (third.good, third.value, third.status) == (False, None, "BadNoCommunication")


def test_names_that_nothing_answers_to() -> None:
    world = World().start()
    with pytest.raises(UnknownNameError, match="LIT101"):
        world.server.update("LIT10", 1.0)
    with pytest.raises(UnknownNameError, match="HH"):
        world.server.raise_alarm("LIT101", "HHH")

    async def ask() -> Any:
        client = world.client()
        await client.connect()
        return (
            await client.read("nope"),
            await client.write("nope", 1.0),
            await client.subscribe(["nope"], 1, print),
        )

    value, refusal, refused = world.run(ask())
    assert value.status == "BadNodeIdUnknown"
    assert refusal == UaRefusal("BadNodeIdUnknown")
    assert refused == {"nope": UaRefusal("BadNodeIdUnknown")}


def test_a_change_within_the_deadband_is_dropped_and_drift_is_not() -> None:
    world = World((UaTag("FIT", "plc1", "float", deadband=0.5),)).start()
    got: list[float] = []

    async def watch() -> None:
        client = world.client()
        await client.connect()
        await client.subscribe(["FIT"], 0.1, lambda _n, value, *_: got.append(value))
        for step in range(10):
            world.server.update("FIT", 10.0 + step * 0.2)
            await asyncio.sleep(1.0)

    world.server.update("FIT", 10.0)
    world.run(watch())
    assert got == pytest.approx([10.0, 10.6, 11.2, 11.8])


def test_a_subscriber_with_a_deadband_hears_of_slow_drift() -> None:
    """asyncua compares with the last sample and would stay silent for ever."""
    world = World().start()
    world.server.update("LIT101", 500.0)
    got: list[float] = []

    async def watch() -> None:
        client = world.client()
        await client.connect()
        await client.subscribe(["LIT101"], 0.1, lambda _n, value, *_: got.append(value), deadband=5.0)
        for step in range(1, 13):
            world.server.update("LIT101", 500.0 + step)
            await asyncio.sleep(0.5)

    world.run(watch())
    assert got == [500.0, 506.0, 512.0]


def test_a_subscriber_gets_the_latest_value_of_each_period_with_its_own_time() -> None:
    world = World().start()
    world.server.update("LIT101", 1.0)
    got: list[tuple[float, ...]] = []

    async def watch() -> None:
        client = world.client()
        await client.connect()
        await client.subscribe(["LIT101"], 1.0, lambda *told: got.append((world.loop.time(), *told[1:])))

    world.run(watch())
    for second in range(1, 4):
        for tenth in range(10):
            world.until(second + tenth / 10)
            world.server.update("LIT101", second * 100.0 + tenth)
    world.until(6.0)
    arrivals = [arrived for arrived, *_ in got]
    assert len(got) == 5
    assert all(later - earlier == pytest.approx(1.0, abs=0.01) for earlier, later in pairwise(arrivals[1:]))
    for arrived, value, good, stamped in got[1:]:
        assert good
        assert value == pytest.approx(int(stamped) * 100 + (stamped % 1) * 10)
        assert 0.0 < arrived - stamped < 0.11


def test_while_not_good_a_subscriber_is_told_the_last_good_value() -> None:
    world = World().start()
    got: list[tuple[str, float, bool, float]] = []

    async def watch() -> None:
        client = world.client()
        await client.connect()
        await client.subscribe(["LIT101"], 0.5, lambda *told: got.append(told))
        await asyncio.sleep(1.0)
        world.server.update("LIT101", 7.0)
        await asyncio.sleep(1.0)
        world.server.update("LIT101", 7.0, good=False)
        await asyncio.sleep(1.0)

    world.run(watch())
    assert math.isnan(got[0][1])
    assert [(value, good) for _, value, good, _ in got[1:]] == [(7.0, True), (7.0, False)]


def test_history_serves_what_the_tags_remember() -> None:
    world = World(history=5).start()
    for second in range(10):
        world.until(second + 1)
        world.server.update("LIT101", float(second), good=second != 7)

    async def ask() -> Any:
        client = world.client()
        await client.connect()
        return [
            await client.history("LIT101"),
            await client.history("LIT101", 7.5, 9.5),
            await client.history("P101"),
            await client.history("nope"),
        ]

    everything, some, none, unknown = world.run(ask())
    assert [(value.value, value.good, value.time) for value in everything] == [
        (5.0, True, 6.0),
        (6.0, True, 7.0),
        (None, False, 8.0),
        (8.0, True, 9.0),
        (9.0, True, 10.0),
    ]
    assert [value.time for value in some] == [8.0, 9.0]
    assert none == unknown == []


def test_history_comes_in_pieces_when_it_is_long() -> None:
    world = World(history=20).start()
    for second in range(20):
        world.until(second + 1)
        world.server.update("LIT101", float(second))

    async def ask() -> Any:
        client = world.client()
        await client.connect()
        node: Any = client._require().get_node(ua.NodeId("LIT101", 2))
        first = await node.read_raw_history(moment(3.0), moment(12.0), 4)
        newest = await node.read_raw_history(None, moment(12.0), 3)
        return [data.Value.Value for data in first], [data.Value.Value for data in newest]

    assert world.run(ask()) == ([2.0, 3.0, 4.0, 5.0], [11.0, 10.0, 9.0])


# -- the address space -------------------------------------------------------------------------------------------


def test_the_address_space_shows_devices_types_units_and_ranges() -> None:
    world = World().start()

    async def look() -> Any:
        client = world.client()
        await client.connect()
        inner: Any = client._require()
        tag = inner.get_node(ua.NodeId("LIT101", 2))
        unit = await (await tag.get_child("0:EngineeringUnits")).read_value()
        span = await (await tag.get_child("0:EURange")).read_value()
        device = await tag.get_parent()
        kind = inner.get_node(await device.read_type_definition())
        return (
            await client.browse(),
            (unit.DisplayName.Text, unit.UnitId),
            (span.Low, span.High),
            (await tag.read_type_definition()).Identifier,
            ((await device.read_browse_name()).Name, (await kind.read_browse_name()).Name),
            (await tag.read_description()).Text,
            await inner.get_namespace_array(),
        )

    tree, unit, span, variable_type, device, description, namespaces = world.run(look())
    assert tree == {"Plant": {"plc1": {"LIT101": {}, "LIT101_SP": {}, "P101": {}}, "plc2": {"N101": {}}}}
    assert unit == ("mm", unit_id("mm"))
    assert span == (0.0, 1200.0)
    assert variable_type == ua.ObjectIds.AnalogItemType
    assert device == ("plc1", "PlcType")
    assert description == "tank"
    assert namespaces == ["http://opcfoundation.org/UA/", "urn:opcua1:opcua", NAMESPACE]


def test_unit_ids_follow_the_published_example() -> None:
    """OPC 10000-8 gives the radian, C81, as its example: 4405297."""
    assert int.from_bytes(b"C81", "big") == 4405297
    assert unit_id("m") == int.from_bytes(b"MTR", "big")
    assert unit_id("furlong") == -1


def test_server_time_is_virtual_and_ticks_for_whoever_watches() -> None:
    world = World().start()
    world.until(100.0)
    seen: list[Any] = []

    async def watch() -> Any:
        client = world.client()
        await client.connect()
        now = (await client.read("i=2258")).value
        status = (await client.read("i=2256")).value
        await client.subscribe(["i=2258"], 1.0, lambda _n, value, *_: seen.append(value))
        await asyncio.sleep(5)
        return now, status

    now, status = world.run(watch())
    assert timedelta() <= now - moment(100.0) < timedelta(seconds=0.1)
    assert status.StartTime == moment(0.0)
    assert status.State == ua.ServerState.Running
    assert {(after - before).total_seconds() for before, after in pairwise(seen[1:])} == {1.0}
    assert len(seen) >= 4


# -- writing -----------------------------------------------------------------------------------------------------


def writing(world: World, *writes: tuple[str, Any], user: str | None = None) -> list[UaRefusal | None]:
    async def write() -> list[UaRefusal | None]:
        client = world.client(user, "x" if user else None)
        assert await client.connect() is None
        answers = [await client.write(name, value) for name, value in writes]
        await client.disconnect()
        return answers

    return world.run(write())  # type: ignore[no-any-return]


def test_a_write_reaches_the_process_in_the_tag_s_type() -> None:
    world = World().start()
    assert writing(world, ("LIT101_SP", 700), ("P101", 1), ("N101", 3.0)) == [None, None, None]
    assert world.writes == [("LIT101_SP", 700.0), ("P101", True), ("N101", 3)]
    assert [type(value) for _, value in world.writes] == [float, bool, int]
    assert world.events[1] == (
        "write.accepted",
        {"user": "anonymous", "peer": "10.0.0.3", "tag": "LIT101_SP", "value": 700.0, "reason": "Good"},
    )


def test_a_factory_default_server_lets_anybody_write_what_is_writable() -> None:
    world = World().start()
    assert writing(world, ("LIT101_SP", 1e6), ("LIT101", 1.0)) == [None, UaRefusal("BadNotWritable")]
    assert world.kinds()[-2:] == ["write.denied", "session.closed"]


def test_a_write_that_the_process_does_not_take_is_not_good() -> None:
    world = World().start()
    world.write_works = False
    assert writing(world, ("LIT101_SP", 700.0)) == [UaRefusal("BadNoCommunication")]
    assert world.events[-2][1]["reason"] == "BadNoCommunication"


def test_the_seams_decide_who_may_write_what() -> None:
    def may(user: UaUser, tag: UaTag, value: float) -> bool:
        return user.role == "engineer" and world.server.asking == "10.0.0.3"

    def in_range(tag: UaTag, value: float) -> bool:
        return tag.low is None or tag.high is None or tag.low <= value <= tag.high

    roles = {"eve": "engineer", "vic": "viewer"}
    world = World(
        authenticate=lambda user, _p, _c: UaUser(user or "", roles[user]) if user in roles else None,  # type: ignore[arg-type]
        authorize_write=may,
        validate_write=in_range,
    ).start()
    wanted = (("LIT101_SP", 700.0), ("LIT101_SP", 9000.0), ("LIT101_SP", math.nan))
    out_of_range = UaRefusal("BadOutOfRange")
    assert writing(world, *wanted, user="eve") == [None, out_of_range, out_of_range]
    assert writing(world, *wanted[:1], user="vic") == [UaRefusal("BadUserAccessDenied")]
    assert world.writes == [("LIT101_SP", 700.0)]


def test_a_value_of_another_type_is_refused() -> None:
    world = World().start()

    async def write() -> Any:
        client = world.client()
        await client.connect()
        session = client._require().uaclient.session
        wrong = [
            ua.Variant("700"),
            ua.Variant([700.0]),
            ua.Variant(700.0, ua.VariantType.Float),
            ua.Variant(None),
        ]
        nodes = [ua.NodeId("LIT101_SP", 2)] * len(wrong)
        return await session.write_attributes(nodes, [ua.DataValue(value) for value in wrong])

    assert {status.name for status in world.run(write())} == {"BadTypeMismatch"}
    assert world.writes == []


def test_a_write_under_way_is_carried_out_when_its_client_is_gone() -> None:
    world = World().start()

    async def write() -> None:
        client = world.client()
        await client.connect()
        task = asyncio.create_task(client.write("LIT101_SP", 700.0))
        await asyncio.sleep(0.02)
        client._require().uaclient.protocol.transport.abort()  # type: ignore[union-attr]
        with pytest.raises(ConnectionError):
            await task

    world.run(write())
    world.until(10.0)
    assert world.writes == [("LIT101_SP", 700.0)]
    assert "write.accepted" in world.kinds()


def test_only_an_administrator_changes_the_address_space() -> None:
    def add(user: str | None) -> Any:
        world = World().start()

        async def try_it() -> Any:
            client = world.client(user, "x" if user else None)
            await client.connect()
            try:
                await client._require().nodes.objects.add_variable(ua.NodeId("planted", 2), "planted", 1.0)
            except ua.UaStatusCodeError as refused:
                return type(refused).__name__
            return (await client.read("planted")).value

        return world.run(try_it())

    assert add(None) == "BadUserAccessDenied"
    assert add("admin") == 1.0


# -- sessions and security ---------------------------------------------------------------------------------------


def test_sessions_are_audited_with_user_and_address() -> None:
    world = World(
        authenticate=lambda user, password, _c: UaUser("op", "operator") if password == "right" else None
    )
    world.start()

    async def log_in(user: str | None, password: str | None) -> UaRefusal | None:
        client = world.client(user, password)
        refusal = await client.connect()
        await client.disconnect()
        return refusal

    assert world.run(log_in("op", "wrong"), world.far) == UaRefusal("BadUserAccessDenied")
    assert world.run(log_in(None, None), world.far) == UaRefusal("BadUserAccessDenied")
    assert world.run(log_in("op", "right")) is None
    assert world.events == [
        ("session.refused", {"user": "op", "peer": "10.0.0.4", "reason": "BadUserAccessDenied"}),
        ("session.refused", {"user": "anonymous", "peer": "10.0.0.4", "reason": "BadUserAccessDenied"}),
        ("session.opened", {"user": "op", "role": "operator", "peer": "10.0.0.3"}),
        ("session.closed", {"user": "op", "peer": "10.0.0.3"}),
    ]


@pytest.mark.parametrize("security", [SIGN, ENCRYPT])
def test_a_secured_session_reads_writes_and_hides_what_it_should(security: str) -> None:
    world = World(security=(security,)).start()
    certificate, key = certificate_of("hist1")
    wire: list[bytes] = []
    world.zone.add_tap(lambda _link, packet: wire.append(packet.payload))

    async def work() -> Any:
        client = world.client("operator", "geheim", security, certificate, key)
        assert await client.connect() is None
        return await client.write("LIT101_SP", 700.0)

    assert world.run(work()) is None
    seen = b"".join(wire)
    assert b"geheim" not in seen
    assert (b"LIT101_SP" in seen) is (security == SIGN)


def test_a_password_goes_in_clear_text_where_no_security_is_offered() -> None:
    world = World().start()
    wire: list[bytes] = []
    world.zone.add_tap(lambda _link, packet: wire.append(packet.payload))
    assert writing(world, user="operator") == []
    assert b"operator" in b"".join(wire)


def test_without_the_none_offer_a_client_without_security_gets_no_session() -> None:
    world = World(security=(ENCRYPT,)).start()

    async def knock() -> Any:
        return await world.client().connect()

    assert world.run(knock()) == UaRefusal("BadSecurityPolicyRejected")
    assert world.events == [
        ("session.refused", {"user": "", "peer": "10.0.0.3", "reason": "BadSecurityPolicyRejected"})
    ]


def test_a_client_that_ignores_the_offers_gets_no_session_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncua's server would begin it, without any check of permissions; only its own client stops before."""
    world = World(security=(ENCRYPT,)).start()

    def any_endpoint(endpoints: Any, *_: Any) -> Any:
        return next(iter(endpoints))

    monkeypatch.setattr(Client, "find_endpoint", staticmethod(any_endpoint))

    async def knock() -> Any:
        return await world.client().connect()

    assert world.run(knock()) == UaRefusal("BadSecurityPolicyRejected")


def test_a_policy_that_is_not_offered_is_refused() -> None:
    world = World(security=("None", SIGN)).start()
    certificate, key = certificate_of("hist1")

    async def knock() -> Any:
        return await world.client(security=ENCRYPT, certificate=certificate, key=key).connect()

    assert world.run(knock()) == UaRefusal("BadSecurityModeRejected")


def test_only_trusted_certificates_open_a_channel() -> None:
    mine, stranger = certificate_of("hist1"), certificate_of("laptop")
    world = World(security=(ENCRYPT,), trust=lambda certificate: certificate == mine[0]).start()

    async def knock(certificate: bytes, key: bytes) -> Any:
        return await world.client(security=ENCRYPT, certificate=certificate, key=key).connect()

    assert world.run(knock(*mine)) is None
    assert world.run(knock(*stranger), world.far) == UaRefusal("BadSecurityChecksFailed")
    assert world.events[-1] == (
        "session.refused",
        {"user": "", "peer": "10.0.0.4", "reason": "BadSecurityChecksFailed"},
    )


def test_a_client_refuses_a_server_whose_certificate_is_not_the_right_one() -> None:
    world = World(security=(ENCRYPT,)).start()
    certificate, key = certificate_of("hist1")

    async def knock(trust: Callable[[bytes], bool]) -> Any:
        client = world.client(security=ENCRYPT, certificate=certificate, key=key, trust=trust)
        return await client.connect()

    assert world.run(knock(lambda der: der == world.server.certificate)) is None
    assert world.run(knock(lambda der: False)) == UaRefusal("BadCertificateUntrusted")


def test_the_channel_s_certificate_is_what_authenticate_sees() -> None:
    certificate, key = certificate_of("hist1")
    seen: list[bytes | None] = []

    def authenticate(user: str | None, password: str | None, shown: bytes | None) -> UaUser | None:
        seen.append(shown)
        return UaUser("hist1", "viewer")

    world = World(security=("None", ENCRYPT), authenticate=authenticate).start()

    async def knock() -> None:
        await world.client(security=ENCRYPT, certificate=certificate, key=key).connect()
        await world.client().connect()

    world.run(knock())
    assert seen == [certificate, None]


def test_more_sessions_than_allowed_are_refused_and_closed_ones_make_room() -> None:
    world = World(max_sessions=2).start()

    async def crowd() -> Any:
        clients = [world.client() for _ in range(3)]
        first = [await client.connect() for client in clients]
        await clients[0].disconnect()
        return first, await clients[2].connect()

    first, again = world.run(crowd())
    assert first == [None, None, UaRefusal("BadTooManySessions")]
    assert again is None
    assert world.server.sessions == 2


def test_certificates_are_the_same_in_every_run_and_of_one_size() -> None:
    first, second = (
        make_certificate("plc1", "urn:a", random.Random(1)),
        make_certificate("plc1", "urn:a", random.Random(1)),
    )
    other = make_certificate("plc1", "urn:a", random.Random(2))
    assert first == second
    assert first[0] != other[0]
    assert len({len(make_certificate("plc1", "urn:a", random.Random(seed))[0]) for seed in range(20)}) == 1
    key = opcua._key("plc1")
    assert key.key_size == 2048
    # OpenSSL checks a key when it loads one.
    assert key.private_numbers().private_key().public_key() == key.public_key()


# -- alarms ------------------------------------------------------------------------------------------------------


def alarms_of(
    world: World, before: Callable[[], None], program: Callable[[], Awaitable[None]]
) -> list[UaAlarm]:
    got: list[UaAlarm] = []

    async def watch() -> None:
        client = world.client()
        await client.connect()
        await client.subscribe_alarms(got.append, period=0.5)
        await program()

    before()
    world.run(watch())
    return got


def test_an_alarm_is_raised_at_its_limit_and_cleared_by_more_than_the_deadband() -> None:
    tag = UaTag("LIT101", "plc1", "float", "mm", limits={"L": 250.0, "H": 800.0, "HH": 1000.0}, deadband=10.0)
    world = World((tag,)).start()

    async def swing() -> None:
        for value in (500.0, 800.0, 795.0, 1200.0, 985.0, 500.0, 100.0):
            world.server.update("LIT101", value)
            await asyncio.sleep(1.0)

    got = alarms_of(world, lambda: None, swing)
    assert [(alarm.limit, alarm.active) for alarm in got] == [
        ("H", True),
        ("HH", True),
        ("HH", False),
        ("H", False),
        ("L", True),
    ]
    assert got[0] == UaAlarm("LIT101", "H", True, 500, "LIT101 H: 800 mm", pytest.approx(1.0, abs=0.1))  # type: ignore[arg-type]
    assert [kind for kind in world.kinds() if kind.startswith("alarm")] == ["alarm.raised"] * 2 + [
        "alarm.cleared",
        "alarm.cleared",
        "alarm.raised",
    ]


def test_who_subscribes_late_is_told_of_active_alarms() -> None:
    world = World().start()

    def before() -> None:
        world.server.update("LIT101", 900.0)
        world.server.raise_alarm("P101", "HH", severity=999, message="dry run")
        world.server.raise_alarm("P101", "HH")  # raised already
        world.server.update("LIT101", 1100.0)
        world.server.update("LIT101", 900.0)

    async def wait() -> None:
        await asyncio.sleep(1.0)

    got = alarms_of(world, before, wait)
    assert [(alarm.source, alarm.limit, alarm.active) for alarm in got] == [
        ("LIT101", "H", True),
        ("P101", "HH", True),
    ]
    assert (got[1].severity, got[1].message) == (999, "dry run")


def test_alarms_survive_a_restart_of_the_server() -> None:
    world = World().start()
    world.server.update("LIT101", 900.0)
    world.run(world.server.stop(), world.host)
    world.server.update("LIT101", 1100.0)
    world.start()

    async def wait() -> None:
        await asyncio.sleep(1.0)

    got = alarms_of(world, lambda: None, wait)
    assert [(alarm.limit, alarm.active) for alarm in got] == [("H", True), ("HH", True)]


def test_a_filter_that_asks_for_nonsense_does_not_disturb_others() -> None:
    """Field names come from the client; the server must not look them up anywhere but among the event's fields."""
    world = World().start()
    got: list[UaAlarm] = []

    async def watch() -> Any:
        stranger, client = world.client(), world.client()
        await stranger.connect()
        await client.connect()
        feed = await stranger._feed(0.5, lambda _: None)
        nonsense = ua.EventFilter()
        for name in ("emitting_node", "__class__", "fields", None):
            clause = ua.SimpleAttributeOperand()
            clause.BrowsePath = [ua.QualifiedName(name, 0)]
            clause.AttributeId = ua.AttributeIds.Value
            nonsense.SelectClauses.append(clause)
        await feed.watch([ua.NodeId(ua.ObjectIds.Server)], ua.AttributeIds.EventNotifier, nonsense, 0)
        await client.subscribe_alarms(got.append, period=0.5)
        world.server.update("LIT101", 900.0)
        await asyncio.sleep(2.0)

    world.run(watch())
    assert [alarm.limit for alarm in got] == ["H"]


@pytest.mark.parametrize(
    "wanted",
    [
        ua.EventFilter(),
        ua.AggregateFilter(),
        ua.DataChangeFilter(ua.DataChangeTrigger.StatusValue, ua.DeadbandType.Percent, 1.0),
    ],
)
def test_a_filter_that_does_not_fit_a_variable_is_refused(wanted: Any) -> None:
    world = World().start()

    async def watch() -> Any:
        client = world.client()
        await client.connect()
        feed = await client._feed(0.5, lambda _: None)
        node, value = [ua.NodeId("LIT101", 2)], ua.AttributeIds.Value
        _, created = await feed.watch(node, value, wanted, 1)
        _, (number,) = await feed.watch(node, value, None, 1)
        change = ua.ModifyMonitoredItemsParameters()
        change.SubscriptionId = feed.subscription_id
        item = ua.MonitoredItemModifyRequest()
        item.MonitoredItemId = number
        item.RequestedParameters.Filter = wanted
        change.ItemsToModify = [item]
        modified = await client._require().uaclient.session.modify_monitored_items(change)
        world.server.update("LIT101", 5.0)
        return created[0].name, modified[0].StatusCode.name  # type: ignore[union-attr]

    assert world.run(watch()) == ("BadMonitoredItemFilterUnsupported",) * 2


# -- virtual time ------------------------------------------------------------------------------------------------


def test_a_session_times_out_in_virtual_time() -> None:
    world = World().start()
    client = world.client(keep_alive=1e6, session_timeout=60.0)
    world.run(client.connect())
    started = time.perf_counter()
    world.until(59.0)
    assert world.server.sessions == 1
    world.until(130.0)
    assert world.server.sessions == 0
    assert ("session.closed", {"user": "anonymous", "peer": "10.0.0.3"}) in world.events
    assert time.perf_counter() - started < 20.0

    async def use() -> None:
        await client.read("LIT101")

    with pytest.raises(UaServiceError, match="BadSession"):
        world.run(use())


def test_an_idle_client_keeps_its_session_and_renews_its_channel_for_hours() -> None:
    world = World(security=(ENCRYPT,)).start()
    certificate, key = certificate_of("hist1")
    client = world.client(security=ENCRYPT, certificate=certificate, key=key)
    world.run(client.connect())
    renewals: list[float] = []
    world.zone.add_tap(
        lambda _link, packet: (
            renewals.append(packet.time) if packet.payload[:3] == b"OPN" and not packet.reply else None
        )
    )
    world.until(4 * 3600.0)

    async def use() -> Any:
        return await client.read("i=2258")

    assert world.run(use()).value >= moment(4 * 3600.0)
    # Three quarters of a lifetime of one hour.
    assert [round(time) for time in renewals] == [2700 * n for n in range(1, 6)]


def test_a_connection_without_a_session_is_closed_after_30_virtual_seconds() -> None:
    world = World().start()

    async def idle() -> float:
        reader, writer = await asyncio.open_connection("10.0.0.2", 4840)
        assert await reader.read() == b""
        writer.close()
        return world.loop.time()

    assert world.run(idle()) == pytest.approx(30.0, abs=0.1)


def test_times_that_no_clock_can_reach_are_not_waited_for() -> None:
    """A session time-out or publishing interval that is not a number would stop the run's clock."""
    world = World().start()

    async def strange(value: float) -> None:
        client = world.client(session_timeout=60.0)
        await client.connect()
        session = client._require().uaclient.session
        params = ua.CreateSubscriptionParameters()
        params.RequestedPublishingInterval = value
        result = await session.create_subscription(params, lambda _: None)
        assert 100.0 <= result.RevisedPublishingInterval <= 3_600_000.0
        create = ua.CreateSessionParameters()
        create.RequestedSessionTimeout = value
        create.EndpointUrl = "opc.tcp://10.0.0.2:4840"
        again = await session.create_session(create)
        assert 5_000.0 <= again.RevisedSessionTimeout <= 600_000.0

    for value in (math.nan, math.inf, -math.inf, -1.0, 1e300):
        world.run(strange(value))
    world.until(world.loop.time() + 1000.0)


def test_asyncua_sees_the_world_s_clock_only_in_a_world() -> None:
    shown = vars(internal_session)["time"]
    assert abs(shown.monotonic() - time.monotonic()) < 1.0
    world = World().start()
    world.until(1234.5)

    async def ask() -> Any:
        return shown.monotonic(), shown.time(), ua.RequestHeader().Timestamp

    monotonic, since_1970, stamp = world.run(ask())
    assert monotonic == 1234.5
    assert since_1970 == moment(1234.5).timestamp()
    assert stamp == moment(1234.5)
    assert abs(datetime.now(UTC) - ua.RequestHeader().Timestamp) < timedelta(seconds=5)


def test_the_stand_in_for_datetime_makes_plain_datetimes() -> None:
    stand_in: Any = opcua._Datetime
    made = stand_in(2026, 1, 5, tzinfo=UTC)
    assert type(made) is datetime
    assert isinstance(made, stand_in)
    assert not isinstance("2026", stand_in)
    assert type(stand_in.now()) is datetime


#: Parts of asyncua that no world uses: publish/subscribe, redundant clients, the synchronous front, tools, XML and SQL.
UNUSED = (
    "pubsub",
    "client/ha",
    "sync.py",
    "tools.py",
    "history_sql",
    "xml",
    "cert_gen",
    "statemachine",
    "ua_file",
)
CLOCKS_AND_DICE = {
    "datetime": r"\bdatetime\.(?:now|utcnow)\(",
    "time": r"\btime\.(?:monotonic|time|localtime|perf_counter)\(",
    "os": r"\bos\.urandom\(",
    "uuid": r"\buuid\.uuid[14]\(",
    "asyncio": r"\basyncio\.create_task\(",
}


@pytest.mark.parametrize("name", CLOCKS_AND_DICE)
def test_every_use_of_a_clock_or_of_chance_in_asyncua_is_replaced(name: str) -> None:
    root = Path(str(asyncua.__file__)).parent
    using = {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in root.rglob("*.py")
        if not any(part in str(path.relative_to(root)) for part in UNUSED)
        and "standard_address_space" not in str(path)
        and re.search(CLOCKS_AND_DICE[name], path.read_text(encoding="utf-8"))
    }
    # Discovery registration and events of asyncua's own server class, neither of which a plant's server starts.
    using -= {"server.server"} if name == "asyncio" else set()
    assert using <= set(opcua._REPLACED[name][1])


def test_asyncua_knows_no_other_source_of_chance() -> None:
    root = Path(str(asyncua.__file__)).parent
    for path in root.rglob("*.py"):
        if not any(part in str(path.relative_to(root)) for part in UNUSED):
            assert not re.search(
                r"^(?:import|from) (?:random|secrets)\b", path.read_text(encoding="utf-8"), re.M
            ), path


# -- one server after the other ----------------------------------------------------------------------------------


def digest_of(nodes: Any) -> str:
    text = hashlib.sha256()
    for node_id, node in nodes.items():
        text.update(f"{node_id}{node.attributes}{node.references}{node.call}".encode())
    return text.hexdigest()


def test_nothing_of_one_server_reaches_the_next() -> None:
    """An administrator who changes whatever can be changed changes it for one world."""
    first = World().start()
    whole = opcua._plant_nodes(first.server._rows())
    inner_server = first.server._server
    assert inner_server is not None
    touched = dict.keys(inner_server.iserver.aspace._nodes)
    standard = (
        ua.ObjectIds.ObjectsFolder,
        ua.ObjectIds.RootFolder,
        ua.ObjectIds.FolderType,
        ua.ObjectIds.Server,
    )
    keys = [*touched, *map(ua.NodeId, standard), *(key for key in whole if key.NamespaceIndex == 2)]
    nodes = {key: whole[key] for key in keys}
    before = digest_of(nodes)

    async def vandalize() -> None:
        client = first.client("admin", "x")
        await client.connect()
        inner = client._require()
        objects = inner.nodes.objects
        await objects.write_attribute(
            ua.AttributeIds.BrowseName, ua.DataValue(ua.Variant(ua.QualifiedName("Mine", 0)))
        )
        await (await objects.add_folder(2, "extra")).add_variable(2, "more", [1, 2, 3])
        await inner.delete_nodes([inner.get_node(ua.NodeId("P101", 2))])
        await inner.get_node(ua.NodeId(ua.ObjectIds.Server_NamespaceArray)).write_value(["a", "b"])
        await client.subscribe(["LIT101"], 1.0, lambda *_: None)

    first.run(vandalize())
    first.server.update("LIT101", 999.0)
    first.until(5.0)
    assert digest_of(nodes) == before
    second = World().start()

    async def look() -> Any:
        client = second.client()
        await client.connect()
        name = await client._require().nodes.objects.read_browse_name()
        return (
            await client.browse(),
            name.Name,
            await client._require().get_namespace_array(),
            await client.read("LIT101"),
        )

    tree, name, namespaces, value = second.run(look())
    assert list(tree["Plant"]["plc1"]) == ["LIT101", "LIT101_SP", "P101"]
    assert (name, namespaces[2], value.status) == ("Objects", NAMESPACE, "BadWaitingForInitialData")


def test_the_address_space_is_built_once_per_process() -> None:
    World().start()
    misses = opcua._standard_nodes.cache_info().misses, opcua._plant_nodes.cache_info().misses
    worlds = [World(seed=seed).start() for seed in range(3)]
    assert (opcua._standard_nodes.cache_info().misses, opcua._plant_nodes.cache_info().misses) == misses
    # A server copies the nodes it touches and no others.
    server = worlds[0].server._server
    assert server is not None
    own = dict.__len__(server.iserver.aspace._nodes)
    assert own < len(opcua._standard_nodes()) / 20


def test_a_node_that_is_deleted_and_made_again_is_one_node() -> None:
    nodes = opcua._Nodes(opcua._standard_nodes())
    key = ua.NodeId(ua.ObjectIds.Server)
    everything = len(nodes)
    del nodes[key]
    assert key not in nodes
    assert nodes.get(key) is None
    assert len(nodes) == everything - 1
    with pytest.raises(KeyError):
        del nodes[key]
    nodes[key] = opcua._standard_nodes()[key]
    assert len(nodes) == everything
    assert list(nodes.keys()).count(key) == 1


# -- the same in every process -----------------------------------------------------------------------------------

TRAFFIC = """
import asyncio, hashlib, random, threading
from tests.test_opcua import World, certificate_of
world = World(seed=7, security=("None", "Basic256Sha256_Sign"))
wire = hashlib.sha256()
world.zone.add_tap(lambda link, packet: wire.update(repr((packet.time, packet.flags, packet.payload)).encode()))
world.start()
async def work():
    client, other = world.client("operator", "secret"), world.client()
    await client.connect(); await other.connect()
    print(await client.browse())
    await client.subscribe(["LIT101", "P101"], 0.5, lambda *told: wire.update(repr(told).encode()))
    await other.subscribe_alarms(lambda alarm: wire.update(repr(alarm).encode()))
    for step in range(30):
        world.server.update("LIT101", 100.0 * (step % 12))
        await client.write("LIT101_SP", 500.0 + step)
        await asyncio.gather(client.read("LIT101"), other.read("P101"), client.history("LIT101"))
        await asyncio.sleep(0.7)
    await client.disconnect()
world.run(work())
world.until(200.0)
print(world.events)
print(wire.hexdigest())
print(threading.active_count(), "thread")
"""


def test_an_unencrypted_run_is_the_same_byte_for_byte_in_any_process() -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TRAFFIC],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for hash_seed in ("0", "4711")
    ]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert [errors for _, errors in outputs] == ["", ""]
    assert "write.accepted" in outputs[0][0]
    assert outputs[0][0].endswith("\n1 thread\n")  # none that could keep a process from ending
    assert outputs[0][0] == outputs[1][0]


def test_a_run_is_the_same_whatever_ran_before_it_in_the_process() -> None:
    def wire() -> str:
        world = World(seed=3)
        seen = hashlib.sha256()
        world.zone.add_tap(lambda _link, packet: seen.update(repr((packet.time, packet.payload)).encode()))
        world.start()
        writing(world, ("LIT101_SP", 1.0), user="operator")
        world.until(20.0)
        return seen.hexdigest()

    first = wire()
    World(seed=9).start()
    assert wire() == first


# -- strangers, accidents and defects ----------------------------------------------------------------------------


def test_a_lost_server_is_noticed_and_its_client_stops_trying() -> None:
    world = World().start()
    client = world.client(keep_alive=5.0)
    world.run(client.connect())

    async def watch() -> float:
        await client.subscribe(["LIT101"], 1.0, lambda *_: None)
        await client.lost()
        return world.loop.time()

    waiting = world.near.spawn(watch())
    world.until(20.0)
    world.host.power_off()
    world.until(60.0)
    assert 20.0 < waiting.result() < 35.0
    assert not client.connected
    sent: set[bytes] = set()
    world.zone.add_tap(lambda _link, packet: sent.add(packet.payload))

    async def use() -> None:
        await client.read("LIT101")

    with pytest.raises(ConnectionError):
        world.run(use())
    world.run(client.disconnect())
    world.until(300.0)
    assert len(sent - {b""}) <= 1  # what TCP still tries to deliver


def test_a_server_serves_again_after_a_loss_of_power() -> None:
    world = World().start()
    world.run(world.client().connect())
    world.host.power_off()
    world.until(5.0)
    world.host.power_on()
    world.server.update("LIT101", 3.0)
    world.start()

    async def read() -> Any:
        client = world.client()
        await client.connect()
        return await client.read("LIT101")

    assert world.run(read()).value == 3.0


def test_connections_reset_on_the_way_hurt_nobody_else() -> None:
    world = World().start()
    cut = {"on": False}

    def policy(packet: Packet) -> Verdict:
        return (
            Verdict.REJECT if cut["on"] and "10.0.0.3" in (packet.source, packet.target) else Verdict.ACCEPT
        )

    world.zone.add_policy("cut", policy)
    victim, other = world.client(keep_alive=1.0), world.client()
    got: list[float] = []

    async def begin() -> None:
        await victim.connect()
        await victim.subscribe(["LIT101"], 0.5, lambda *_: None)

    async def watch() -> None:
        await other.connect()
        await other.subscribe(["LIT101"], 0.5, lambda _n, value, *_: got.append(value))

    world.run(begin())
    world.run(watch(), world.far)
    for second in range(1, 40):
        cut["on"] = second > 10
        world.until(float(second))
        world.server.update("LIT101", float(second))
    assert not victim.connected
    assert other.connected
    assert got[-1] >= 38.0
    # The victim's session lives on without it, and ends as any that is not used.
    world.until(200.0)
    assert world.server.sessions == 1


def test_the_port_of_a_server_can_be_used_again_after_it_stops() -> None:
    world = World().start()
    client = world.client()
    world.run(client.connect())
    with pytest.raises(OSError, match="taken"):
        world.start()
    world.run(world.server.stop(), world.host)
    world.until(30.0)
    assert not client.connected
    world.start()
    assert world.run(world.client().connect()) is None
    world.run(world.server.stop(), world.host)
    world.run(world.server.stop(), world.host)


def test_nobody_answers() -> None:
    world = World()

    async def knock(url: str) -> Any:
        return await UaClient(url, timeout=2.0).connect()

    with pytest.raises(ConnectionError):
        world.run(knock("opc.tcp://10.0.0.2:4840"))  # nothing listens
    with pytest.raises(ConnectionError):
        world.run(knock("opc.tcp://10.9.9.9:4840"))  # no such host
    world.host.power_off()
    with pytest.raises(TimeoutError, match="2 s"):
        world.run(knock("opc.tcp://10.0.0.2:4840"))
    unused = world.client()
    world.run(unused.disconnect())
    with pytest.raises(ConnectionError, match="not connected"):
        world.run(unused.read("LIT101"))


def test_a_connect_that_is_given_up_leaves_no_session_behind() -> None:
    for after in (0.0001, 0.0005, 0.001, 0.0014, 0.0018, 0.0021):
        world = World().start()

        async def give_up(after: float = after, world: World = world) -> None:
            client = world.client()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(after):
                    await client.connect()
            assert not client.connected

        world.run(give_up())
        world.until(world.loop.time() + 1.0)
        assert world.server.sessions == 0


def test_a_server_that_never_answers_times_out() -> None:
    world = World()

    async def knock() -> Any:
        return await world.client(timeout=2.0).connect()

    async def listen() -> None:
        await world.loop.create_server(asyncio.Protocol, "0.0.0.0", 4840)

    world.run(listen(), world.host)
    with pytest.raises(TimeoutError):
        world.run(knock())
    assert world.loop.time() < 5.0


@pytest.mark.parametrize("security", [None, ENCRYPT])
def test_a_run_may_end_at_any_moment(security: str | None, recwarn: pytest.WarningsRecorder) -> None:
    certificate, key = certificate_of("hist1")
    for end in (0.0005, 0.001, 0.0017, 0.003, 0.0033, 0.0041, 0.0049, 0.02, 0.5, 1.0003, 3.0):
        world = World(security=(security or "None",)).start()

        async def work(world: World = world) -> None:
            client = world.client(security=security, certificate=certificate, key=key)
            await client.connect()
            await client.subscribe(["LIT101"], 0.5, lambda *_: None)
            await client.subscribe_alarms(lambda _: None)
            while True:
                await client.write("LIT101_SP", 700.0)
                await client.history("LIT101")

        world.near.spawn(work())
        world.server.update("LIT101", 900.0)
        world.until(end)
        world.loop.close()
        del world, work
        gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize(
    "seam", ["authenticate", "authorize_write", "validate_write", "on_event", "trust", "write"]
)
def test_a_defect_in_a_seam_ends_the_run(seam: str, swallowed: list[BaseException]) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError(seam)

    async def broken_write(*_: Any) -> bool:
        raise ZeroDivisionError(seam)

    certificate, key = certificate_of("hist1")
    world = World(security=("None", ENCRYPT)).start()
    if seam == "write":
        world.server._write = broken_write
    else:
        setattr(world.server, seam, broken)

    async def work() -> None:
        client = world.client(security=ENCRYPT, certificate=certificate, key=key)
        await client.connect()
        await client.write("LIT101_SP", 700.0)

    with pytest.raises(ZeroDivisionError, match=seam):
        world.run(work())
    swallowed.clear()


def test_a_defect_in_a_subscriber_ends_the_run(swallowed: list[BaseException]) -> None:
    world = World().start()

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("told")

    async def work() -> None:
        client = world.client()
        await client.connect()
        await client.subscribe(["LIT101"], 0.5, broken)
        await asyncio.sleep(5)

    with pytest.raises(ZeroDivisionError, match="told"):
        world.run(work())
    swallowed.clear()


HELLO = (
    bytes.fromhex("48454c46")
    + (32 + 23).to_bytes(4, "little")
    + bytes.fromhex("00000000ffff0000ffff000000000000")
    + (bytes.fromhex("00000000") + (23).to_bytes(4, "little") + b"opc.tcp://10.0.0.2:4840")
)


def recorded() -> list[bytes]:
    """What a client sends in a short session without security."""
    world = World().start()
    sent: list[bytes] = []
    world.zone.add_tap(
        lambda _link, packet: sent.append(packet.payload) if packet.payload and not packet.reply else None
    )

    async def work() -> None:
        client = world.client("operator", "secret")
        await client.connect()
        await client.browse()
        await client.subscribe(["LIT101"], 0.5, lambda *_: None)
        await client.subscribe_alarms(lambda _: None)
        await client.write("LIT101_SP", 700.0)
        await client.history("LIT101")
        await asyncio.sleep(2.0)
        await client.disconnect()

    world.run(work())
    return sent


@pytest.fixture(scope="module")
def session() -> list[bytes]:
    return recorded()


@pytest.fixture(scope="module")
def attacked() -> Iterator[World]:
    world = World().start()
    OPEN_WORLDS.remove(world)
    yield world
    world.loop.close()


def survives(world: World, stream: list[bytes]) -> None:
    """Send ``stream`` as a stranger; the server must cope and serve others afterwards."""

    async def send() -> None:
        _, writer = await asyncio.open_connection("10.0.0.2", 4840)
        for piece in stream:
            writer.write(piece)
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)
        writer.close()

    async def read() -> Any:
        client = world.client()
        assert await client.connect() is None
        value = await client.read("LIT101")
        await client.disconnect()
        return value

    world.run(send(), world.far)
    world.server.update("LIT101", world.loop.time())
    assert world.run(read()).good
    world.until(world.loop.time() + 100.0)
    assert world.server.sessions == 0


FUZZ = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(stream=st.lists(st.binary(max_size=200), max_size=4), hello=st.booleans())
def test_arbitrary_bytes_do_not_disturb_the_server(
    attacked: World, swallowed: list[BaseException], stream: list[bytes], hello: bool
) -> None:
    survives(attacked, [HELLO, *stream] if hello else stream)
    swallowed.clear()


@FUZZ
@given(
    upto=st.floats(0, 1),
    place=st.floats(0, 1),
    byte=st.integers(0, 255),
    cut=st.integers(0, 3),
)
def test_a_session_with_one_wrong_byte_does_not_disturb_the_server(
    swallowed: list[BaseException],
    session: list[bytes],
    upto: float,
    place: float,
    byte: int,
    cut: int,
) -> None:
    """Replays a session on a server of the same seed, for which its channel and session are valid, to a damaged end."""
    *stream, damaged = session[: 1 + int(upto * (len(session) - 1))]
    last = bytearray(damaged)
    last[int(place * (len(last) - 1))] = byte
    world = World().start()
    world.server.update("LIT101", 900.0)
    survives(world, [*stream, bytes(last[: len(last) - cut])])
    OPEN_WORLDS.remove(world)
    world.loop.close()
    swallowed.clear()


def test_a_session_without_security_can_be_replayed(session: list[bytes]) -> None:
    """What makes the test above reach every service; and what makes signing worth having."""
    world = World().start()
    world.server.update("LIT101", 900.0)
    survives(world, session)
    assert world.writes == [("LIT101_SP", 700.0)]
    assert {data["user"] for kind, data in world.events if kind.startswith("session")} == {
        "operator",
        "anonymous",
    }


@FUZZ
@given(which=st.integers(0, 30), place=st.floats(0, 1), byte=st.integers(0, 255))
def test_tampered_answers_cost_a_client_its_connection_at_most(
    swallowed: list[BaseException], which: int, place: float, byte: int
) -> None:
    """ATT&CK T0830, with somebody who changes a byte of one answer."""
    world = World().start()
    world.server.update("LIT101", 900.0)
    number = 0

    def tamper(packet: Packet) -> bytes:
        nonlocal number
        data = bytearray(packet.payload)
        if packet.source == "10.0.0.2" and data:
            if number == which:
                data[int(place * (len(data) - 1))] = byte
            number += 1
        return bytes(data)

    assert world.far.interpose("10.0.0.2", "10.0.0.3", tamper)

    async def work() -> None:
        client = world.client(timeout=1.0)
        try:
            if await client.connect() is None:
                await client.subscribe(["LIT101", "P101"], 0.5, lambda *_: None)
                await client.subscribe_alarms(lambda _: None)
                await client.browse()
                await client.read_many(["LIT101", "i=2256"])
                await client.write("LIT101_SP", 700.0)
                await client.history("LIT101")
                await asyncio.sleep(3.0)
        except (ConnectionError, TimeoutError):
            pass
        await client.disconnect()

    world.run(work())
    OPEN_WORLDS.remove(world)
    world.loop.close()
    swallowed.clear()


@FUZZ
@given(answers=st.lists(st.binary(max_size=120), max_size=4), acknowledge=st.booleans())
def test_a_server_that_answers_nonsense_is_a_connection_error(
    swallowed: list[BaseException], answers: list[bytes], acknowledge: bool
) -> None:
    world = World()
    ack = b"ACKF" + (28).to_bytes(4, "little") + bytes.fromhex("00000000ffff0000ffff00000000000000000000")
    script = ([ack] if acknowledge else []) + answers

    class Liar(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: Any = transport
            self.left = list(script)

        def data_received(self, data: bytes) -> None:
            if self.left:
                self.transport.write(self.left.pop(0))
            else:
                self.transport.close()

    async def listen() -> None:
        await world.loop.create_server(Liar, "0.0.0.0", 4840)

    async def knock() -> Any:
        return await world.client(timeout=1.0).connect()

    world.run(listen(), world.host)
    try:
        answer = world.run(knock())
    except (ConnectionError, TimeoutError):
        answer = None
    assert answer is None or isinstance(answer, UaRefusal)
    world.loop.close()
    swallowed.clear()


def test_a_message_that_claims_to_be_endless_is_cut_off_at_once() -> None:
    world = World().start()

    async def send(head: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("10.0.0.2", 4840)
        writer.write(head)
        answer = await reader.read()
        writer.close()
        return answer

    for head in (b"MSGF\xff\xff\xff\xff", b"MSGF\x04\0\0\0", b"GET / HTTP/1.1"):
        begun = world.loop.time()
        answer = world.run(send(head))
        assert answer[:3] == b"ERR"
        assert world.loop.time() - begun < 0.1


# -- the faster encoding -----------------------------------------------------------------------------------------

MOMENTS = st.one_of(
    st.none(), st.datetimes(datetime(1600, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))
)
SCALARS = st.one_of(
    st.floats().map(lambda value: ua.Variant(value, ua.VariantType.Double)),
    st.booleans().map(lambda value: ua.Variant(value, ua.VariantType.Boolean)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: ua.Variant(value, ua.VariantType.Int64)),
    st.integers(-(2**31), 2**31 - 1).map(lambda value: ua.Variant(value, ua.VariantType.Int32)),
    st.text(max_size=5).map(ua.Variant),
    st.lists(st.floats(), min_size=1, max_size=3).map(lambda value: ua.Variant(value, ua.VariantType.Double)),
    st.just(ua.Variant(None)),
)
STATUSES = st.one_of(st.none(), st.sampled_from([0, 0x80310000, 0x40000000]).map(ua.StatusCode))
U32 = st.integers(0, 2**32 - 1)
NODES = st.one_of(
    st.builds(ua.NodeId, U32, st.integers(0, 65535)),
    st.builds(ua.NodeId, st.text(max_size=6), st.integers(0, 65535)),
    st.builds(ua.NodeId, st.binary(max_size=6), st.integers(0, 65535)),
    st.builds(ua.NodeId, st.uuids(), st.integers(0, 65535)),
)
EXTRAS = st.sampled_from(
    [ua.ExtensionObject(), ua.ExtensionObject(ua.NodeId(9), b"x"), ua.ExtensionObject(ua.NodeId(9))]
)


@st.composite
def values(draw: st.DrawFn) -> Any:
    pico = st.one_of(st.none(), st.integers(0, 9999))
    return ua.DataValue(draw(SCALARS), draw(STATUSES), draw(MOMENTS), draw(MOMENTS), draw(pico), draw(pico))


NOTIFICATIONS = st.builds(
    ua.DataChangeNotification, st.lists(st.builds(ua.MonitoredItemNotification, U32, values()), max_size=3)
)
STAMPS = st.datetimes(datetime(1602, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))
STRUCTURES = st.one_of(
    values(),
    NOTIFICATIONS,
    st.builds(
        ua.RequestHeader, NODES, STAMPS, U32, U32, st.one_of(st.none(), st.text(max_size=3)), U32, EXTRAS
    ),
    st.builds(
        ua.ResponseHeader,
        STAMPS,
        U32,
        st.builds(ua.StatusCode, U32),
        st.sampled_from([ua.DiagnosticInfo(), ua.DiagnosticInfo(SymbolicId=3)]),
        st.one_of(st.none(), st.lists(st.text(max_size=3), max_size=2)),
        EXTRAS,
    ),
    st.builds(
        ua.ReadValueId,
        NODES,
        U32,
        st.one_of(st.none(), st.just("1:2")),
        st.sampled_from(
            [ua.QualifiedName(None, 0), ua.QualifiedName("Default Binary", 0), ua.QualifiedName(None, 1)]
        ),
    ),
    st.builds(
        ua.PublishResult,
        U32,
        st.lists(U32, max_size=4),
        st.booleans(),
        st.builds(ua.NotificationMessage, U32, STAMPS, st.lists(NOTIFICATIONS, max_size=2)),
        st.lists(st.builds(ua.StatusCode, U32), max_size=3),
    ),
    st.builds(ua.SequenceHeader, U32, U32),
    st.builds(ua.SymmetricAlgorithmHeader, U32),
    st.builds(ua.SubscriptionAcknowledgement, U32, U32),
)


@pytest.fixture(scope="module")
def generic() -> tuple[Callable[[Any], bytes], Callable[[type, bytes], Any]]:
    """asyncua's own writer and reader, from a copy of its module that nothing was done to."""
    source = Path(str(ua_binary.__file__)).read_text(encoding="utf-8")
    import types

    untouched: Any = types.ModuleType("asyncua.ua.untouched_binary")
    untouched.__package__ = "asyncua.ua"
    sys.modules[untouched.__name__] = untouched
    exec(compile(source, "untouched_binary", "exec"), vars(untouched))
    return untouched.struct_to_binary, lambda kind, data: untouched.struct_from_binary(
        kind, ua.utils.Buffer(data)
    )


@settings(max_examples=200, deadline=None)
@given(item=STRUCTURES)
def test_the_faster_encoding_is_the_same_bytes(generic: Any, item: Any) -> None:
    opcua._install()
    write, read = generic
    data = write(item)
    assert ua_binary.struct_to_binary(item) == data
    rest = ua.utils.Buffer(data + b"rest")
    ours = ua_binary.struct_from_binary(type(item), rest)
    assert repr(ours) == repr(read(type(item), data))
    assert bytes(rest) == b"rest"


@settings(max_examples=200, deadline=None)
@given(item=STRUCTURES, place=st.floats(0, 1), byte=st.integers(0, 255), cut=st.integers(0, 6))
def test_the_faster_decoding_accepts_and_refuses_the_same_bytes(
    generic: Any, item: Any, place: float, byte: int, cut: int
) -> None:
    opcua._install()
    write, read = generic
    data = bytearray(write(item))
    data[int(place * (len(data) - 1))] = byte
    damaged = bytes(data[: max(1, len(data) - cut)])

    def outcome(reader: Callable[[], Any]) -> str:
        try:
            return repr(reader())
        except (ua.UaError, ValueError, TypeError, IndexError, OverflowError, MemoryError) as refusal:
            return f"refused {isinstance(refusal, ua.UaError)}"

    theirs = outcome(lambda: read(type(item), damaged))
    ours = outcome(lambda: ua_binary.struct_from_binary(type(item), ua.utils.Buffer(damaged)))
    assert ours == theirs or (ours.startswith("refused") and theirs.startswith("refused"))


@settings(max_examples=200, deadline=None)
@given(node=NODES)
def test_node_ids_are_read_as_asyncua_reads_them(generic: Any, node: Any) -> None:
    opcua._install()
    data = ua_binary.nodeid_to_binary(node)
    ours = ua_binary.nodeid_from_binary(ua.utils.Buffer(data))
    assert (ours, ours.NodeIdType, hash(ours)) == (node, node.NodeIdType, hash(node))


def test_an_observer_of_the_network_sees_ordinary_opc_ua() -> None:
    world = World().start()
    seen: list[tuple[bytes, int]] = []

    def tap(_link: Link, packet: Packet) -> None:
        if packet.payload:
            seen.append(
                (packet.payload[:4], int.from_bytes(packet.payload[4:8], "little") - len(packet.payload))
            )

    world.zone.add_tap(tap)
    writing(world, ("LIT101_SP", 1.0))
    assert [kind for kind, _ in seen[:4]] == [b"HELF", b"ACKF", b"OPNF", b"OPNF"]
    assert {kind for kind, _ in seen[4:]} == {b"MSGF", b"CLOF"}
    assert {difference for _, difference in seen} == {0}

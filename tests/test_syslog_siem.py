"""Syslog as RFC 5424 has it, from a device's audit to the SIEM's alert, over UDP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import SmallWorld, two_zones

from devices.audit import Audit
from devices.siem import SecurityAlert, Siem
from devices.sigma import Rule, shipped
from devices.syslog import FACILITY, PORT, SD_ID, SEVERITY, Message, SyslogSender, decode, encode
from testbed.network import Verdict

EPOCH = datetime(2026, 3, 2, 6, tzinfo=UTC)

# ------------------------------------------------------------------------------------- the judge: the RFC's grammar


class Judge:
    """RFC 5424, 6: its ABNF, rule by rule, as a recursive descent over octets; ValueError where a rule fails."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.at = 0

    def peek(self) -> int:
        return self.octets[self.at] if self.at < len(self.octets) else -1

    def take(self, literal: bytes) -> None:
        if not self.octets.startswith(literal, self.at):
            raise ValueError(f"no {literal!r} at {self.at}")
        self.at += len(literal)

    def digits(self, least: int, most: int) -> int:
        start = self.at
        while self.at - start < most and 0x30 <= self.peek() <= 0x39:
            self.at += 1
        if self.at - start < least:
            raise ValueError(f"no digit at {self.at}")
        return int(self.octets[start : self.at])

    def number(self, length: int, low: int, high: int) -> int:
        value = self.digits(length, length)
        if not low <= value <= high:
            raise ValueError(f"{value} is outside {low}..{high}")
        return value

    def print_us_ascii(self, most: int, without: bytes = b"") -> bytes:
        start = self.at
        while self.at - start < most and 33 <= self.peek() <= 126 and self.peek() not in without:
            self.at += 1
        if self.at == start:
            raise ValueError(f"nothing printable at {self.at}")
        return self.octets[start : self.at]

    def message(self) -> tuple[int, bytes, bytes, dict[str, str]]:
        """SYSLOG-MSG: priority, host name, message id and the parameters of the structured data."""
        priority = self.header_start()
        self.take(b" ")
        self.timestamp()
        fields = []
        for most in (255, 48, 128, 32):  # HOSTNAME APP-NAME PROCID MSGID
            self.take(b" ")
            fields.append(self.print_us_ascii(most))
        self.take(b" ")
        data = self.structured_data()
        if self.at < len(self.octets):
            self.take(b" ")  # and MSG, which is any octets
        return priority, fields[0], fields[3], data

    def header_start(self) -> int:
        self.take(b"<")
        start = self.at
        priority = self.digits(1, 3)
        if priority > 191 or (self.octets[start] == 0x30 and self.at - start > 1):
            raise ValueError(f"priority {priority}")
        self.take(b">1")
        return priority

    def timestamp(self) -> None:
        if self.peek() == 0x2D:
            self.take(b"-")
            return
        self.digits(4, 4)
        self.take(b"-")
        self.number(2, 1, 12)
        self.take(b"-")
        self.number(2, 1, 31)
        self.take(b"T")
        self.number(2, 0, 23)
        self.take(b":")
        self.number(2, 0, 59)
        self.take(b":")
        self.number(2, 0, 59)
        if self.peek() == 0x2E:
            self.take(b".")
            self.digits(1, 6)
        if self.peek() == 0x5A:
            self.take(b"Z")
            return
        self.take(b"-" if self.peek() == 0x2D else b"+")
        self.number(2, 0, 23)
        self.take(b":")
        self.number(2, 0, 59)

    def structured_data(self) -> dict[str, str]:
        if self.peek() == 0x2D:
            self.take(b"-")
            return {}
        found: dict[str, str] = {}
        self.element(found)
        while self.peek() == 0x5B:
            self.element(found)
        return found

    def element(self, found: dict[str, str]) -> None:
        self.take(b"[")
        self.print_us_ascii(32, b'= ]"')
        while self.peek() == 0x20:
            self.take(b" ")
            name = self.print_us_ascii(32, b'= ]"').decode()
            self.take(b'="')
            found[name] = self.value()
            self.take(b'"')
        self.take(b"]")

    def value(self) -> str:
        octets = bytearray()
        while self.peek() not in (0x22, 0x5D):
            if self.peek() == -1:
                raise ValueError("an open value")
            if self.peek() == 0x5C and self.octets[self.at + 1 : self.at + 2] in (b'"', b"\\", b"]"):
                self.at += 1
            octets.append(self.peek())
            self.at += 1
        return octets.decode()


def judged(octets: bytes) -> tuple[int, bytes, bytes, dict[str, str]] | None:
    try:
        return Judge(octets).message()
    except ValueError:
        return None


# The examples of RFC 5424, 6.5, and messages that its text rules out.
GOOD = [
    b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xef\xbb\xbf'su root' failed for lonvick",
    b"<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time to make the do-nuts.",
    b'<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut="3"'
    b' eventSource="Application" eventID="1011"] \xef\xbb\xbfAn application event log entry...',
    b'<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut="3"'
    b' eventSource="Application" eventID="1011"][examplePriority@32473 class="high"]',
    b"<0>1 - - - - - -",
    b"<191>1 - h a p m [id] \xff\xfe any octets [x] here",
    b'<13>1 - h a p m [id a="\\]\\"\\\\" b="\\n"]',
]
BAD = [
    b"",
    b"<34>",
    b"<34>Oct 11 22:14:15 mymachine su: 'su root' failed",  # RFC 3164
    b"<192>1 - - - - - -",
    b"<00>1 - - - - - -",
    b"<034>1 - - - - - -",
    b"<34>2 - - - - - -",
    b"<34>1 2003-10-11 - - - - -",
    b"<34>1 2003-13-11T22:14:15Z - - - - -",
    b"<34>1 2003-10-11T24:14:15Z - - - - -",
    b"<34>1 2003-10-11T22:14:15.0000003-07:00 - - - - -",
    b"<34>1 2003-10-11T22:14:15 - - - - -",
    b"<34>1 -  - - - - -",
    b"<34>1 - - - - -",
    b"<34>1 - - - - - []",
    b'<34>1 - - - - - [id a="]"]',
    b'<34>1 - - - - - [id a=""" b=""]',
    b'<34>1 - - - - - [id  a="1"]',
    b'<34>1 - - - - - [id a="1"] [id b="2"',  # this one is good: MSG is any octets
    b'<34>1 - - - - - [id a="1"',
    b'<34>1 - - - - - [id a="\xff"]',
    b"<34>1 - h\xc3\xa9 - - - -",
    b"<34>1 - - - - " + b"m" * 33 + b" -",
    b"<\xd9\xa3>1 - - - - - -",
]


@pytest.mark.parametrize("octets", GOOD)
def test_the_rfcs_own_examples_are_understood(octets: bytes) -> None:
    assert judged(octets) is not None
    message = decode(octets)
    assert message is not None
    assert message.data == judged(octets)[3]  # type: ignore[index]


@pytest.mark.parametrize("octets", BAD)
def test_what_the_rfc_rules_out_is_no_message(octets: bytes) -> None:
    assert (decode(octets) is None) is (judged(octets) is None)
    assert (decode(octets) is None) is (octets != BAD[18])


def test_a_backslash_that_escapes_nothing_is_a_backslash() -> None:
    message = decode(GOOD[-1])
    assert message is not None
    assert message.data == {"a": ']"\\', "b": "\\n"}


NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)
KINDS = st.from_regex(r"[a-z]{1,10}(\.[a-z]{1,10}){0,2}", fullmatch=True)
VALUES = st.one_of(
    st.text(max_size=40), st.integers(), st.floats(), st.booleans(), st.lists(st.integers(), max_size=4)
)
MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 1),
    max_value=datetime(2200, 1, 1),
    timezones=st.sampled_from(
        [UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=-7, minutes=-30))]
    ),
)


@settings(deadline=None)  # a loaded machine is no defect
@given(KINDS, st.dictionaries(NAMES, VALUES, max_size=6), MOMENTS)
def test_every_message_is_one_of_the_rfcs_grammar_and_comes_back_as_it_went(
    kind: str, data: dict[str, object], moment: datetime
) -> None:
    raw = encode("plc1", kind, data, moment)
    verdict = judged(raw)
    assert verdict is not None
    priority, host, message_id, parameters = verdict
    message = decode(raw)
    assert message is not None
    expected = {name: str(value) for name, value in data.items()}
    assert (host, message_id, parameters) == (b"plc1", kind.encode(), expected)
    assert (message.source, message.kind, message.data) == ("plc1", kind, expected)
    assert priority == FACILITY + message.severity
    assert abs(datetime.fromisoformat(message.timestamp) - moment) < timedelta(milliseconds=1)


@settings(deadline=None)
@given(st.sampled_from(GOOD + BAD), st.data())
def test_reader_and_grammar_agree_about_messages_that_were_damaged(
    octets: bytes, data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(octets)))
        cut = data.draw(st.integers(0, 2))
        middle = data.draw(
            st.one_of(st.binary(max_size=2), st.sampled_from([b'"', b"]", b"[", b"\\", b" ", b"-"]))
        )
        octets = octets[:place] + middle + octets[place + cut :]
    message, verdict = decode(octets), judged(octets)
    assert (message is None) is (verdict is None)
    if message is not None and verdict is not None:
        assert message.data == verdict[3]


def test_severities_are_the_tables_and_values_of_none_are_left_out() -> None:
    message = decode(encode("plc1", "plc.fault", {"fault": "logic", "line": None}, EPOCH))
    assert message == Message(3, "2026-03-02T06:00:00.000Z", "plc1", "plc.fault", {"fault": "logic"})
    other = decode(encode("plc1", "operator.write", {}, EPOCH))
    assert other is not None
    assert other.severity == 6
    assert all(0 <= severity <= 7 for severity in SEVERITY.values())


def test_half_a_character_in_a_value_makes_no_message_impossible() -> None:
    message = decode(encode("hmi1", "login.failed", {"user": "a\ud800"}, EPOCH))
    assert message is not None
    assert message.data == {"user": "a?"}


# ------------------------------------------------------------------------------------------ from audit to alert


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with two_zones() as found:
        yield found


def collector(world: SmallWorld, **options: object) -> tuple[Siem, list[SecurityAlert]]:
    """A SIEM in operations that collects, and the alerts it has raised."""
    siem = Siem(world.network.host("siem1", "operations", "10.0.2.60"), "siem1", **options)  # type: ignore[arg-type]
    alerts: list[SecurityAlert] = []
    siem.on_alert.append(alerts.append)
    siem.start()
    return siem, alerts


def sender(world: SmallWorld, name: str = "dev1", address: str = "10.0.1.30", port: int = PORT) -> Audit:
    """The audit of a device in the control zone that sends its events to the SIEM."""
    sink = SyslogSender(world.network.host(name, "control", address), "10.0.2.60", EPOCH, port)
    sink.start()
    audit = Audit(name)
    audit.sinks.append(sink)
    return audit


def test_an_event_of_a_device_reaches_the_siem_over_the_wire(world: SmallWorld) -> None:
    siem, alerts = collector(world)
    audit = sender(world)
    seen: list[bytes] = []
    world.network.conduits["boundary"].add_tap(lambda _link, packet: seen.append(packet.payload))
    world.run(12.345)
    audit("program.loaded", peer="10.0.1.99", digest="ab")
    world.run(1)
    assert seen == [
        f'<108>1 2026-03-02T06:00:12.345Z dev1 otlab - program.loaded [{SD_ID} peer="10.0.1.99" digest="ab"]'.encode()
    ]
    assert siem.messages == 1
    (alert,) = alerts
    assert (alert.rule, alert.severity, alert.source, alert.subject) == (
        "logic changed",
        4,
        "dev1",
        "10.0.1.99",
    )
    assert alert.time == pytest.approx(12.345, abs=0.01)


def test_a_forwarder_that_waits_keeps_the_time_of_the_event(world: SmallWorld) -> None:
    siem, alerts = collector(world)
    host = world.network.host("dev1", "control", "10.0.1.30")
    slow = SyslogSender(host, "10.0.2.60", EPOCH, delay=1.5)
    slow.start()
    seen: list[bytes] = []
    world.network.conduits["boundary"].add_tap(lambda _link, packet: seen.append(packet.payload))
    world.run(10)
    slow("dev1", "program.loaded", {"peer": "10.0.1.99"})
    world.run(1)
    assert siem.messages == 0
    world.run(1)
    assert alerts[0].time == pytest.approx(11.5, abs=0.01)
    assert b"06:00:10.000Z" in seen[0]


def test_events_before_the_socket_is_open_are_sent_when_it_is(world: SmallWorld) -> None:
    siem, _ = collector(world)
    audit = sender(world)
    audit("program.loaded", peer="a")
    audit("plc.mode", mode="run")
    world.run(1)
    assert siem.messages == 2


def test_what_is_lost_on_the_way_is_lost(world: SmallWorld) -> None:
    siem, _ = collector(world)
    audit = sender(world)
    world.run(1)
    world.network.conduits["boundary"].add_policy("all", lambda _packet: Verdict.DROP)
    audit("program.loaded", peer="a")
    world.run(1)
    world.network.conduits["boundary"].remove_policy("all")
    audit("plc.mode", mode="run")
    world.run(1)
    assert siem.messages == 1


def test_sender_and_siem_may_agree_on_another_port(world: SmallWorld) -> None:
    siem, _ = collector(world, port=1514)
    usual, other = sender(world), sender(world, "dev2", "10.0.1.31", 1514)
    usual("plc.mode", mode="run")
    other("plc.mode", mode="run")
    world.run(1)
    assert siem.messages == 1


def test_datagrams_that_are_not_syslog_are_counted_and_ignored(world: SmallWorld) -> None:
    siem, alerts = collector(world)

    async def noise() -> None:
        transport, _ = await world.loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("10.0.2.60", PORT)
        )
        assert isinstance(transport, asyncio.DatagramTransport)
        for octets in (
            b"\xff" * 50,
            b"<999>1 x",
            b"hello",
            encode("dev9", "program.loaded", {"peer": "p"}, EPOCH),
        ):
            transport.sendto(octets)

    world.ask(noise())
    world.run(1)
    assert (siem.messages, siem.unparsed) == (1, 3)
    assert [alert.source for alert in alerts] == ["dev9"]  # and nothing proves who sent it


# ------------------------------------------------------------------------------------------------------- rules


def tell(world: SmallWorld, siem: Siem, kind: str, source: str = "dev1", **data: str) -> None:
    """Let the SIEM take an event now."""
    siem.take(encode(source, kind, data, EPOCH + timedelta(seconds=world.now)))


def kind_of(rule: Rule) -> str:
    """The one kind of event that a rule is about."""
    assert rule.kinds is not None
    (kind,) = rule.kinds
    return kind


@pytest.mark.parametrize(
    "rule", [rule for rule in shipped() if rule.correlation is None], ids=lambda rule: rule.title
)
def test_one_event_is_an_alert_where_the_rule_says_so(world: SmallWorld, rule: Rule) -> None:
    siem, alerts = collector(world)
    tell(world, siem, kind_of(rule), **{rule.subject: "whoever"})
    assert [(alert.rule, alert.severity, alert.subject) for alert in alerts] == [
        (rule.title, rule.severity, "whoever")
    ]


@pytest.mark.parametrize(
    "rule",
    [rule for rule in shipped() if rule.correlation is not None and rule.correlation.kind == "EVENT_COUNT"],
    ids=lambda rule: rule.title,
)
def test_repeated_events_are_an_alert_only_within_the_window(world: SmallWorld, rule: Rule) -> None:
    siem, alerts = collector(world)
    assert rule.correlation is not None
    window, count = rule.correlation.span, rule.correlation.most
    assert count is not None
    pause = window / (count - 1) + 1.0  # one fewer than count within any window
    for _ in range(3 * count):
        tell(world, siem, kind_of(rule), **{rule.subject: "p"})
        world.run(pause)
    assert alerts == []
    world.run(window)
    for number in range(count):
        assert alerts == []
        tell(world, siem, kind_of(rule), **{rule.subject: "p"})
        if number < count - 1:
            world.run(window / count)
    assert [(alert.rule, alert.subject) for alert in alerts] == [(rule.title, "p")]


def test_events_about_different_subjects_or_from_different_devices_do_not_add_up(world: SmallWorld) -> None:
    siem, alerts = collector(world)
    for number in range(30):
        tell(world, siem, "access.denied", peer=f"p{number}")
        tell(world, siem, "access.denied", source=f"dev{number}", peer="p")
    assert alerts == []


def test_the_same_alert_is_quiet_for_its_time_and_another_is_not(world: SmallWorld) -> None:
    siem, alerts = collector(world, quiet=300.0)
    for _ in range(299):
        tell(world, siem, "plc.fault", fault="logic")
        world.run(1)
    assert len(alerts) == 1
    tell(world, siem, "plc.fault", fault="watchdog")
    tell(world, siem, "plc.fault", source="dev2", fault="logic")
    assert len(alerts) == 3
    world.run(1)
    tell(world, siem, "plc.fault", fault="logic")
    assert len(alerts) == 4


def test_an_alert_of_the_network_monitor_keeps_the_name_of_its_rule(world: SmallWorld) -> None:
    siem, alerts = collector(world)
    tell(world, siem, "ids.alert", rule="new flow", subject="10.0.1.99")
    tell(world, siem, "ids.alert", rule="packet rate", subject="10.0.1.99")
    assert [(alert.rule, alert.subject) for alert in alerts] == [
        ("new flow", "10.0.1.99"),
        ("packet rate", "10.0.1.99"),
    ]


def test_an_event_that_no_rule_knows_is_kept_in_the_count_and_no_alert(world: SmallWorld) -> None:
    siem, alerts = collector(world)
    tell(world, siem, "operator.write", user="anna")
    assert siem.messages == 1
    assert alerts == []


@pytest.mark.parametrize("rule", shipped(), ids=lambda rule: rule.title)
def test_whatever_alerts_is_more_than_informational(rule: Rule) -> None:
    for kind in rule.kinds or ():
        message = decode(encode("dev1", kind, {}, EPOCH))
        assert message is not None
        assert message.severity <= (6 if rule.correlation is not None else 5)

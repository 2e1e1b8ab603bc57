"""Media, malware, mobile code, mail and partitions on the reference site: each requirement by what it changes."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from controls import profiles
from devices.computer import Computer, Media, Posture, Program, put
from devices.mail import SMTP_PORT, compose, fetch, send
from devices.protection import (
    DAY,
    Scanner,
    StreamScanner,
    Vendor,
    contents_of,
    pattern_of,
)
from devices.world import World
from scenarios.actions import carry_out, place_attacker
from scenarios.experiment import Experiment, RunRecord, run
from scenarios.model import load_scenario
from scenarios.trials import trials
from testbed.figures import load_figures
from testbed.network import Flow, Packet, Verdict
from testbed.site import load_site
from tests.small_worlds import attempt

MINE = (
    "SR 2.3",
    "SR 2.3 RE 1",
    "SR 2.4",
    "SR 2.4 RE 1",
    "SR 3.2",
    "SR 3.2 RE 1",
    "SR 3.2 RE 2",
    "SR 3.4",
    "SR 3.4 RE 1",
    "SR 5.3",
    "SR 5.3 RE 1",
    "SR 5.4",
)
WORM = b"MZ" + pattern_of("rustworm") + b" any sample"
RECENT = b"MZ" + pattern_of("tollgate") + b" any sample"


def water(*requirements: str) -> World:
    world = World(load_site("water"), 1, load_figures())
    profiles.apply(world, profiles.with_needs(requirements))
    return world


def told(world: World, *kinds: str) -> list[tuple[str, dict[str, Any]]]:
    """Keep what every computer and mail server says of some kinds, from now on."""
    found: list[tuple[str, dict[str, Any]]] = []
    for device in (*world.computers.values(), *world.mail_servers.values()):
        device.audit.sinks.append(
            lambda _source, kind, data: found.append((kind, data)) if kind in kinds else None
        )
    return found


def ask(world: World, coroutine: Any, by: str, within: float = 40.0) -> Any:
    """Start the world, run a coroutine as a program of a host, and return what it returns."""
    world.start()
    world.loop.run_to(1.0)
    task = world.network.hosts[by].spawn(attempt(coroutine))
    while not task.done() and world.loop.time() < within:
        world.loop.run_to(world.loop.time() + 1)
    assert task.done()
    return task.result()


def record_of(scenario: str, duration: float, *requirements: str) -> RunRecord:
    names = profiles.with_needs(requirements)
    return run(Experiment("water", names, "", scenario, 2, duration))[0]


# -- every trial of this topic shows what it says, also by what the requirement must not break -----------------------


@pytest.mark.parametrize("name", ["SR 2.4", "SR 2.4 RE 1", "SR 5.4", "SR 3.4"])
def test_an_attack_through_this_surface_stops_the_plant_unless_the_requirement_acts(name: str) -> None:
    trial = trials()[name]
    made = []
    for on in (False, True):
        record, _ = run(trial.arm(name, 5, on=on))
        made.append(record.product[140] - record.product[60])
    assert made[1] > 0.02
    assert made[0] < made[1] / 2


def test_an_unattacked_site_has_no_mail_no_media_and_no_malware() -> None:
    world = water()
    seen = told(world, "media.inserted", "mail.taken", "malware.found", "execution.started", "file.received")
    packets: list[Packet] = []
    for link in world.network.links():
        link.add_tap(
            lambda _link, packet: packets.append(packet) if packet.target_port in (25, 110, 445) else 0
        )
    world.start()
    world.loop.run_to(100)
    world.close()
    assert seen == []
    assert packets == []


def test_everything_here_together_raises_no_alert_and_takes_nothing_from_the_operator() -> None:
    record, _ = run(Experiment("water", profiles.with_needs(MINE), "", None, 1, 150))
    assert [alert for alert in record.alerts if alert[1] == "siem"] == []
    assert record.lost["view"] == record.lost["safety"] == []


# -- media and laptops -----------------------------------------------------------------------------------------------


def test_sr_2_3_takes_registered_media_only_and_starts_nothing_on_them_by_itself() -> None:
    for requirements, taken, started in (((), True, True), (("SR 2.3",), False, False)):
        world = water(*requirements)
        started_at = told(world, "execution.started")
        world.start()
        media = Media("X", "private", {"setup.exe": b"MZ"}, "setup.exe")
        assert (world.computers["hmi1"].insert(media, "visitor") is None) is taken
        assert bool(started_at) is started
        world.close()
    world = water("SR 2.3")
    world.start()
    started_at = told(world, "execution.started")
    assert world.computers["hmi1"].insert(Media("X", "site-01", {"a.exe": b"MZ"}, "a.exe"), "e") is None
    assert started_at == []
    world.close()


def test_sr_2_3_costs_a_contractor_the_private_stick_and_nobody_else_anything() -> None:
    record = record_of("media-contractor-stick", 200, "SR 2.3")
    tasks = {who: data["outcome"] for _, kind, who, data in record.marks if kind == "task"}
    assert tasks == {"engineer1": "done", "contractor1": "refused"}
    assert record.lost["view"] == []


@pytest.mark.parametrize(("requirements", "stopped"), [(("SR 2.3",), False), (("SR 2.3 RE 1",), True)])
def test_sr_2_3_re_1_looks_at_the_laptop_and_not_only_at_whose_it_is(
    requirements: tuple[str, ...], stopped: bool
) -> None:
    record = record_of("laptop-infected", 120, *requirements)
    assert (record.succeeded <= 1) is stopped
    assert bool(record.refused) is stopped


def test_sr_2_3_gives_a_laptop_that_is_not_on_the_list_no_link_however_sound_it_is() -> None:
    for owner, admitted in (("engineer1", True), ("visitor", False)):
        world = water("SR 2.3")
        laptop = Computer(world.network.host("laptop", "control", "10.0.4.200"), "laptop")
        assert (world.docks["control"].connect(laptop, Posture(owner, 0.0, 0.0)) is None) is admitted
        world.close()


# -- malicious code --------------------------------------------------------------------------------------------------


def test_sr_3_2_finds_what_was_known_when_signatures_were_brought_and_nothing_newer() -> None:
    world = water("SR 3.2")
    found = told(world, "malware.found")
    ews, address = world.computers["ews1"], world.network.hosts["ews1"].address
    assert ask(world, put(address, "a.exe", WORM), "hist1") == "malware rustworm"
    ews.store("b.exe", WORM, "local")
    assert ews.execute("b.exe") == "malware rustworm"
    assert "b.exe" not in ews.files
    ews.store("c.exe", RECENT, "local")
    assert ews.execute("c.exe") is None
    assert [data["file"] for _, data in found] == ["a.exe", "b.exe"]
    world.close()


def test_sr_3_2_re_1_scans_mail_both_ways() -> None:
    for requirements, expected in ((("SR 3.2",), 1), (("SR 3.2 RE 1",), 0)):
        for sender, recipient in (
            ("a@x.example", "engineer1@plant.example"),
            ("engineer1@plant.example", "a@x.example"),
        ):
            world = water(*requirements)
            now = world.site.epoch
            message = compose(sender, [recipient], "s", "t", {"a.exe": RECENT}, now)
            taken = ask(
                world, send(world.site.assets["mail1"].address, sender, [recipient], message), "corp1"
            )
            assert len(taken) == expected
            world.close()


def test_sr_3_2_re_1_scans_files_between_zones_and_not_within_one() -> None:
    for requirements, arrives in ((("SR 3.2",), True), (("SR 3.2 RE 1",), False)):
        world = water(*requirements)
        found = ask(world, put(world.network.hosts["hist1"].address, "a.exe", RECENT), "jump1")
        assert (found is None) is arrives
        assert ("a.exe" in world.computers["hist1"].files) is arrives
        world.close()
    world = water("SR 3.2 RE 1")
    assert ask(world, put(world.network.hosts["hist1"].address, "a.exe", RECENT), "ews1") is None
    world.close()


def test_sr_3_2_re_1_takes_only_media_with_the_stations_seal_on_what_is_on_them() -> None:
    world = water("SR 3.2 RE 1")
    world.start()
    station, ews = world.media_station, world.computers["ews1"]
    assert station is not None
    clean = Media("X", "s1", {"a.txt": b"text"})
    seal = station.seal(clean)
    assert seal is not None
    assert ews.insert(clean, "e") == "not scanned at the media station"
    assert ews.insert(Media("X", "s1", clean.files, None, seal), "e") is None
    changed = Media("X", "s1", {"a.txt": b"text", "b.exe": RECENT}, None, seal)
    assert ews.insert(changed, "e") == "not scanned at the media station"
    assert station.seal(changed) is None
    world.close()


def test_sr_3_2_re_2_brings_a_new_signature_to_every_host_of_the_zone_and_reports_what_it_finds() -> None:
    world = water("SR 3.2 RE 2")
    alerts: list[str] = []
    world.siems["siem1"].on_alert.append(lambda alert: alerts.append(f"{alert.rule} {alert.source}"))
    world.start()
    world.loop.run_to(1)
    hist = world.computers["hist1"]
    hist.store("a.exe", b"MZ" + pattern_of("newcomer"), "local")
    assert hist.execute("a.exe") is None
    world.vendor.publish("newcomer")
    assert set(world.consoles["siem1"].behind()) == {
        name for name, one in world.computers.items() if one.host.zone.name == "operations"
    }
    assert profiles.working(world, "SR 3.2 RE 2")["operations"] is False
    world.loop.run_to(5)
    assert world.consoles["siem1"].behind() == []
    assert profiles.working(world, "SR 3.2 RE 2")["operations"] is True
    assert "a.exe" not in hist.files
    assert alerts == ["malware found hist1"]
    world.close()


def test_sr_3_2_re_2_sees_a_host_that_is_behind_and_updates_it_when_it_is_back() -> None:
    world = water("SR 3.2 RE 2")
    alerts: list[str] = []
    world.siems["siem1"].on_alert.append(lambda alert: alerts.append(f"{alert.rule} {alert.subject}"))
    world.start()
    world.loop.run_to(1)
    world.switch_off("hmi1")
    world.vendor.publish("newcomer")
    world.loop.run_to(20)
    assert world.consoles["siem1"].behind() == ["hmi1"]
    assert f"host with old signatures {world.network.hosts['hmi1'].address}" in alerts
    world.switch_on("hmi1")
    world.loop.run_to(100)
    assert world.consoles["siem1"].behind() == []
    world.close()


def test_sr_3_2_re_2_ends_a_worm_before_it_acts() -> None:
    record = record_of("media-new-worm", 300, "SR 3.2 RE 2")
    assert record.lost["view"] == []
    assert any(kind == "response" for _, kind, _, _ in record.marks)
    off = record_of("media-new-worm", 300, "SR 3.2")
    assert off.lost["view"] != []


def test_a_worm_spreads_from_machine_to_machine_and_takes_the_view_at_the_operator_station() -> None:
    record, trace = run(Experiment("water", (), "", "media-contractor-stick", 2, 300))
    infected = [
        event.data["target"]
        for event in trace.events
        if event.kind == "attack.step" and event.data.get("what") == "runs"
    ]
    assert infected[0] == "ews1"
    assert {"hmi1", "hist1", "opcua1", "siem1"} <= set(infected)
    assert len(infected) == len(set(infected))
    assert record.lost["view"][0][1] == 300


# -- a vendor's databases --------------------------------------------------------------------------------------------


def vendor() -> Vendor:
    return Vendor(bytes(32), lambda: 0.0)


def test_a_scanner_takes_only_newer_databases_that_the_vendor_signed() -> None:
    real, other = vendor(), Vendor(b"\1" * 32, lambda: 0.0)
    scanner = Scanner(real.public)
    assert scanner.update(other.database(0.0)) == "not the vendor's"
    assert scanner.update(real.database(0.0)) is None
    assert scanner.scan(RECENT) == "tollgate"
    assert scanner.update(real.database(-DAY)) == "older than what is here"
    assert scanner.scan(b"nothing") is None


def test_a_database_knows_what_had_been_published_by_its_date() -> None:
    scanner = Scanner(vendor().public)
    assert scanner.update(vendor().database(-60 * DAY)) is None
    assert scanner.scan(WORM) == "rustworm"
    assert scanner.scan(RECENT) is None


@given(content=st.binary(max_size=100))
def test_no_bytes_are_a_database(content: bytes) -> None:
    assert Scanner(vendor().public).update(content) == "not the vendor's"


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(1, 17))
def test_a_stream_is_scanned_across_packets(before: bytes, after: bytes, cut: int) -> None:
    scanner = Scanner(vendor().public)
    scanner.update(vendor().database(0.0))
    found: list[str] = []
    policy = StreamScanner(scanner, [445], lambda _packet, family: found.append(family))
    pattern = pattern_of("tollgate")
    verdicts = [policy(packet(part)) for part in (before + pattern[:cut], pattern[cut:] + after, b"more")]
    assert verdicts == [Verdict.ACCEPT, Verdict.DROP, Verdict.DROP]
    assert found == ["tollgate"]
    assert policy(packet(pattern, port=502)) is Verdict.ACCEPT


def packet(payload: bytes, port: int = 445) -> Packet:
    flow = Flow("tcp", "10.0.0.1", "10.0.0.2", 50000, port, "a", "b")
    return Packet(0.0, flow, False, 0x18, payload, 0, 0, ("", ""))


def test_a_seal_is_of_every_file_and_of_the_media() -> None:
    media = Media("X", "s1", {"a": b"1"})
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    assert contents_of(media) != contents_of(Media("X", "s2", {"a": b"1"}))
    assert contents_of(media) != contents_of(Media("X", "s1", {"a": b"2"}))
    assert contents_of(media) == contents_of(Media("Y", "s1", {"a": b"1"}, "a", key.sign(b"")))


# -- mobile code -----------------------------------------------------------------------------------------------------


def test_sr_2_4_runs_scripts_on_the_list_and_documents_without_their_macros() -> None:
    world = water("SR 2.4")
    world.start()
    found = told(world, "execution.refused")
    hmi = world.computers["hmi1"]
    hmi.store("reports/shift.xlsm", b"PK", "share")
    hmi.store("displays/overview.js", b"anything", "share")
    hmi.store("tool.exe", b"MZ", "share")
    assert hmi.execute("reports/shift.xlsm") == "mobile code that is not on the list"
    assert hmi.execute("displays/overview.js") is None
    assert hmi.execute("tool.exe") is None  # no mobile code, and so not this requirement's
    assert [data["file"] for _, data in found] == ["reports/shift.xlsm"]
    world.close()


def test_sr_2_4_re_1_runs_the_released_script_and_no_changed_one() -> None:
    world = water("SR 2.4 RE 1")
    world.start()
    hmi, released = world.computers["hmi1"], world.computers["hist1"].files["displays/overview.js"]
    hmi.store("displays/overview.js", released, "share")
    assert hmi.execute("displays/overview.js") is None
    hmi.store("displays/overview.js", released.replace(b"LIT101", b"LIT301"), "share")
    assert hmi.execute("displays/overview.js") == "signature does not fit the script"
    world.close()


def test_a_document_whose_macro_is_refused_can_still_be_read() -> None:
    record = record_of("macro-report", 120, "SR 2.4")
    [task] = [
        data for _, kind, _, data in record.marks if kind == "task" and data["task"] == "open a document"
    ]
    assert task["outcome"] == "done"


# -- integrity -------------------------------------------------------------------------------------------------------


def test_sr_3_4_re_1_reports_changed_logic_and_changed_files_once() -> None:
    world = water("SR 3.4 RE 1")
    alerts: list[tuple[str, float]] = []
    world.siems["siem1"].on_alert.append(lambda alert: alerts.append((alert.subject, alert.time)))
    scenario = load_scenario("signed-logic")
    attack = place_attacker(world, scenario)
    world.start()
    attack.host.spawn(carry_out(attack, scenario))
    world.loop.run_to(40)
    world.computers["hist1"].store("archive.cfg", b"changed", "local")
    world.loop.run_to(200)
    world.close()
    assert [subject for subject, _ in alerts] == [world.network.hosts["hist1"].address, "plc3"]
    assert alerts[1][1] - 60 <= world.figures["integrity.every"] + 5


def test_sr_3_4_re_1_says_nothing_of_a_program_that_was_released() -> None:
    world = water("SR 3.4 RE 1")
    alerts: list[str] = []
    world.siems["siem1"].on_alert.append(lambda alert: alerts.append(alert.rule))
    workstation = world.workstations["ews1"]

    async def release() -> bool:
        return await workstation.download("plc1", "(* new *)\n" + await workstation.read_program("plc1"))

    assert ask(world, release(), "ews1") is True
    world.loop.run_to(100)
    world.close()
    assert alerts == []


def test_sr_3_4_re_1_counts_as_working_only_while_its_station_is_up() -> None:
    world = water("SR 3.4 RE 1")
    world.start()
    assert profiles.working(world, "SR 3.4 RE 1")["control"] is True
    world.switch_off("hmi1")
    assert profiles.working(world, "SR 3.4 RE 1")["control"] is False
    world.close()


# -- mail ------------------------------------------------------------------------------------------------------------


def mail(world: World, by: str, recipient: str) -> Any:
    sender = "somebody@plant.example"
    message = compose(sender, [recipient], "s", "t", {}, world.site.epoch)
    return ask(world, send(world.site.assets["mail1"].address, sender, [recipient], message), by, 80)


@pytest.mark.parametrize(
    ("requirement", "by", "passes"),
    [
        (None, "corp1", True),
        (None, "ews1", True),
        ("SR 5.3", "corp1", False),
        ("SR 5.3", "jump1", False),
        ("SR 5.3", "ews1", True),
        ("SR 5.3 RE 1", "corp1", False),
        ("SR 5.3 RE 1", "ews1", False),
    ],
)
def test_sr_5_3_takes_no_mail_from_outside_and_its_enhancement_none_at_all(
    requirement: str | None, by: str, passes: bool
) -> None:
    world = water(*([requirement] if requirement is not None else []))
    assert (mail(world, by, "operator1@plant.example") == ["operator1@plant.example"]) is passes
    world.close()


def test_sr_5_3_leaves_the_office_its_mail() -> None:
    world = water("SR 5.3 RE 1")
    assert mail(world, "corp1", "x@elsewhere.example") == ["x@elsewhere.example"]
    world.close()


def test_sr_5_3_lets_no_station_use_another_mail_server_outside() -> None:
    for requirements, reached in (((), True), (("SR 5.3",), False)):
        world = water(*requirements)

        async def listen(world: World = world) -> None:
            await world.loop.create_server(_Hello, world.network.hosts["corp1"].address, SMTP_PORT)

        world.network.hosts["corp1"].spawn(listen())
        sent = ask(
            world,
            send(world.network.hosts["corp1"].address, "a@b.example", ["c@d.example"], b"x"),
            "hmi1",
            80,
        )
        assert isinstance(sent, TimeoutError) is not reached
        world.close()


def test_sr_5_3_re_1_lets_nobody_in_the_control_system_fetch_mail() -> None:
    for requirements, reached in ((("SR 5.3",), True), (("SR 5.3 RE 1",), False)):
        world = water(*requirements)
        found = ask(world, fetch(world.site.assets["mail1"].address, "operator1"), "hmi1", 80)
        assert (found == []) is reached
        world.close()


def test_a_message_with_malware_is_opened_by_some_and_not_by_all() -> None:
    record, trace = run(Experiment("water", (), "", "mail-phishing", 3, 300))
    opened = [
        event for event in trace.events if event.kind == "attack.step" and event.data.get("what") == "runs"
    ]
    assert opened
    assert record.lost["view"]


# -- partitions ------------------------------------------------------------------------------------------------------


def test_sr_5_4_keeps_what_came_by_the_file_service_from_the_display_software() -> None:
    for requirements, altered in (((), True), (("SR 5.4",), False)):
        world = water(*requirements)
        ransom = world.software.add(Program("r.exe", b"MZ ransom", _overwrite))
        address = world.network.hosts["hmi1"].address
        ask(world, put(address, ransom.name, ransom.content, run=True), "hist1")
        world.loop.run_to(15)
        assert bool(world.computers["hmi1"].altered()) is altered
        stale = world.loop.time() - world.hmis["hmi1"].fresh["plc1"] > 5
        assert stale is altered
        world.close()


async def _overwrite(process: Any) -> None:
    for name in process.names():
        process.write(name, b"gone")


class _Hello:
    """A mail server that says hello and no more."""

    def __init__(self) -> None:
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"220 hello\r\n")

    def data_received(self, _data: bytes) -> None:
        self.transport.write(b"250 OK\r\n")

    def eof_received(self) -> None: ...

    def connection_lost(self, _error: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

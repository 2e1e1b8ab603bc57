"""Keys, sessions and confidentiality on the reference site: what each requirement changes, and whom it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controls import profiles
from controls.catalogue import SecurityLevels
from controls.iac import PAPERS, PASSWORD
from devices.modbus import ModbusClient
from devices.registers import Table
from devices.world import World
from results.outcomes import OUTCOMES
from scenarios.actions import check_against
from scenarios.attack import Attack, Step
from scenarios.experiment import Experiment, prepare, run, site_of
from scenarios.model import Scenario
from scenarios.steps.keys import Impersonate, ReportLost, StealProgram, StealSecrets
from scenarios.steps.sessions import (
    Eavesdrop,
    OpcUaRead,
    ReadReports,
    UseSession,
    registers_read,
    values_read,
)
from scenarios.trials import TrialTable, trials
from testbed.document import load
from testbed.errors import OtlabError
from testbed.figures import load_figures

MINE = tuple(load(Path(__file__).parent.parent / "scenarios" / "trials" / "keys.yaml", TrialTable).root)
#: Runs of more than so many simulated seconds are left to the ablation.
SHORT = 300.0
#: Shown on every run of the tests; what the others do is shown on small networks in test_portal.py and test_pki.py.
QUICK = ("SR 1.2", "SR 1.2 RE 1", "SR 1.5 RE 1", "SR 3.7", "SR 3.8 RE 3", "SR 4.1", "SR 4.1 RE 2", "SR 4.3")


def water(*requirements: str, **figures: float) -> World:
    table = load_figures().with_overrides({name.replace("__", "."): value for name, value in figures.items()})
    world = World(site_of("water"), 1, table)
    profiles.apply(world, profiles.with_needs(requirements))
    return world


def carried_out(requirement: str, *, on: bool) -> tuple[float, list[tuple[str, str]]]:
    """The trial's outcome on one side, and how each step ended."""
    trial = trials()[requirement]
    record, trace = run(trial.arm(requirement, 1, on=on))
    steps = [
        (event.data["action"], event.data["outcome"])
        for event in trace.events
        if event.kind in ("attack.step", "event.step")
    ]
    return OUTCOMES[trial.shows].measure(record, record), steps


@pytest.mark.parametrize(
    "requirement",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in MINE
        if trials()[name].duration <= SHORT
    ],
)
def test_what_the_trial_says_is_so(requirement: str) -> None:
    trial = trials()[requirement]
    outcome = OUTCOMES[trial.shows]
    without, open_steps = carried_out(requirement, on=False)
    with_it, shut_steps = carried_out(requirement, on=True)
    assert outcome.gain(with_it, without) >= outcome.least
    assert "done" in [how for _, how in open_steps]
    assert [how for action, how in shut_steps][-1] in ("refused", "failed", "finished")
    # People of the site can do their work on either side.
    assert ("read_reports", "hindered") not in [*open_steps, *shut_steps]


# -- certificates ------------------------------------------------------------------------------------------------


def test_a_stolen_laptop_is_refused_after_its_loss_was_reported_and_lists_were_fetched() -> None:
    refused = {}
    for names in (("SR 1.2 RE 1",), ("SR 1.2 RE 1", "SR 1.8")):
        world = water(*names, pki__fetch_every=1.0)
        attack_host = world.network.host("rogue1", "operations", "10.0.3.250")
        world.start()
        world.loop.run_to(10)
        for told in world.on_device_lost:
            told("laptop1")
        world.loop.run_to(330)
        refused[names[-1]] = not _reads_with(world, "laptop1")
        if "SR 1.8" in names:
            assert not _reads_with(world, "laptop1")
            assert _reads_with(world, "ews1", at="ews1")
            assert [event.kind for event in world.trace.events if event.kind == "response"]
        assert attack_host.up
        world.close()
    assert refused == {"SR 1.2 RE 1": False, "SR 1.8": True}


def _reads_with(world: World, device: str, at: str = "rogue1", plc: str = "plc3") -> bool:
    """Whether a host gets an answer from a PLC with the papers of ``device``."""
    from devices.certificates import borrowed_context

    asset = world.site.controllers()[plc]
    client = ModbusClient(
        asset.address,
        802,
        ssl=borrowed_context(world.seams.issuer.papers(device, "workstation")),
        server_hostname=plc,
        timeout=2.0,
    )
    found: list[Any] = []

    async def read() -> None:
        try:
            found.append(await client.read(Table.INPUT, 0, 1))
        except OSError as error:
            found.append(error)

    world.network.hosts[at].spawn(read(), "read")
    world.loop.run_to(world.loop.time() + 3)
    client.close()
    return isinstance(found[0], list)


def test_a_failed_authority_stops_no_essential_function() -> None:
    """IEC 62443-3-3, 4.2 on SR 1.8: with the lists out of date the HMI and the controllers' peers are still let in."""
    world = water("SR 1.2 RE 1", "SR 1.9", pki__list_life=0.001, pki__fetch_every=1.0)  # 86 s
    world.start()
    world.loop.run_to(20)
    assert all(profiles.working(world, "SR 1.8").values())
    world.network.hosts["pki1"].power_off()
    world.loop.run_to(300)
    assert not profiles.working(world, "SR 1.8")["control"]
    # Every connection is made anew.
    world.plcs["plc1"].lose_power()
    world.plcs["plc3"].lose_power()
    world.loop.run_to(305)
    world.plcs["plc1"].regain_power()
    world.plcs["plc3"].regain_power()
    world.loop.run_to(340)
    assert not world.hmis["hmi1"].stale("LIT101")
    assert not world.hmis["hmi1"].stale("LIT301")
    assert world.plcs["plc1"].peer_good["plc3"]
    world.network.host("rogue1", "operations", "10.0.3.250")
    assert not _reads_with(world, "ews1", at="ews1")  # engineering is no essential function
    world.close()


def test_an_expired_certificate_keeps_out_engineering_and_not_the_operator_station() -> None:
    world = water("SR 1.2 RE 1", "SR 1.8", pki__validity=0.001)  # 86 s
    world.start()
    world.loop.run_to(120)
    world.plcs["plc3"].lose_power()
    world.loop.run_to(122)
    world.plcs["plc3"].regain_power()
    world.loop.run_to(160)
    assert not world.hmis["hmi1"].stale("LIT301")
    assert not _reads_with(world, "ews1", at="ews1")
    world.close()


def test_a_certificate_is_good_for_its_own_asset_in_its_own_zone() -> None:
    """SR 1.9: a stolen key is of no use outside the zone of the machine that it was stolen from."""
    for names, opened in ((("SR 1.2 RE 1", "SR 1.8"), True), (("SR 1.2 RE 1", "SR 1.9"), False)):
        world = water(*names)
        world.network.host("rogue1", "dmz", "10.0.2.250")
        world.start()
        world.loop.run_to(10)
        assert _reads_with(world, "ews1") is opened
        assert _reads_with(world, "ews1", at="ews1")
        world.close()


def test_the_historian_goes_on_collecting_whoever_issues_its_certificate() -> None:
    for names in (
        ("SR 4.1 RE 1",),
        ("SR 4.1 RE 1", "SR 1.8"),
        ("SR 4.1 RE 1", "SR 1.9", "SR 1.9 RE 1", "SR 1.5 RE 1"),
    ):
        world = water(*names)
        world.start()
        world.loop.run_to(30)
        assert world.historians["hist1"].connected, names
        assert len(world.historians["hist1"].series["LIT101"].times) > 2
        world.close()


def test_secrets_lie_in_files_until_they_are_put_into_hardware() -> None:
    world = water("SR 1.5", "SR 1.2 RE 1")
    assert (
        world.keystores["hist1"].export(PASSWORD)
        == (world.seams.ua_credentials["hist1"].password or "").encode()
    )
    assert b"PRIVATE KEY" in (world.keystores["ews1"].export(PAPERS) or b"")
    assert world.keystores["corp1"].names == ()
    world.close()
    world = water("SR 1.5 RE 1", "SR 1.2 RE 1", "SR 1.9 RE 1")
    assert world.keystores["hist1"].export(PASSWORD) is None
    assert world.keystores["ews1"].export(PAPERS) is None
    world.close()


def test_keys_in_hardware_serve_whoever_is_at_the_machine_and_nobody_who_has_left_it() -> None:
    """SR 1.9 RE 1 ends the theft, not the intrusion."""
    stopped = {}
    for at in ("ews1", "rogue1"):
        world = water("SR 1.2 RE 1", "SR 1.9 RE 1")
        host = world.network.hosts.get(at) or world.network.host(at, "operations", "10.0.3.250")
        attack = Attack(world, host)
        step = Impersonate(action="impersonate", technique="T0848", plc="plc3", values={"UF_RUN": 0})
        world.start()
        world.loop.run_to(10)
        host.spawn(step.carry_out(attack))
        world.loop.run_to(15)
        stopped[at] = world.plcs["plc3"].value("UF_RUN") == 0
        world.close()
    assert stopped == {"ews1": True, "rogue1": False}


def test_an_asset_without_means_for_it_keeps_its_keys_in_files() -> None:
    site = site_of("water")
    unable = site.assets["ews1"].model_copy(update={"cannot": ("SR 1.9 RE 1",)})
    world = World(site.model_copy(update={"assets": {**site.assets, "ews1": unable}}), 1, load_figures())
    profiles.apply(world, profiles.with_needs(["SR 1.2 RE 1", "SR 1.9 RE 1"]))
    assert world.keystores["ews1"].export(PAPERS) is not None
    assert world.keystores["hmi1"].export(PAPERS) is None
    world.close()


def test_a_controller_without_means_for_the_authority_goes_on_with_the_certificates_that_it_has() -> None:
    site = site_of("water")
    unable = {
        name: site.assets[name].model_copy(update={"cannot": ("SR 1.8", "SR 1.9")})
        for name in ("plc3", "tablet1")
    }
    world = World(site.model_copy(update={"assets": {**site.assets, **unable}}), 1, load_figures())
    profiles.apply(world, profiles.with_needs(["SR 1.2 RE 1", "SR 1.9"]))
    world.start()
    world.loop.run_to(20)
    assert not world.hmis["hmi1"].stale("LIT301")
    assert not world.hmis["hmi1"].stale("LIT101")
    world.close()


# -- people at work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_a_supervisor_can_read_reports_at_every_level(level: int) -> None:
    experiment = Experiment.at_level(
        "water", SecurityLevels.uniform(level), "session-after-log-out", 1, 130.0
    )
    record, _ = run(experiment)
    reading = [data for _, kind, _, data in record.marks if kind == "task" and data["task"] == "read reports"]
    assert [data["outcome"] for data in reading] == ["done"]


def test_a_setpoint_is_asked_for_in_a_session_and_arrives_at_the_controller() -> None:
    trial = trials()["SR 3.8"]
    world, scenario = prepare(trial.arm("SR 3.8", 1, on=False))
    from scenarios.experiment import _run

    _run(world, scenario, trial.arm("SR 3.8", 1, on=False))
    assert world.plcs["plc1"].value("LIT101_H_SP") == 750.0
    world.close()


def test_an_invalid_session_id_reaches_the_siem() -> None:
    trial = trials()["SR 3.8"]
    names = profiles.with_needs((*trial.context, "SR 3.8", "SR 6.2"))
    record, _ = run(Experiment("water", names, "x", trial.scenario, 1, trial.duration))
    assert "siem" in {kind for _, kind, key in record.alerts if key.startswith("invalid web session")}


def test_log_messages_arrive_when_they_are_sealed_on_their_way() -> None:
    counts = []
    for names in (("SR 2.8 RE 1",), ("SR 2.8 RE 1", "SR 4.1 RE 2")):
        world = water(*names)
        world.start()
        world.loop.run_to(30)
        world.plcs["plc1"].audit("program.loaded", peer="10.0.3.99")
        world.loop.run_to(60)
        siem = world.siems["siem1"]
        assert siem.unparsed == 0
        counts.append(siem.messages)
        siem.take(b"<36>1 - plc1 otlab - program.loaded [otlab@32473]")
        counts[-1] += siem.unparsed * 1000
        world.close()
    assert counts[0] in range(1, 1000)
    assert counts[1] > 1000  # the readable one is no message any more


# -- what steps say and take -------------------------------------------------------------------------------------


def scenario(step: Step) -> Scenario:
    return Scenario(name="x", title="x", summary="x", steps=(step,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (ReportLost(action="report_lost", device="tablet9"), "has no old device 'tablet9'"),
        (
            ReadReports(action="read_reports", user="a", at="nowhere", historian="hist1", tags=("LIT101",)),
            "has no asset 'nowhere'",
        ),
        (
            ReadReports(action="read_reports", user="a", at="jump1", historian="hmi1", tags=("LIT101",)),
            "has no report portal at 'hmi1'",
        ),
    ],
)
def test_what_a_step_names_must_be_there(step: Step, sentence: str) -> None:
    with pytest.raises(OtlabError, match=sentence):
        check_against(site_of("water"), scenario(step))


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (
            Eavesdrop(action="eavesdrop", links=("cellar",), wanted=("logs",), lasting=1.0),
            "has no zone or conduit 'cellar'",
        ),
        (OpcUaRead(action="opcua_read", server="hist1"), "has no OPC UA server 'hist1'"),
        (StealProgram(action="steal_program", plc="plc9"), "has no PLC 'plc9'"),
        (StealSecrets(action="steal_secrets", of="nobody", what="papers"), "has no asset 'nobody'"),
        (UseSession(action="use_session", historian="jump1", tags=("A1",)), "has no report portal"),
        (Impersonate(action="impersonate", plc="plc1", values={}, device="plc2"), "has no old device 'plc2'"),
    ],
)
def test_what_a_hostile_step_names_must_be_there(step: Step, sentence: str) -> None:
    assert any(sentence in found for found in step.lacks(site_of("water")))


def test_registers_and_values_are_counted_in_whole_answers_in_the_clear_only() -> None:
    answer = bytes((0, 7, 0, 0, 0, 7, 1, 4, 4, 0, 1, 0, 2))
    assert registers_read(answer) == 2
    assert registers_read(answer[:-1]) == 0
    assert registers_read(b"\x17\x03\x03" + answer) == 0
    assert registers_read(b"") == 0
    assert values_read(b"MSGF" + bytes(80)) == 0
    assert values_read(b"") == 0

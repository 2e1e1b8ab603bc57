"""Load: floods that stay where they begin, and handshakes that take no more than their share of a processor."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network
from typing import Any

import pytest

from controls import profiles
from devices.plc import Mode
from devices.world import World
from scenarios.experiment import Experiment, run, site_of
from scenarios.steps.boundary import client_hello
from testbed.errors import NetworkError
from testbed.figures import load_figures
from testbed.firewall import LEAST, PortLimit
from testbed.network import Flow, Packet, Verdict


def struck(scenario: str, *requirements: str, duration: float, seed: int = 1) -> Any:
    names = profiles.with_needs(requirements)
    return run(Experiment("water", names, "test", scenario, seed, duration))[0]


def lost(record: Any, function: str) -> float:
    return sum(end - start for start, end in record.lost[function])


def packet(source: str, size: int, time: float = 0.0) -> Packet:
    flow = Flow("udp", source, "10.0.4.11", 1, 9, "", "", "operations", "control")
    return Packet(time, flow, False, 0, bytes(size), 0, 0, ("", ""))


def test_a_switch_port_takes_so_many_bytes_and_recovers_with_time() -> None:
    limit = PortLimit(IPv4Network("10.0.3.0/24"), 1000, 2000)
    verdicts = [limit(packet("10.0.3.10", 1000)) for _ in range(3)]
    assert verdicts == [Verdict.ACCEPT, Verdict.ACCEPT, Verdict.DROP]
    assert limit(packet("10.0.3.11", 1000)) is Verdict.ACCEPT
    assert limit(packet("10.0.3.10", 1000, time=1.0)) is Verdict.ACCEPT


def test_small_packets_count_as_middling_ones_and_other_networks_not_at_all() -> None:
    limit = PortLimit(IPv4Network("10.0.3.0/24"), 1, 2 * LEAST)
    assert [limit(packet("10.0.3.10", 1)) for _ in range(3)][-1] is Verdict.DROP
    assert [limit(packet("10.0.4.10", 1000)) for _ in range(9)][-1] is Verdict.ACCEPT


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1)])
def test_a_limit_of_nothing_cannot_be(rate: float, burst: float) -> None:
    with pytest.raises(NetworkError, match="cannot be"):
        PortLimit(IPv4Network("10.0.3.0/24"), rate, burst)


def test_sr_7_1_re_2_keeps_an_infected_host_from_wearing_out_a_firewall() -> None:
    context = ("SR 5.2", "SR 5.2 RE 3")
    assert lost(struck("historian-floods-network", *context, duration=150), "view") > 60
    assert lost(struck("historian-floods-network", *context, "SR 7.1 RE 2", duration=150), "view") == 0


def test_sr_7_1_keeps_a_flooded_controller_in_control_after_the_flood() -> None:
    assert lost(struck("plc-flood-short", duration=260), "control") > 180
    assert lost(struck("plc-flood-short", "SR 7.1", duration=260), "control") < 130


# -- handshakes ---------------------------------------------------------------------------------------------------


def secured(*requirements: str) -> World:
    world = World(site_of("water"), 1, load_figures())
    profiles.apply(world, profiles.with_needs(("SR 1.2 RE 1", *requirements)))
    return world


def stormed(*requirements: str, rate: float = 40.0, until: float = 30.0) -> World:
    """A world whose plc1 has been asked for ``rate`` handshakes a second from 10 s on."""
    world = secured(*requirements)
    host = world.network.host("rogue1", "operations", "10.0.3.250")
    plc, loop, hello = world.plcs["plc1"], world.loop, client_hello()

    async def storm() -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection(plc.host.address, plc.seams.port)
                writer.write(hello)
                await asyncio.sleep(1 / rate)
                writer.transport.abort()
            except OSError:
                await asyncio.sleep(1 / rate)

    world.start()
    loop.call_at(10.0, lambda: host.spawn(storm(), "storm"))
    loop.run_to(until)
    world.close()
    return world


def test_handshakes_cost_a_controller_its_scan_unless_they_have_a_share() -> None:
    assert stormed().plcs["plc1"].mode is Mode.FAULT
    world = stormed("SR 7.2")
    assert world.plcs["plc1"].mode is Mode.RUN
    assert 30 - world.hmis["hmi1"].fresh["plc1"] < 3


def test_the_stations_of_a_site_connect_within_the_share() -> None:
    world = secured("SR 7.2")
    dropped: list[str] = []
    for plc in world.plcs.values():
        plc.audit.sinks.append(lambda source, kind, _data: dropped.append(f"{source} {kind}"))
    world.start()
    world.loop.run_to(40)
    assert not [one for one in dropped if "handshake" in one]
    assert all(40 - fresh < 5 for fresh in world.hmis["hmi1"].fresh.values())
    world.close()


def test_a_controller_without_tls_spends_nothing_on_handshakes() -> None:
    world = World(site_of("water"), 1, load_figures())
    profiles.apply(world, ("SR 7.2",))
    world.start()
    world.loop.run_to(5)
    assert world.plcs["plc1"]._handshakes[1] == 0.0
    assert all(profiles.working(world, "SR 7.2").values())
    world.plcs["plc1"].seams.handshake_share = None
    assert profiles.working(world, "SR 7.2")["control"] is False
    world.close()

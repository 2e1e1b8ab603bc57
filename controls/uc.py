"""FR 2, use control: may they do that?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controls.rights import kinds_of, rights_of, use_control
from controls.shapes import Check, Control, Needs, by_zone
from controls.verification import STRANGER, every_controller
from devices.accounts import User
from devices.audit import Audit
from devices.auditlog import PERSONAL, AuditLog, content, signed_by
from devices.computer import MOBILE, Computer, Media, Posture, Program, sign, signature_fits
from devices.hmi import ANYONE, Hmi
from devices.modbus import Access, Peer
from devices.opcua_model import UaTag, UaUser
from devices.permissions import Permissions
from devices.plc import ILLEGAL_FUNCTION, SYSTEM, Plc
from devices.registers import Table
from devices.staff import APPROVER, request_to_change, request_to_lift, request_to_write
from devices.syslog import Message
from devices.timekeeping import TimeClient
from devices.wireless import AccessPoint
from devices.world import World
from testbed.firewall import AllowList, ModbusInspection, Rule
from testbed.network import Link, Observer, Packet, Verdict

#: Serial numbers of the site's own media, and whose laptops may be connected for maintenance.
REGISTERED_MEDIA = frozenset({"site-01", "site-02"})
REGISTERED_LAPTOPS = frozenset({"engineer1", "vendor1"})
WRITERS = frozenset({"operator", "engineer", "supervisor", "admin"})


def roles(world: World) -> None:
    """SR 2.1: only people whose role includes it may write."""

    def may_write(user: UaUser, _tag: UaTag, _value: float) -> bool:
        return user.role in WRITERS

    def may_command(user: User, tag: str, _value: float) -> str | None:
        return None if user.role in WRITERS else f"role {user.role} may not write {tag}"

    for gateway in world.gateways.values():
        gateway.server.authorize_write = may_write
    for hmi in world.hmis.values():
        hmi.seams.authorize.append(may_command)


def device_rights(world: World) -> None:
    """SR 2.1 RE 1: programs and devices too: a PLC takes writes only from assets whose documented task it is."""
    for name, plc in world.plcs.items():
        plc.seams.authorize.append(_writes_from(world, name))


def _writes_from(world: World, plc: str) -> Callable[[Peer, Access], int | None]:
    engineers = world.programmers(plc)
    writers = engineers | world.commanders(plc)

    def authorize(peer: Peer, access: Access) -> int | None:
        if access.function in (20, 21) or (
            access.kind == "write"
            and access.table is Table.HOLDING
            and access.address + access.count > SYSTEM
        ):
            return None if peer.address in engineers else ILLEGAL_FUNCTION
        if access.kind == "write":
            return None if peer.address in writers else ILLEGAL_FUNCTION
        return None

    return authorize


def permission_table(world: World) -> None:
    """SR 2.1 RE 2: a table, kept by supervisor and administrator, says what each role may write at HMI and OPC UA."""
    permissions = Permissions(rights_of(world.site), kinds_of(world.site), world.loop.time)
    world.permissions = permissions

    def may_command(user: User, tag: str, _value: float) -> str | None:
        return None if permissions.allows(user, tag) else f"role {user.role} has no right to {tag}"

    for gateway in world.gateways.values():
        gateway.server.authorize_write = _within(world, permissions, gateway.server.authorize_write)
    for name, hmi in world.hmis.items():
        hmi.seams.authorize.append(may_command)
        # The table is kept at the station, which reports what is done to it.
        permissions.audit = world.hmis[name].audit


def _within(
    world: World, permissions: Permissions, before: Callable[[UaUser, UaTag, float], bool] | None
) -> Callable[[UaUser, UaTag, float], bool]:
    def may_write(user: UaUser, tag: UaTag, value: float) -> bool:
        account = world.accounts.accounts.get(user.name) if world.accounts is not None else None
        role = account.role if account is not None else user.role
        allowed = permissions.allows(User(user.name, role), tag.name)
        return allowed and (before is None or before(user, tag, value))

    return may_write


def supervisor_override(world: World) -> None:
    """SR 2.1 RE 3: in an emergency the supervisor lifts the limit of a person's rights for a time, on the record."""
    assert world.permissions is not None  # RE 2, which this needs, is applied before

    for hmi in world.hmis.values():
        hmi.seams.override = _lifts(world, world.permissions)


def _lifts(world: World, permissions: Permissions) -> Callable[[User, str, float], Awaitable[bool]]:
    async def override(user: User, tag: str, _value: float) -> bool:
        if user.role not in WRITERS or permissions.allows(user, tag):
            return False  # for somebody who may write nothing at all there is no limit to lift
        answer = await world.staff.ask("supervisor", request_to_lift(user.name, tag), by=user.name)
        if answer is None or not answer.granted:
            permissions.audit("override.refused", user=user.name, tag=tag)
            return False
        return permissions.lift(
            User(answer.person, "supervisor"), user.name, tag, world.figures["override.duration"]
        )

    return override


def dual_approval(world: World) -> None:
    """SR 2.1 RE 4: what could seriously affect the process takes a second person, unless the procedure says at once."""
    serious, kinds = frozenset[str](use_control().serious), kinds_of(world.site)

    def at_once(hmi: Hmi, tag: str, value: float) -> bool:
        """Whether the procedure for an alarm that stands has this written: no time for a second person then."""
        return any(
            step.tag == tag and float(step.value) == value
            for alarm in hmi.alarms
            for step in hmi.asset.responses.get(alarm, ())
        )

    def approver(hmi: Hmi) -> Callable[[User, str, float], Awaitable[bool]]:
        async def approve(user: User, tag: str, value: float) -> bool:
            if kinds.get(tag) not in serious or at_once(hmi, tag, value):
                return True
            return await world.staff.approve(APPROVER, request_to_write(tag, value), by=user.name)

        return approve

    async def approve_change(plc: str, what: str) -> bool:
        return await world.staff.approve(APPROVER, request_to_change(plc, what))

    for hmi in world.hmis.values():
        hmi.seams.second_approval = approver(hmi)
    for workstation in world.workstations.values():
        workstation.approve = approve_change


def _reachable(role: str) -> Check:
    """What takes a person's word works while there is one of that role whom one can reach."""

    def look(world: World) -> dict[str, bool]:
        found = any(person.place != "away" and person.answers_for(role) for person in world.staff.people)
        return {hmi.host.zone.name: found for hmi in world.hmis.values()}

    return look


def wireless_use(world: World) -> None:
    """SR 2.2: wireless stations do what their documented task is and no more, and what they try beyond is reported."""
    rules = [
        Rule(
            flow.source,
            flow.target,
            "udp" if flow.protocol in ("syslog", "auth", "ntp") else "tcp",
            flow.port,
            frozenset(flow.functions) if flow.functions is not None else None,
            flow.registers,
        )
        for flow in world.legitimate_flows()
    ]
    for point in world.access_points.values():
        point.zone.add_policy("SR 2.2", AllowList(rules))
        point.zone.add_policy("SR 2.2 inspection", ModbusInspection(rules))
        point.zone.observers.append(_wireless_denials(point))


def _wireless_denials(point: AccessPoint) -> Observer:
    def observe(_link: Link, packet: Packet, policy: str, _verdict: Verdict) -> None:
        point.audit(
            "wireless.denied",
            peer=packet.flow.source,
            target=packet.flow.target,
            port=packet.flow.target_port,
            policy=policy,
        )

    return observe


def radio_scan(world: World) -> None:
    """SR 2.2 RE 1: access points scan for transmitters that the inventory lacks, and report each that they find."""
    known = frozenset(world.network.hosts[name].mac for name in world.site.assets)
    for point in world.access_points.values():
        point.seams.known = known
        point.seams.scan_every = world.figures["wireless.scan_every"]


def _points_up(world: World) -> dict[str, bool]:
    """A watch or restriction at an access point works while every access point of the zone is up."""
    return by_zone((point.zone.name, point.host.up) for point in world.access_points.values())


def portable_devices(world: World) -> None:
    """SR 2.3: only registered media are taken, nothing on them starts by itself, and only listed laptops get a link."""

    def registered(_computer: Computer, media: Media) -> str | None:
        return None if media.serial in REGISTERED_MEDIA else "not registered"

    def listed(_computer: Computer, posture: Posture) -> str | None:
        return None if posture.owner in REGISTERED_LAPTOPS else "not on the list"

    for computer in world.computers.values():
        computer.seams.media.append(registered)
        computer.seams.autorun = False
    for dock in world.docks.values():
        dock.inspect.append(listed)
        world.boundary_audits[dock.audit.source] = dock.audit


def portable_security_status(world: World) -> None:
    """SR 2.3 RE 1: a laptop gets a link only if its patches and malware signatures are recent enough for the zone."""
    patches = world.figures["portable.patches_within"]
    signatures = world.figures["portable.signatures_within"]

    def recent(_computer: Computer, posture: Posture) -> str | None:
        if posture.patches_age > patches:
            return "patches too old"
        return "signatures too old" if posture.signatures_age > signatures else None

    for dock in world.docks.values():
        dock.inspect.append(recent)


def mobile_code(world: World) -> None:
    """SR 2.4: scripts and macros run only if their name is on the site's list; what is refused is reported."""
    known = {name for computer in world.computers.values() for name in computer.inventory()}

    def on_the_list(_computer: Computer, program: Program) -> str | None:
        return "mobile code that is not on the list" if program.mobile and program.name not in known else None

    for computer in world.computers.values():
        computer.seams.execute.append(on_the_list)


def mobile_code_integrity(world: World) -> None:
    """SR 2.4 RE 1: the site's scripts are signed when they are released, and none runs whose signature does not fit."""
    key = Ed25519PrivateKey.from_private_bytes(world.stream("script signing key").randbytes(32))
    public = key.public_key()
    for computer in world.computers.values():
        for application in list(computer.applications.values()):
            scripts = {name: text for name, text in application.files.items() if name.endswith(MOBILE)}
            if scripts:
                signed = {name: sign(text, key) for name, text in scripts.items()}
                computer.install(replace(application, files={**application.files, **signed}))

    def fits(_computer: Computer, program: Program) -> str | None:
        if not program.mobile or signature_fits(program.content, public):
            return None
        return "signature does not fit the script"

    for computer in world.computers.values():
        computer.seams.execute.append(fits)


def remote_termination(world: World) -> None:
    """SR 2.6: a remote session without a command for a time ends by itself, whoever still has its window open."""
    for gateway in world.remote_gateways.values():
        gateway.seams.idle_end = world.figures["remote.idle_end"]


def concurrent_sessions(world: World) -> None:
    """SR 2.7: a gateway carries so many sessions of one user at once, and so many in all, and refuses the next."""
    for gateway in world.remote_gateways.values():
        gateway.seams.sessions_per_user = int(world.figures["remote.sessions_per_user"])
        gateway.seams.sessions_in_all = int(world.figures["remote.sessions_in_all"])


def session_lock(world: World) -> None:
    """SR 2.5: an idle session locks until its user authenticates again."""
    for hmi in world.hmis.values():
        if hmi.seams.accounts is not None:
            hmi.seams.lock_after = world.figures["session.lock_after"]


def devices_with_audit(world: World) -> list[Audit]:
    """The audit seam of every device."""
    groups: tuple[Any, ...] = (
        world.plcs,
        world.hmis,
        world.gateways,
        world.historians,
        world.workstations,
        world.monitors,
        world.siems,
        world.firewall_managers,
        world.auth_servers,
        world.access_points,
        world.remote_gateways,
        world.cellular_routers,
        world.authorities,
        world.computers,
        world.consoles,
        world.mail_servers,
    )
    return [device.audit for group in groups for device in group.values()]


def auditable_events(world: World) -> None:
    """SR 2.8: devices keep a record of security-relevant events: source, time, kind, result."""

    def keep(source: str, kind: str, data: dict[str, Any]) -> None:
        world.trace.record(f"log.{kind}", source, **data)

    for audit in devices_with_audit(world):
        log = world.log_of(audit)
        audit.sinks += [keep, log]
        log.seams.keeps = True
    for plc, routine in _heartbeats(world):
        if plc in world.logs:
            world.logs[plc].seams.routine.append(routine)


def _heartbeats(world: World) -> Iterator[tuple[str, Callable[[str, Mapping[str, Any]], bool]]]:
    """PLC and test of what is no audit matter there: a station's heartbeat, which is a write every few seconds."""
    for hmi in world.hmis.values():
        beat = hmi.asset.heartbeat
        if beat is not None:
            tag = world.site.tag(beat.plc, beat.tag)
            usual = {"peer": hmi.host.address, "table": tag.table, "address": str(tag.address)}
            yield beat.plc, _routine_write(usual)


def _routine_write(usual: Mapping[str, str]) -> Callable[[str, Mapping[str, Any]], bool]:
    def routine(kind: str, data: Mapping[str, Any]) -> bool:
        return kind == "write" and all(str(data.get(name)) == value for name, value in usual.items())

    return routine


def audit_stores(world: World) -> list[AuditLog]:
    """The store of every device, and the archive of every SIEM."""
    stores = {audit.source: world.log_of(audit) for audit in devices_with_audit(world)}
    return [*stores.values(), *(world.archives[name] for name in world.siems)]


def _stores_writing(world: World) -> dict[str, bool]:
    """Records are kept where every store of the zone can be written."""
    return by_zone(
        (world.network.hosts[name].zone.name, log.failed is None)
        for name, log in world.logs.items()
        if name in world.network.hosts
    )


def central_audit(world: World) -> None:
    """SR 2.8 RE 1: every device sends its whole audit trail to the SIEM."""
    for audit in devices_with_audit(world):
        sender = world.sender(audit.source)
        if sender not in audit.sinks:
            audit.sinks.append(sender)
    for plc, routine in _heartbeats(world):
        world.sender(plc).routine.append(routine)
    for name, siem in world.siems.items():
        siem.archive = world.archives[name]
        siem.archive.seams.keeps = True


def audit_capacity(world: World) -> None:
    """SR 2.9: storage is reserved for audit records, more than the noise of a day fills; when full, the oldest go."""
    for log in audit_stores(world):
        log.seams.reserved = world.figures["audit.reserved"]
        log.when_full = "overwrite"


def capacity_warning(world: World) -> None:
    """SR 2.9 RE 1: a store that passes a set fill level says so, before anything is lost."""
    for log in audit_stores(world):
        log.seams.warn_at = world.figures["audit.warn_at"]


def audit_failures(world: World) -> None:
    """SR 2.10: a store that cannot write tells staff, who mend it, and its device goes on without.

    Devices send marks, so that the SIEM notices one whose messages do not arrive any more.
    """
    for log in audit_stores(world):
        log.seams.reports_failure = True
        world.log_mender.look_after(log)
    every = world.figures["audit.mark_every"]
    for name, siem in world.siems.items():
        sources = dict.fromkeys(audit.source for audit in devices_with_audit(world))
        sources = {source: None for source in sources if world.reaches(source, name)}
        siem.expected, siem.silent_after = tuple(sources), 2.5 * every
        for source in sources:
            world.sender(source).mark_every = every


def timestamps(world: World) -> None:
    """SR 2.11: records and messages carry the time that the device's own clock shows."""
    for log in audit_stores(world):
        log.seams.stamps = True
    if world.siems:
        for audit in devices_with_audit(world):
            world.sender(audit.source).stamps = True


def synchronized_clocks(world: World) -> None:
    """SR 2.11 RE 1: devices set their clocks by the site's time server (SNTP) at a set interval."""
    for audit in devices_with_audit(world):
        world.keep_time(audit)


def guarded_time(world: World) -> None:
    """SR 2.11 RE 2: only answers under a shared key set a clock (AES-CMAC), and refusals and steps are recorded."""
    key = world.stream("time key").randbytes(16)
    for server in world.time_servers.values():
        server.key = key
    for client in world.time_clients.values():
        client.seams.key, client.seams.report = key, True


def _clocks_kept(world: World) -> dict[str, bool]:
    """Clocks are kept together where every client of the zone that is up has had an answer within three polls."""
    now = world.loop.time()

    def kept(client: TimeClient) -> bool:
        return client.synchronized is not None and now - client.synchronized < 3 * client.poll

    return by_zone(
        (client.host.zone.name, kept(client) or not client.host.up) for client in world.time_clients.values()
    )


def personal_records(world: World) -> None:
    """SR 2.12: the record of a person's act is signed with that person's key while they are logged in."""
    _sign_records(world, lambda _source, kind, data: _person(kind, data))


def _person(kind: str, data: Mapping[str, Any]) -> str | None:
    user = data.get("user")
    return str(user) if kind in PERSONAL and user not in (None, "", ANYONE.name) else None


def _sign_records(world: World, owner_of: Callable[[str, str, Mapping[str, Any]], str | None]) -> None:
    """Sign what each device records and sends for the owner that ``owner_of(source, kind, data)`` names, if any."""
    keys = world.keyring

    def signature(source: str, kind: str, data: Mapping[str, Any], text: bytes) -> bytes:
        owner = owner_of(source, kind, data)
        return b"" if owner is None else keys.sign(owner, text)

    def mark(source: str, kind: str, data: dict[str, Any], time: float | None) -> dict[str, Any]:
        signed = signature(source, kind, data, content(source, kind, data, time))
        return {"sig": signed.hex()} if signed else {}

    for audit in devices_with_audit(world):
        log = world.log_of(audit)
        log.seams.sign = lambda kind, data, text, source=log.source: signature(source, kind, data, text)
        if world.siems:
            world.sender(audit.source).mark = mark


def device_records(world: World) -> None:
    """SR 2.12 RE 1: every other record is signed by the device it is about, and the SIEM takes no unsigned message."""
    _sign_records(world, lambda source, kind, data: _person(kind, data) or source)
    signers = {audit.source for audit in devices_with_audit(world)}
    keys = world.keyring

    def genuine(message: Message) -> bool:
        if message.source not in signers:
            return True
        owner = _person(message.kind, message.data) or message.source
        return signed_by(keys, owner, message)

    for siem in world.siems.values():
        siem.genuine = genuine


def _refuses_strangers(plc: Plc) -> bool:
    """A stranger asks to set a coil: the seams must refuse; only their answer counts, nothing is set."""
    access = Access(5, "write", Table.COIL, 0, 1, (1,))
    return any(authorize(STRANGER, access) is not None for authorize in plc.seams.authorize)


def _sessions_lock(world: World) -> dict[str, bool]:
    return {
        hmi.host.zone.name: hmi.seams.accounts is None or hmi.seams.lock_after is not None
        for hmi in world.hmis.values()
    }


def _collected(world: World) -> dict[str, bool]:
    """Nothing is collected anywhere while every collector is down."""
    return dict.fromkeys(world.site.zones, any(siem.host.up for siem in world.siems.values()))


CONTROLS: dict[str, Control] = {
    "SR 2.1": roles,
    "SR 2.1 RE 1": device_rights,
    "SR 2.1 RE 2": permission_table,
    "SR 2.1 RE 3": supervisor_override,
    "SR 2.1 RE 4": dual_approval,
    "SR 2.2": wireless_use,
    "SR 2.2 RE 1": radio_scan,
    "SR 2.3": portable_devices,
    "SR 2.3 RE 1": portable_security_status,
    "SR 2.4": mobile_code,
    "SR 2.4 RE 1": mobile_code_integrity,
    "SR 2.5": session_lock,
    "SR 2.6": remote_termination,
    "SR 2.7": concurrent_sessions,
    "SR 2.8": auditable_events,
    "SR 2.8 RE 1": central_audit,
    "SR 2.9": audit_capacity,
    "SR 2.9 RE 1": capacity_warning,
    "SR 2.10": audit_failures,
    "SR 2.11": timestamps,
    "SR 2.11 RE 1": synchronized_clocks,
    "SR 2.11 RE 2": guarded_time,
    "SR 2.12": personal_records,
    "SR 2.12 RE 1": device_records,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {
    "SR 2.1": ("SR 1.1",),
    "SR 2.1 RE 2": ("SR 2.1",),
    "SR 2.1 RE 3": ("SR 2.1 RE 2",),
    "SR 2.1 RE 4": ("SR 2.1",),
    "SR 2.2 RE 1": ("SR 2.2",),
    "SR 2.3 RE 1": ("SR 2.3",),
    "SR 2.4 RE 1": ("SR 2.4",),
    "SR 2.5": ("SR 1.1",),
    "SR 2.9 RE 1": ("SR 2.9",),
    "SR 2.11 RE 1": ("SR 2.11",),
    "SR 2.11 RE 2": ("SR 2.11 RE 1",),
    "SR 2.12": ("SR 1.1",),
    "SR 2.12 RE 1": ("SR 2.12",),
}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {
    "SR 2.1 RE 1": every_controller(_refuses_strangers),
    "SR 2.5": _sessions_lock,
    "SR 2.8 RE 1": _collected,
    "SR 2.1 RE 3": _reachable("supervisor"),
    "SR 2.1 RE 4": _reachable(APPROVER),
    "SR 2.2": _points_up,
    "SR 2.2 RE 1": _points_up,
    "SR 2.8": _stores_writing,
    "SR 2.11 RE 1": _clocks_kept,
    "SR 2.11 RE 2": _clocks_kept,
}

"""What each asset of a site is made of: one function a layer, one case a kind.

The world asks for every asset in the order of the site's file: first the device itself, then the computer that it runs
on, then, when all others exist, what keeps it going and its secrets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devices.analyst import Analyst
from devices.auditlog import AuditLog
from devices.auth_server import AuthServer
from devices.backup import BackupServer, ProgramKeeper
from devices.boundary import FirewallManager
from devices.computer import Computer, installed_on
from devices.credentials import UaCredentials
from devices.disk import Disk
from devices.gateway import Gateway
from devices.historian import Historian
from devices.hmi import Hmi
from devices.incidents import IncidentDesk
from devices.inventory import Inventory, SettingsAgent, SettingsRecord
from devices.keystore import KeyStore
from devices.logic import compile_program
from devices.mail import MailServer
from devices.monitor import Monitor
from devices.name_service import NameServer, Resolver
from devices.operator import Action, Operator
from devices.pki import Authority
from devices.plc import PeerTags, Plc, PlcTimes
from devices.poller import checksum_address
from devices.portal import Portal
from devices.power import Load, Ups, firewall_load
from devices.process_detectors import trained
from devices.process_watch import ProcessWatch, learned_of
from devices.remote import CellularRouter, RemoteGateway, RemoteUser, SessionService
from devices.siem import Siem
from devices.sigma import load as load_rules
from devices.terminal import OperatorTerminal
from devices.timekeeping import Clock, TimeServer
from devices.wireless import AccessPoint, Station
from devices.workstation import Workstation
from testbed import site as sites
from testbed.errors import DocumentError, OtlabError, Problem
from testbed.network import Host

if TYPE_CHECKING:
    from devices.world import World


def install(world: World, name: str, asset: object) -> None:
    """The device that an asset is; kinds without a case are places to be, with no program of their own."""
    host = world.network.hosts[name]
    controllers = world.site.controllers()
    match asset:
        case sites.Controller():
            peers = {
                peer: PeerTags(
                    {tag: controllers[peer].tags[tag] for tag in what.tags},
                    what.every,
                    checksum_address(controllers[peer].tags.values()),
                )
                for peer, what in asset.peers.items()
            }
            times = PlcTimes(
                world.figures["plc.request_cost"],
                world.figures["plc.watchdog"],
                world.figures["plc.peer_stale_after"],
                world.figures["crypto.handshake"] * world.figures["crypto.plc_factor"],
            )
            # Controllers are not started in step: each has its own phase within the scan.
            phase = world.randomness.stream(f"phase:{name}").uniform(0, asset.scan)
            where = str(world.site.folder / asset.logic)
            program = compile_program(world.site.logic(name), where)
            plc = Plc(host, name, asset, program, world.wiring, times, world.connector(name), peers, phase)
            unbound = plc.unbound(program)
            if unbound:
                raise DocumentError(
                    [
                        Problem(where, 1, 1, name, f"the program has no variable for tag {tag}")
                        for tag in unbound
                    ]
                )
            plc.on_mode.append(lambda mode: world.trace.record("plc.mode", name, mode=mode.name.lower()))
            world.plcs[name] = plc
        case sites.Hmi():
            _station(world, host, name, asset)
        case sites.AuthServer():
            world.auth_servers[name] = AuthServer(
                host,
                name,
                world.account_store(name),
                asset.port,
                world.figures["auth.request_cost"],
                world.figures["auth.backlog"],
            )
        case sites.NameServer():
            names = {other: described.address for other, described in world.site.assets.items()}
            world.name_servers[name] = NameServer(
                host, name, names, world.figures["names.lifetime"], asset.port
            )
        case sites.FirewallManager():
            world.firewall_managers[name] = FirewallManager(host, name, world.boundaries, asset.port)
        case sites.OpcUaServer():
            world.gateways[name] = Gateway(host, name, asset, controllers, world.connector(name))
        case sites.Historian():
            exposed = world.site.assets[asset.server]
            assert isinstance(exposed, sites.OpcUaServer)
            tags = [tag for tags in exposed.exposes.values() for tag in tags]
            world.historians[name] = Historian(
                host, name, tags, asset.interval, world.ua_connector(name, asset.server)
            )
        case sites.Workstation():
            world.workstations[name] = Workstation(host, name, world.connector(name))
            if _remotely_used(world, name):
                world.session_services[name] = SessionService(world.workstations[name], controllers)
        case sites.Monitor():
            links = [
                world.network.zones[tap] if tap in world.network.zones else world.network.conduits[tap]
                for tap in asset.taps
            ]
            world.monitors[name] = Monitor(
                host,
                name,
                links,
                world.baseline(),
                ranges=world.register_ranges(),
                node_ranges=world.node_ranges(),
            )
            world.monitors[name].process = _process_watch(world, host, world.monitors[name], asset)
        case sites.Siem():
            siem = world.siems[name] = Siem(host, name, port=asset.port)
            if asset.rules:
                siem.rules = (*siem.rules, *load_rules(world.site.folder / file for file in asset.rules))
            world.archives[name] = AuditLog(
                name, world.clocks[name], world.figures["audit.capacity.archive"], say=siem.audit
            )
            desk = world.desks[name] = IncidentDesk(world.figures["soc.window"], world.name_of)
            siem.on_alert.append(desk.take)
            world.analysts[name] = Analyst(
                host,
                desk,
                world.figures,
                world.stream(f"analyst:{name}"),
                world.trace,
                lambda incident: any(world.maintenance.open_at(alert.time) for alert in incident.alerts),
            )
        case sites.TimeServer():
            # A satellite receiver shows the right time, whatever its quartz does.
            right = Clock(world.loop.time, world.site.epoch.timestamp())
            world.clocks[name] = right
            world.time_servers[name] = TimeServer(host, name, right)
        case sites.JumpHost() if asset.targets:
            targets = {target: world.site.assets[target].address for target in asset.targets}
            world.remote_gateways[name] = RemoteGateway(host, name, targets, asset.capacity)
            world.remote_users.update((user, RemoteUser(user, user)) for user in asset.users)
        case sites.AccessPoint():
            world.access_points[name] = AccessPoint(
                host, name, asset.network, world.air, world.randomness.stream(f"radio:{name}")
            )
        case sites.MobileDevice():
            world.stations[name] = Station(host, world.air, world.randomness.stream(f"radio:{name}"))
        case sites.CellularRouter():
            world.network.zone(asset.carrier, str(asset.network), trusted=False)
            world.cellular_routers[name] = CellularRouter(host, name, asset.carrier)
        case sites.MailServer():
            world.mail_servers[name] = MailServer(host, name, asset.domain, list(asset.mailboxes))
        case _:
            pass  # office PCs and jump hosts are places to be, with no program of their own


def install_computer(world: World, name: str, asset: sites.Asset) -> None:
    """The computer under an asset, with what was delivered on it."""
    computer = Computer(world.network.hosts[name], name, world.software)
    for application in installed_on(asset.kind, asset.product, asset.firmware):
        computer.install(application)
    computer.on_removed.append(
        lambda program: world.trace.record("response", name, what=f"malware {program} removed")
    )
    world.computers[name] = computer


def _remotely_used(world: World, workstation: str) -> bool:
    return any(
        isinstance(asset, sites.JumpHost) and workstation in asset.targets
        for asset in world.site.assets.values()
    )


def install_upkeep(world: World, name: str, asset: object) -> None:
    """What keeps the other devices going, or a record of them; they exist by now."""
    host, assets = world.network.hosts[name], world.site.assets
    match asset:
        case sites.Controller():
            plc = world.plcs[name]
            world.settings_agents[name] = SettingsAgent(
                host, plc.audit, asset.product, asset.firmware, plc.maintain
            )
        case sites.Workstation():
            world.keepers[name] = ProgramKeeper(
                world.workstations[name],
                {plc: world.site.logic(plc) for plc in asset.programs},
                {
                    other: server.address
                    for other, server in assets.items()
                    if isinstance(server, sites.BackupServer) and server.station == name
                },
                lambda plc, source: world.plcs[plc].misfit(source),
            )
            agents = {plc: assets[plc].address for plc in asset.programs}
            record = SettingsRecord(host, agents, world.network.conduits)
            inventory = Inventory(host, lambda: _plugged_in(world), agents)
            world.settings_records[name], world.inventories[name] = record, inventory
            for findings in (world.keepers[name].on_finding, record.on_finding, inventory.on_finding):
                findings.append(
                    lambda about, what: world.trace.record("finding", name, what=f"{about}: {what}")
                )
            record.on_corrected.append(
                lambda about: world.trace.record("response", name, what=f"settings of {about} put right")
            )
            inventory.on_finding.append(
                lambda about, _what: world.workstations[name].audit("device.unknown", peer=about)
            )
        case sites.BackupServer():
            world.backup_servers[name] = BackupServer(host, name, asset.port)
        case sites.Ups():
            world.upses[name] = Ups(name, world.loop, asset.minutes)
            world.upses[name].loads.extend(_load(world, fed) for fed in asset.feeds)
        case _:
            pass


def install_keys(world: World, name: str, asset: object) -> None:
    """Certificates, secrets of programs, and what people read over the web."""
    host = world.network.hosts[name]
    world.keystores[name] = store = KeyStore(host)
    match asset:
        case sites.Historian():
            credentials = world.seams.ua_credentials

            def password() -> bytes | None:
                found = credentials.get(name, UaCredentials()).password
                return found.encode() if found is not None else None

            store.keep("password", password)
            if asset.portal is not None:
                world.portals[name] = Portal(
                    world.historians[name],
                    asset.portal,
                    world.stream(f"export key:{name}").randbytes(16),
                    lambda tag, value: _request_setpoint(world, name, asset.server, tag, value),
                    lambda: _portal_settings(world, name, asset.server),
                )
        case sites.CertificateAuthority():
            figures = world.figures
            world.authorities[name] = Authority(
                host,
                name,
                world.site.name,
                world.site.epoch,
                asset.port,
                figures["pki.validity"],
                figures["pki.list_life"],
                world.randomness,
            )
        case sites.Workstation():
            for old in asset.predecessors:
                world.old_disks[old] = disk = Disk()
                for plc in asset.programs:
                    disk.write(f"projects/{plc}.st", world.site.logic(plc).encode())
        case _:
            pass


async def _request_setpoint(world: World, name: str, server: str, tag: str, value: float) -> str | None:
    """Write through the OPC UA server as the historian's own account; why not, or None."""
    client = world.ua_connector(name, server)()
    try:
        refusal = await client.connect() or await client.write(tag, value)
    except (OSError, OtlabError) as error:  # no answer, or a tag that the server does not have
        return str(error)
    finally:
        await client.disconnect()
    return refusal.status if refusal is not None else None


def _portal_settings(world: World, name: str, server: str) -> dict[str, str]:
    mine = world.seams.ua_credentials.get(name, UaCredentials())
    shown = world.keystores[name].export("password")
    return {
        "server": f"opc.tcp://{world.site.assets[server].address}:{getattr(world.site.assets[server], 'port', 0)}",
        "user": str(mine.user),
        "password": shown.decode() if shown is not None else "(in hardware)" if mine.password else "None",
    }


def _plugged_in(world: World) -> list[tuple[str, str, str]]:
    """What the switches' tables show: (name, zone, address) of every host of the site's own zones."""
    return [
        (host.name, zone, host.address)
        for zone in world.site.zones
        for host in world.network.zones[zone].hosts
    ]


def _load(world: World, name: str) -> Load:
    if name in world.network.conduits:
        return firewall_load(
            world.network.conduits[name],
            world.figures["power.firewall_boot"],
            world.figures["power.firewall_rules"],
        )
    figure = "power.station_restart" if name in world.hmis else "power.controller_restart"
    return Load(name, lambda: world.switch_off(name), lambda: world.switch_on(name), world.figures[figure])


def _station(world: World, host: Host, name: str, asset: sites.Hmi) -> None:
    servers = [
        (server.address, server.port)
        for server in world.site.assets.values()
        if isinstance(server, sites.NameServer) and name in server.serves
    ]
    if servers:
        world.resolvers[name] = Resolver(
            host, servers, world.randomness.stream(f"names:{name}"), world.figures["names.timeout"]
        )
    hmi = Hmi(host, name, asset, world.site.controllers(), world.connector(name), asset.stale_after)
    world.hmis[name] = hmi
    if asset.terminal is not None:
        world.terminals[name] = OperatorTerminal(hmi, asset.terminal, world.figures["accounts.verify_time"])
    responses = {
        key: [Action(step.tag, step.value) for step in steps] for key, steps in asset.responses.items()
    }
    for person in asset.operators:
        if person.role != "operator" or world.operators:
            continue  # one person at the screen; others have accounts
        world.operators[name] = Operator(
            hmi,
            person.name,
            world.figures,
            world.randomness.stream(f"operator:{person.name}"),
            world.trace,
            responses,
            world.site.epoch.timestamp(),
        )


def _process_watch(world: World, host: Host, monitor: Monitor, asset: sites.Monitor) -> ProcessWatch | None:
    """What watches the process, if the site's folder has what it needs to know; OtlabError if that is no such file."""
    learned = learned_of(world.site)
    if learned is None:
        return None
    controllers = {
        world.site.assets[name].address: controller for name, controller in world.site.controllers().items()
    }
    chosen: dict[str, Any] = {rule: learned[rule] for rule in asset.process if rule in learned}
    return ProcessWatch(host, controllers, trained(chosen), monitor.abnormal)

"""A site come to life: its network, plant and devices on one loop, with every seam at its permissive default.

The world is the one mutable thing of a run. Controls fill its seams before ``start``; a scenario adds hosts and acts
through the network; the trace is what is left of it.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from devices.account_office import AccountOffice
from devices.accounts import Accounts
from devices.analyst import Analyst
from devices.audit import Audit
from devices.auditlog import AuditLog, Keyring, LogMender, LogService
from devices.auth_server import FACTORY_SECRET, AuthClient, AuthServer
from devices.backup import BackupServer, ProgramKeeper
from devices.boundary import Boundary, FirewallManager, Island, outer
from devices.certificates import AdHoc, Issuer
from devices.computer import INSTALLED, Computer, Dock, Software
from devices.credentials import UaCredentials
from devices.disk import Disk
from devices.gateway import Gateway
from devices.historian import Historian
from devices.hmi import Hmi
from devices.incidents import IncidentDesk
from devices.inventory import Inventory, SettingsAgent, SettingsRecord
from devices.keystore import KeyStore
from devices.mail import MailServer
from devices.maintenance import Maintenance
from devices.modbus import ModbusClient
from devices.monitor import KnownFlow, Monitor
from devices.name_service import NameServer, Resolver
from devices.opcua import UaClient
from devices.operator import Operator
from devices.outfit import install, install_computer, install_keys, install_upkeep
from devices.permissions import Permissions
from devices.pki import Authority, RelyingParty
from devices.plc import Plc
from devices.portal import Portal
from devices.power import Ups
from devices.premises import Premises
from devices.protection import Console, Guard, IntegrityWatch, MediaStation, Vendor
from devices.recovery import RecoveryPlan
from devices.remote import CellularRouter, RemoteGateway, RemoteUser, SessionService
from devices.siem import Siem
from devices.staff import APPROVER, Answer, Person, Place, Staff
from devices.syslog import SyslogSender
from devices.terminal import OperatorTerminal
from devices.timekeeping import Clock, TimeClient, TimeServer, drawn_clock
from devices.wireless import AccessPoint, Air, Station
from devices.wiring import Wiring
from devices.workstation import Workstation
from testbed import site as sites
from testbed.clock import SimLoop
from testbed.errors import OtlabError
from testbed.figures import Figures
from testbed.network import Network, Switch
from testbed.plant import PlantModel, Sensor
from testbed.plants import plant_named
from testbed.randomness import Randomness
from testbed.site import Site
from testbed.trace import Trace

#: The world's devices by kind: names of the attributes that map assets to them.
DEVICES = (
    "plcs",
    "hmis",
    "gateways",
    "historians",
    "workstations",
    "monitors",
    "siems",
    "computers",
    "terminals",
    "backup_servers",
    "keepers",
    "upses",
    "settings_agents",
    "settings_records",
    "inventories",
    "portals",
    "authorities",
    "keystores",
)
#: Kinds of assets with the storage of a computer.
COMPUTERS = frozenset(
    {
        "auth_server",
        "backup_server",
        "historian",
        "hmi",
        "jump_host",
        "monitor",
        "office_pc",
        "opcua_server",
        "siem",
        "workstation",
    }
)
#: Where people of a role are while on shift; the others are on call (assumption).
PLACES: dict[str, Place] = {"operator": "control room", "supervisor": "control room"}
#: A client that only listens looks after its session three times within the server's 60 s (s; assumption).
UA_KEEP_ALIVE = 20.0


@dataclass(slots=True)
class WorldSeams:
    """What controls may decide for the world as a whole."""

    #: TLS context of a Modbus client: (source asset, target PLC) -> context, None for a PLC that has no TLS
    modbus_tls: Callable[[str, str], ssl.SSLContext | None] | None = None
    ua_credentials: dict[str, UaCredentials] = field(default_factory=dict)
    #: PLCs whose readers check the checksum that they publish
    verify_checksums: frozenset[str] = frozenset()
    #: secret that a device shares with the authentication server: as delivered, unless somebody changes it
    shared_secret: Callable[[str], bytes] = lambda _device: FACTORY_SECRET
    #: who gives devices their certificates, where they have any
    issuer: Issuer = field(default_factory=AdHoc)
    #: certificate and key (DER) of an OPC UA application of a name and URI; None: one that it made itself
    ua_papers: Callable[[str, str], tuple[bytes, bytes]] | None = None
    #: which certificates (DER) of OPC UA servers a client believes, by asset; others believe any
    ua_trust: dict[str, Callable[[bytes], bool]] = field(default_factory=dict)
    #: what is done with the disk of a device that leaves the site, after somebody has deleted its files
    dispose: Callable[[Disk], None] = lambda _disk: None
    #: what log messages are wrapped in on their way, None to send them readable
    log_seal: Callable[[bytes], bytes] | None = None
    #: TLS context that browsers of the site use for the portal, None for plain HTTP
    browser_tls: Callable[[], ssl.SSLContext] | None = None


class World:
    """Everything that exists in one run of ``site`` with ``seed``."""

    def __init__(self, site: Site, seed: int, figures: Figures) -> None:
        self.site, self.seed, self.figures = site, seed, figures
        self.randomness = Randomness(seed)
        self.loop = SimLoop()
        self.loop.epoch = site.epoch
        self.loop.entropy = self.randomness.stream("entropy")
        self.seams = WorldSeams()
        self.trace = Trace(self.loop.time)
        #: switches that zones share, by name
        self.switches: dict[str, Switch] = {}
        self.network = self._build_network()
        self.plant: PlantModel = plant_named(
            site.plant.model, stream=self.randomness.stream("plant"), initial=site.plant.initial
        )
        sensors = {
            name: Sensor(instrument.spec(name), self.plant, self.randomness.stream(f"sensor:{name}"))
            for name, instrument in site.plant.sensors.items()
        }
        self.wiring = Wiring(self.plant, sensors)
        self.wiring.on_trip.append(
            lambda target, on: self.trace.record("trip", "safety", target=target, on=on)
        )
        self.plcs: dict[str, Plc] = {}
        self.hmis: dict[str, Hmi] = {}
        self.gateways: dict[str, Gateway] = {}
        self.historians: dict[str, Historian] = {}
        self.workstations: dict[str, Workstation] = {}
        self.monitors: dict[str, Monitor] = {}
        self.siems: dict[str, Siem] = {}
        #: incidents that each SIEM's alerts make, and who looks into them
        self.desks: dict[str, IncidentDesk] = {}
        self.analysts: dict[str, Analyst] = {}
        self.operators: dict[str, Operator] = {}
        #: operating systems by asset, what programs do on them, and each zone's maintenance port
        self.software = Software()
        self.computers: dict[str, Computer] = {}
        self.docks = {name: Dock(zone) for name, zone in self.network.zones.items()}
        #: the vendor of malware protection, what the site has of it, mail, and who compares programs and files
        self.vendor = Vendor(self.randomness.stream("protection vendor").randbytes(32), self.loop.time)
        self.guards: dict[str, Guard] = {}
        self.consoles: dict[str, Console] = {}
        self.media_station: MediaStation | None = None
        self.mail_servers: dict[str, MailServer] = {}
        self.integrity_watches: dict[str, IntegrityWatch] = {}
        #: name servers, the stations' ways to ask them, and the management of firewalls
        self.name_servers: dict[str, NameServer] = {}
        self.resolvers: dict[str, Resolver] = {}
        self.firewall_managers: dict[str, FirewallManager] = {}
        #: flows that controls made legitimate beside those that the site's file documents
        self.added_flows: list[sites.Flow] = []
        self.maintenance = Maintenance(self.loop)
        #: what tests security functions, left here by the controls that do
        self.verifiers: list[object] = []
        #: the people of the site, and the doors between them and its equipment
        self.staff = self._build_staff()
        self.physical = Premises(
            figures,
            self.randomness.stream("doors"),
            on_attempt=lambda person, place, admitted: self.trace.record(
                "door", place, person=person, admitted=admitted
            ),
        )
        #: the radio channel of the site, and who is on it
        self.air = Air(self.loop)
        self.access_points: dict[str, AccessPoint] = {}
        self.stations: dict[str, Station] = {}
        #: ways in from outside, the service of each workstation that they lead to, and the people who use them
        self.remote_gateways: dict[str, RemoteGateway] = {}
        self.session_services: dict[str, SessionService] = {}
        self.cellular_routers: dict[str, CellularRouter] = {}
        self.remote_users: dict[str, RemoteUser] = {}
        #: copies and keepers of programs, supplies, and settings agents, by asset; records of the site by its station
        self.backup_servers: dict[str, BackupServer] = {}
        self.keepers: dict[str, ProgramKeeper] = {}
        self.upses: dict[str, Ups] = {}
        self.settings_agents: dict[str, SettingsAgent] = {}
        self.settings_records: dict[str, SettingsRecord] = {}
        self.inventories: dict[str, Inventory] = {}
        #: how a wrecked controller or station is brought back
        self.recovery = RecoveryPlan()
        #: the store that decides who is let in at the operator station, None while nothing asks who anybody is
        self.accounts: Accounts | None = None
        #: text terminals of operator stations, authentication servers, and the devices' ways to ask them
        self.terminals: dict[str, OperatorTerminal] = {}
        self.auth_servers: dict[str, AuthServer] = {}
        self.auth_clients: dict[str, AuthClient] = {}
        #: the accounts that each device keeps, what each holder of one types, and who manages them
        self.account_stores: dict[str, Accounts] = {}
        self.passwords: dict[str, str] = {}
        #: passwords as they were when a list of them leaked, by account
        self.leaked: dict[str, str] = {}
        self.account_office: AccountOffice | None = None
        #: which role may do what on the process, None while nothing distinguishes
        self.permissions: Permissions | None = None
        #: report portals, certificate authorities, who checks certificates how, and machines' secrets, by asset
        self.portals: dict[str, Portal] = {}
        self.authorities: dict[str, Authority] = {}
        self.relying_parties: dict[str, RelyingParty] = {}
        self.keystores: dict[str, KeyStore] = {}
        #: disks of devices that did the work of a workstation before, by device
        self.old_disks: dict[str, Disk] = {}
        #: told when a device of the site is reported stolen or lost
        self.on_device_lost: list[Callable[[str], None]] = []
        #: ids of the IEC 62443-3-3 requirements in force, in the standard's order
        self.requirements: tuple[str, ...] = ()
        #: what each device's clock shows, servers of the right time, and the devices that ask them
        self.clocks: dict[str, Clock] = {name: self._clock(name) for name in site.assets}
        self.time_servers: dict[str, TimeServer] = {}
        self.time_clients: dict[str, TimeClient] = {}
        #: audit stores by device, the SIEMs' archives, and services that hand out records
        self.logs: dict[str, AuditLog] = {}
        self.archives: dict[str, AuditLog] = {}
        self.log_services: dict[str, LogService] = {}
        #: signing keys of people and devices
        self.keyring = Keyring(lambda owner: self.randomness.stream(f"signing key:{owner}").randbytes(32))
        self.log_mender = self._build_log_mender()
        #: what firewalls at conduits have to say, by conduit
        self.boundary_audits: dict[str, Audit] = {}
        #: the firewall of each conduit, and the switch that cuts the control system off from what is not its own
        self.boundaries = {
            name: Boundary(conduit, figures["boundary.capacity"], figures["boundary.restart"])
            for name, conduit in self.network.conduits.items()
        }
        self.boundary_audits.update((name, one.audit) for name, one in self.boundaries.items())
        self.island = self._build_island()
        self._senders: dict[str, SyslogSender] = {}
        self._names_by_address = {str(asset.address): name for name, asset in site.assets.items()}
        self._clients: dict[tuple[str, str], ModbusClient] = {}
        for name, asset in site.assets.items():
            install(self, name, asset)
            if asset.kind in INSTALLED:
                install_computer(self, name, asset)
        for name, asset in site.assets.items():
            install_upkeep(self, name, asset)
            install_keys(self, name, asset)

    # -- building ----------------------------------------------------------------------------------------------

    def _build_network(self) -> Network:
        network = Network(self.loop, self.randomness)
        for name, zone in self.site.zones.items():
            network.zone(
                name,
                str(zone.network),
                latency=zone.latency,
                bandwidth=zone.bandwidth,
                loss=zone.loss,
                trusted=zone.trusted,
            )
        for name, shared in self.site.switches.items():
            self.switches[name] = Switch(name, shared.bandwidth)
            for member in shared.zones:
                self.switches[name].attach(network.zones[member])
        for name, conduit in self.site.conduits.items():
            network.conduit(
                name,
                *conduit.between,
                latency=conduit.latency,
                bandwidth=conduit.bandwidth,
                loss=conduit.loss,
            )
        for name, asset in self.site.assets.items():
            network.host(name, asset.zone, asset.address)
        return network

    def own(self, zone: str) -> bool:
        """Whether a zone is one of the control system's: up to Purdue's level 3, and trusted."""
        known = self.site.zones.get(zone)
        return known is not None and known.trusted and known.level <= 3

    def _build_island(self) -> Island:
        edges = outer(self.network.conduits.values(), self.own)
        island = Island(tuple(self.boundaries[name] for name in edges))
        island.on_change.append(
            lambda cut, why: self.trace.record("response", "island", what=why) if cut else None
        )
        return island

    def _build_staff(self) -> Staff:
        people = {
            person.name: Person(
                person.name,
                person.role,
                PLACES.get(person.role, "on call"),
                frozenset({APPROVER}) if person.role == "supervisor" else frozenset(),
            )
            for asset in self.site.assets.values()
            if isinstance(asset, sites.Hmi)
            for person in asset.operators
        }

        def answered(answer: Answer) -> None:
            # Whoever is asked has done their part with either answer.
            self.trace.record(
                "task",
                answer.person,
                task="approval",
                outcome="done",
                seconds=answer.seconds,
                request=answer.request,
                granted=answer.granted,
            )

        return Staff(
            self.figures, self.randomness.stream("staff"), list(people.values()), on_answer=[answered]
        )

    def switch_off(self, name: str) -> None:
        """A controller or a station loses power."""
        if name in self.plcs:
            self.plcs[name].lose_power()
        else:
            self.network.hosts[name].power_off()

    def switch_on(self, name: str) -> None:
        """A controller or a station that was off has booted: its connections and sessions are forgotten."""
        for key in [key for key in self._clients if key[0] == name]:
            del self._clients[key]
        if name in self.plcs:
            self.plcs[name].regain_power()
            self.settings_agents[name].start()
        elif name in self.hmis:
            hmi = self.hmis[name]
            hmi.host.power_on()
            hmi.session = None
            hmi.alarms.clear()
            hmi.start()
            self.computers[name].set_up_anew()
            if name in self.terminals:
                self.terminals[name].start()
            if name in self.integrity_watches:
                self.integrity_watches[name].start()
            if name in self.operators:
                self.operators[name].resume()
        if name in self.log_services:
            self.log_services[name].start()

    # -- connecting --------------------------------------------------------------------------------------------

    def connector(self, source: str) -> Callable[[str], ModbusClient]:
        """Makes (once) the Modbus client of ``source`` to a PLC, with the security in force at that time."""

        def connect(plc: str) -> ModbusClient:
            key = (source, plc)
            if key not in self._clients:
                tls = self.seams.modbus_tls(source, plc) if self.seams.modbus_tls is not None else None
                target = self.plcs[plc]
                self._clients[key] = ModbusClient(
                    self.network.hosts[plc].address,
                    target.seams.port,
                    unit=target.asset.unit_id,
                    ssl=tls,
                    server_hostname=plc if tls is not None else None,
                )
                resolver = self.resolvers.get(source)
                if resolver is not None:
                    self._clients[key].resolve = lambda: resolver.lookup(plc)
            return self._clients[key]

        return connect

    def ua_connector(self, source: str, server: str) -> Callable[[], UaClient]:
        """Makes an OPC UA client of ``source`` with the credentials in force."""

        def connect() -> UaClient:
            asset = self.site.assets[server]
            assert isinstance(asset, sites.OpcUaServer)
            mine = self.seams.ua_credentials.get(source, UaCredentials())
            return UaClient(
                f"opc.tcp://{asset.address}:{asset.port}",
                user=mine.user,
                password=mine.password,
                security=mine.security,
                certificate=mine.certificate,
                key=mine.key,
                trust=self.seams.ua_trust.get(source) if mine.security is not None else None,
                keep_alive=UA_KEEP_ALIVE,
            )

        return connect

    def sender(self, asset: str) -> SyslogSender:
        """The syslog sender of ``asset`` to the site's first SIEM; OtlabError if the site has none."""
        if not self.siems:
            raise OtlabError(f"site {self.site.name!r} has no SIEM to send logs to")
        if asset not in self._senders:
            siem = next(iter(self.siems.values()))
            self._senders[asset] = SyslogSender(
                self.network.hosts[asset],
                siem.host.address,
                self.site.epoch,
                siem.port,
                delay=self.figures["siem.forward_delay"],
            )
            self._senders[asset].clock, self._senders[asset].stamps = self.clocks[asset], False
            kind = self.site.assets[asset].kind if asset in self.site.assets else ""
            self._senders[asset].shape = "ocsf" if kind == "monitor" else "ecs" if kind in COMPUTERS else None
        return self._senders[asset]

    def account_store(self, asset: str) -> Accounts:
        """The store of accounts that ``asset`` keeps, made at the first call."""
        if asset not in self.account_stores:
            self.account_stores[asset] = Accounts(
                self.loop.time, self.site.epoch.timestamp(), self.randomness.stream(f"accounts:{asset}")
            )
        return self.account_stores[asset]

    def _clock(self, name: str) -> Clock:
        return drawn_clock(
            self.loop.time,
            self.site.epoch.timestamp(),
            self.randomness.stream(f"clock:{name}"),
            (self.figures["clock.drift_low"] * 1e-6, self.figures["clock.drift_high"] * 1e-6),
            self.figures["clock.since_set"],
        )

    def _build_log_mender(self) -> LogMender:
        stream = self.randomness.stream("log mender")

        def mended(source: str, seconds: float) -> None:
            self.trace.record("response", source, what="audit log mended", seconds=round(seconds, 3))

        return LogMender(
            lambda seconds, then: self.loop.wake(self.loop.time() + seconds, lambda _due: then(), None),
            lambda: stream.lognormvariate(*self.figures.lognormal("audit.mend")),
            mended,
        )

    def log_of(self, audit: Audit) -> AuditLog:
        """The audit store of the device that ``audit`` belongs to; every device has one, if only of its own make."""
        name = audit.source
        if name not in self.logs:
            asset = self.site.assets.get(name)
            kind = asset.kind if asset is not None else ""
            sort = "computer" if kind in COMPUTERS else "controller"
            self.logs[name] = AuditLog(
                name,
                self.clocks[name] if asset is not None else self.loop.time,
                self.figures[f"audit.capacity.{sort}"],
                # A station's operating system may be set to shut down when it cannot audit; others just wrap.
                "halt" if kind == "hmi" else "overwrite",
                say=audit,
                halt=(lambda: self._halt(name)) if asset is not None else None,
            )
        return self.logs[name]

    def _halt(self, name: str) -> None:
        """The operating system of ``name`` shuts down because it cannot audit."""
        if self.network.hosts[name].up:
            self.trace.record("audit.halted", name)
            self.network.hosts[name].power_off()

    def keep_time(self, audit: Audit) -> TimeClient | None:
        """Let the device that ``audit`` belongs to ask the site's first time server; None where there is no such."""
        name = audit.source
        if name in self.time_servers or name not in self.site.assets:
            return None
        if not self.time_servers or not self.reaches(name, next(iter(self.time_servers))):
            return None
        if name not in self.time_clients:
            server = next(iter(self.time_servers.values()))
            self.time_clients[name] = TimeClient(
                self.network.hosts[name],
                self.clocks[name],
                server.host.address,
                self.figures["time.poll"],
                self.randomness.stream(f"time client:{name}"),
                audit,
            )
        return self.time_clients[name]

    def reaches(self, source: str, target: str) -> bool:
        """Whether the site documents that asset ``source`` opens connections to ``target``, or stands beside it."""
        assets = self.site.assets
        return (source in assets and assets[source].zone == assets[target].zone) or any(
            flow.source == source and flow.target == target
            for conduit in self.site.conduits.values()
            for flow in conduit.flows
        )

    def stream(self, name: str) -> random.Random:
        """A named random stream of this run."""
        return self.randomness.stream(name)

    # -- what the site documents -------------------------------------------------------------------------------

    def legitimate_flows(self) -> Iterator[sites.Flow]:
        """What the site's file documents, whichever conduit it crosses, then what assets do by their entries alone.

        Ports are where the services really are.
        """
        documented = set()
        yield from self.added_flows
        for conduit in self.site.conduits.values():
            for flow in conduit.flows:
                documented.add((flow.source, flow.target))
                yield flow.model_copy(update={"port": self.service_port(flow.target, flow.port)})
        for name in self.site.assets:
            for target in talks_to(self.site, name):
                if (name, target) not in documented:
                    port = self.service_port(target, port_of(self.site.assets[target]))
                    protocol: sites.Protocol = (
                        "syslog"
                        if target in self.siems
                        else "opcua"
                        if target in self.gateways
                        else "auth"
                        if target in self.auth_servers
                        else "modbus"
                    )
                    yield sites.Flow(source=name, target=target, port=port, protocol=protocol)

    def baseline(self) -> list[KnownFlow]:
        """The legitimate flows by address, as a monitor knows them."""
        return [
            KnownFlow(
                self.site.assets[flow.source].address,
                self.site.assets[flow.target].address,
                flow.port,
                frozenset(flow.functions) if flow.functions is not None else None,
                reads=isinstance(self.site.assets[flow.source], sites.Historian),
            )
            for flow in self.legitimate_flows()
        ]

    def service_port(self, asset: str, documented: int) -> int:
        """Where a service really is: a PLC under Modbus/TLS has moved from its documented port."""
        plc = self.plcs.get(asset)
        return plc.seams.port if plc is not None and documented == plc.asset.port else documented

    def name_of(self, address: str) -> str:
        """The asset that has an address; what is no asset's address stays as it is."""
        return self._names_by_address.get(address, address)

    def programmers(self, plc: str) -> frozenset[str]:
        """Addresses of the workstations whose documented task it is to load the logic of ``plc``."""
        return frozenset(
            asset.address
            for asset in self.site.assets.values()
            if isinstance(asset, sites.Workstation) and plc in asset.programs
        )

    def commanders(self, plc: str) -> frozenset[str]:
        """Addresses of the stations and servers whose documented task it is to command ``plc``."""
        return frozenset(
            asset.address
            for asset in self.site.assets.values()
            if isinstance(asset, sites.Hmi | sites.OpcUaServer) and plc in asset.polls
        )

    def node_ranges(self) -> dict[tuple[str, str], tuple[float, float]]:
        """(address of the OPC UA server, node) -> engineering range of the tag behind it."""
        found = {}
        controllers = self.site.controllers()
        for asset in self.site.assets.values():
            if isinstance(asset, sites.OpcUaServer):
                for plc, tags in asset.exposes.items():
                    for tag in tags:
                        limits = controllers[plc].tags[tag].range
                        if limits is not None:
                            found[(asset.address, tag)] = limits
        return found

    def register_ranges(self) -> dict[tuple[str, int], tuple[int, int]]:
        """(PLC address, holding register) -> allowed counts, from the engineering ranges of one-register tags."""
        found = {}
        for name, controller in self.site.controllers().items():
            for tag in controller.tags.values():
                if (
                    tag.table == "holding"
                    and tag.range is not None
                    and tag.words == 1
                    and tag.format == "uint16"
                ):
                    low, high = (tag.encode(end)[0] for end in tag.range)
                    found[(self.site.assets[name].address, tag.address)] = (low, high)
        return found

    @contextmanager
    def reach(self, requirement: str) -> Iterator[None]:
        """Within it the world's devices are those that have means for ``requirement``: a control reaches no others."""
        unable = {name for name, asset in self.site.assets.items() if requirement in asset.cannot}
        if not unable:
            yield
            return
        whole = {group: getattr(self, group) for group in DEVICES}
        for group, devices in whole.items():
            setattr(self, group, {name: one for name, one in devices.items() if name not in unable})
        try:
            yield
        finally:
            for group, devices in whole.items():
                setattr(self, group, devices)

    # -- running -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the plant and every device; controls have been applied by now."""
        readers: list[Plc | Hmi | Gateway] = [
            *self.plcs.values(),
            *self.hmis.values(),
            *self.gateways.values(),
        ]
        for reader in readers:
            reader.verify_checksums = self.seams.verify_checksums
        self.loop.wake(0.0, self._advance, 1)
        for siem in self.siems.values():
            siem.start()
        for analyst in self.analysts.values():
            analyst.start()
        for time_server in self.time_servers.values():
            time_server.start()
        for time_client in self.time_clients.values():
            time_client.start()
        for log_service in self.log_services.values():
            log_service.start()
        for sender in self._senders.values():
            sender.seal = self.seams.log_seal
            sender.start()
        for computer in self.computers.values():
            computer.start()
        for mail_server in self.mail_servers.values():
            mail_server.start()
        for watch in self.integrity_watches.values():
            watch.start()
        for name_server in self.name_servers.values():
            name_server.start()
        for manager in self.firewall_managers.values():
            manager.start()
        for plc in self.plcs.values():
            plc.start()
        for gateway in self.gateways.values():
            gateway.start()
        for auth_server in self.auth_servers.values():
            auth_server.start()
        for hmi in self.hmis.values():
            hmi.start()
        for terminal in self.terminals.values():
            terminal.start()
        for operator in self.operators.values():
            operator.start()
        for historian in self.historians.values():
            historian.start()
        for access_point in self.access_points.values():
            access_point.start()
        for service in self.session_services.values():
            service.start()
        for remote_gateway in self.remote_gateways.values():
            remote_gateway.start()
        for router in self.cellular_routers.values():
            router.start()
        for portal in self.portals.values():
            portal.start()
        for authority in self.authorities.values():
            authority.start()
        for asset, party in self.relying_parties.items():
            # Devices were not set up in the same minute.
            party.start(self.stream(f"revocation list:{asset}").uniform(0, party.every))
        for server in self.backup_servers.values():
            server.start()
        for agent in self.settings_agents.values():
            agent.start()
        for keeper in self.keepers.values():
            keeper.start()
        for settings in self.settings_records.values():
            settings.start()
        for inventory in self.inventories.values():
            inventory.start()

    def _advance(self, step: int) -> None:
        self.plant.advance()
        self.loop.wake(step * self.plant.step, self._advance, step + 1)

    def close(self) -> None:
        """End every program and free the loop."""

        self.loop.close()


def port_of(asset: sites.Asset) -> int:
    """The port that an asset serves by its kind; 0 for none."""
    return int(getattr(asset, "port", 0))


def talks_to(site: Site, name: str) -> list[str]:
    """Assets that ``name`` opens connections to by what its entry says."""
    asset = site.assets[name]
    siems = [other for other, what in site.assets.items() if isinstance(what, sites.Siem)]
    match asset:
        case sites.Controller():
            return [*asset.peers, *siems]
        case sites.Hmi() | sites.OpcUaServer():
            directories = [other for other, what in site.assets.items() if isinstance(what, sites.AuthServer)]
            return [*asset.polls, *directories, *siems]
        case sites.MobileDevice():
            return [*asset.reads, *siems]
        case sites.Historian():
            return [asset.server, *siems]
        case sites.Workstation():
            servers = [
                other
                for other, what in site.assets.items()
                if isinstance(what, sites.BackupServer) and what.station == name
            ]
            return [*asset.programs, *servers, *siems]
        case _:
            return siems

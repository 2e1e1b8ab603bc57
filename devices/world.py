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

from devices.accounts import Accounts
from devices.audit import Audit
from devices.gateway import Gateway
from devices.historian import Historian
from devices.hmi import Hmi
from devices.logic import compile_program
from devices.modbus import ModbusClient
from devices.monitor import KnownFlow, Monitor
from devices.opcua import UaClient
from devices.operator import Action, Operator
from devices.plc import PeerTags, Plc, PlcTimes
from devices.poller import checksum_address
from devices.siem import Siem
from devices.syslog import SyslogSender
from devices.wiring import Wiring
from devices.workstation import Workstation
from testbed import site as sites
from testbed.clock import SimLoop
from testbed.errors import DocumentError, OtlabError, Problem
from testbed.figures import Figures
from testbed.network import Host, Network
from testbed.plant import PlantModel, Sensor
from testbed.plants import plant_named
from testbed.randomness import Randomness
from testbed.site import Site
from testbed.trace import Trace

#: The world's devices by kind: names of the attributes that map assets to them.
DEVICES = ("plcs", "hmis", "gateways", "historians", "workstations", "monitors", "siems")
#: A client that only listens looks after its session three times within the server's 60 s (s; assumption).
UA_KEEP_ALIVE = 20.0


@dataclass(slots=True)
class UaCredentials:
    """How one asset logs in to the OPC UA server; all None is anonymous without security."""

    user: str | None = None
    password: str | None = None
    security: str | None = None
    certificate: bytes | None = None
    key: bytes | None = None


@dataclass(slots=True)
class WorldSeams:
    """What controls may decide for the world as a whole."""

    #: TLS context of a Modbus client: (source asset, target PLC) -> context, None for a PLC that has no TLS
    modbus_tls: Callable[[str, str], ssl.SSLContext | None] | None = None
    ua_credentials: dict[str, UaCredentials] = field(default_factory=dict)
    #: readers of PLCs check the checksum that the PLCs then publish
    verify_checksums: bool = False


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
        self.operators: dict[str, Operator] = {}
        #: account store of the site, None while nothing asks who anybody is
        self.accounts: Accounts | None = None
        #: ids of the IEC 62443-3-3 requirements in force, in the standard's order
        self.requirements: tuple[str, ...] = ()
        #: what firewalls at conduits have to say, by conduit
        self.boundary_audits: dict[str, Audit] = {}
        self._senders: dict[str, SyslogSender] = {}
        self._clients: dict[tuple[str, str], ModbusClient] = {}
        for name, asset in site.assets.items():
            self._build_asset(name, asset)

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

    def _build_asset(self, name: str, asset: object) -> None:
        host = self.network.hosts[name]
        controllers = self.site.controllers()
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
                    self.figures["plc.request_cost"],
                    self.figures["plc.watchdog"],
                    self.figures["plc.peer_stale_after"],
                )
                # Controllers are not started in step: each has its own phase within the scan.
                phase = self.randomness.stream(f"phase:{name}").uniform(0, asset.scan)
                where = str(self.site.folder / asset.logic)
                program = compile_program(self.site.logic(name), where)
                plc = Plc(host, name, asset, program, self.wiring, times, self.connector(name), peers, phase)
                unbound = plc.unbound(program)
                if unbound:
                    raise DocumentError(
                        [
                            Problem(where, 1, 1, name, f"the program has no variable for tag {tag}")
                            for tag in unbound
                        ]
                    )
                plc.on_mode.append(lambda mode: self.trace.record("plc.mode", name, mode=mode.name.lower()))
                self.plcs[name] = plc
            case sites.Hmi():
                self._build_hmi(host, name, asset)
            case sites.OpcUaServer():
                self.gateways[name] = Gateway(host, name, asset, controllers, self.connector(name))
            case sites.Historian():
                exposed = self.site.assets[asset.server]
                assert isinstance(exposed, sites.OpcUaServer)
                tags = [tag for tags in exposed.exposes.values() for tag in tags]
                self.historians[name] = Historian(
                    host, name, tags, asset.interval, self.ua_connector(name, asset.server)
                )
            case sites.Workstation():
                self.workstations[name] = Workstation(host, name, self.connector(name))
            case sites.Monitor():
                links = [
                    self.network.zones[tap] if tap in self.network.zones else self.network.conduits[tap]
                    for tap in asset.taps
                ]
                self.monitors[name] = Monitor(
                    host, name, links, self.baseline(), ranges=self.register_ranges()
                )
            case sites.Siem():
                self.siems[name] = Siem(host, name, port=asset.port)
            case _:
                pass  # office PCs and jump hosts are places to be, with no program of their own

    def _build_hmi(self, host: Host, name: str, asset: sites.Hmi) -> None:
        hmi = Hmi(host, name, asset, self.site.controllers(), self.connector(name), asset.stale_after)
        self.hmis[name] = hmi
        responses = {
            key: [Action(step.tag, step.value) for step in steps] for key, steps in asset.responses.items()
        }
        for person in asset.operators:
            if person.role != "operator" or self.operators:
                continue  # one person at the screen; others have accounts
            self.operators[name] = Operator(
                hmi,
                person.name,
                self.figures,
                self.randomness.stream(f"operator:{person.name}"),
                self.trace,
                responses,
                self.site.epoch.timestamp(),
            )

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
        return self._senders[asset]

    def stream(self, name: str) -> random.Random:
        """A named random stream of this run."""
        return self.randomness.stream(name)

    # -- what the site documents -------------------------------------------------------------------------------

    def legitimate_flows(self) -> Iterator[sites.Flow]:
        """What the site's file documents, whichever conduit it crosses, then what assets do by their entries alone.

        Ports are where the services really are.
        """
        documented = set()
        for conduit in self.site.conduits.values():
            for flow in conduit.flows:
                documented.add((flow.source, flow.target))
                yield flow.model_copy(update={"port": self.service_port(flow.target, flow.port)})
        for name in self.site.assets:
            for target in talks_to(self.site, name):
                if (name, target) not in documented:
                    port = self.service_port(target, port_of(self.site.assets[target]))
                    protocol: sites.Protocol = (
                        "syslog" if target in self.siems else "opcua" if target in self.gateways else "modbus"
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
            )
            for flow in self.legitimate_flows()
        ]

    def service_port(self, asset: str, documented: int) -> int:
        """Where a service really is: a PLC under Modbus/TLS has moved from its documented port."""
        plc = self.plcs.get(asset)
        return plc.seams.port if plc is not None and documented == plc.asset.port else documented

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
        for sender in self._senders.values():
            sender.start()
        for plc in self.plcs.values():
            plc.start()
        for gateway in self.gateways.values():
            gateway.start()
        for hmi in self.hmis.values():
            hmi.start()
        for operator in self.operators.values():
            operator.start()
        for historian in self.historians.values():
            historian.start()

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
            return [*asset.polls, *siems]
        case sites.Historian():
            return [asset.server, *siems]
        case sites.Workstation():
            return [*asset.programs, *siems]
        case _:
            return siems

"""Draft assets, zones and conduits from what a site has already: a list of assets, and captured traffic.

A draft is no site: it holds what was seen and what is guessed, each guess with its reason, in the words of a site's
file, so that its parts can be copied. Beside a site that exists, the same shows what its file does not know.
"""

from __future__ import annotations

import csv
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from devices.modbus_wire import Conversation, identity_of
from devices.ua_wire import CHANGES, UaReader
from testbed.document import MAX_BYTES
from testbed.errors import DocumentError, OtlabError, Problem
from testbed.pcap import ACK, FIN, RST, SYN, Reading, Seen, packets
from testbed.site import Site

#: Connections that are followed at once; the longest silent is forgotten first.
CONNECTIONS_MOST: Final = 20_000
#: Hosts and flows that are kept at most: a scan of a whole network must not fill the memory.
HOSTS_MOST: Final = 10_000
FLOWS_MOST: Final = 50_000

#: port -> protocol in a site's words
PORTS: Final[Mapping[int, str]] = {
    22: "ssh",
    25: "smtp",
    53: "dns",
    80: "http",
    110: "pop3",
    123: "ntp",
    443: "https",
    502: "modbus",
    514: "syslog",
    802: "modbus",
    1812: "auth",
    3389: "rdp",
    4840: "opcua",
    5514: "logs",
    8080: "http",
    8161: "settings",
    8443: "firewall",
    9103: "backup",
}
#: protocol that a host serves -> the kind of asset that it then most likely is
SERVES: Final[Mapping[str, str]] = {
    "modbus": "plc",
    "opcua": "opcua_server",
    "syslog": "siem",
    "ntp": "time_server",
    "auth": "auth_server",
    "dns": "name_server",
    "smtp": "mail_server",
    "backup": "backup_server",
    "firewall": "firewall_manager",
}
WRITES: Final = frozenset({5, 6, 15, 16, 22, 23})
PROGRAMS: Final = frozenset({20, 21})

# -- what was seen -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Host:
    """A host by its address, what it serves and asks for, and what it says of itself."""

    address: str
    macs: set[str] = field(default_factory=set)
    identity: dict[int, str] = field(default_factory=dict)
    units: set[int] = field(default_factory=set)
    vlans: set[int] = field(default_factory=set)


@dataclass(slots=True)
class FlowSeen:
    """Traffic from one host to a port of another: connections, bytes, and what was asked in it."""

    source: str
    target: str
    port: int
    transport: str
    connections: int = 0
    packets: int = 0
    size: int = 0
    refused: int = 0
    functions: Counter[int] = field(default_factory=Counter)
    written: set[tuple[int, int]] = field(default_factory=set)
    services: Counter[str] = field(default_factory=Counter)
    policies: set[str] = field(default_factory=set)
    content: str = ""

    @property
    def protocol(self) -> str:
        """What is spoken, by content where it was read, by the port otherwise; "" if neither tells."""
        return self.content or PORTS.get(self.port, "")


@dataclass(slots=True)
class Traffic:
    """Everything that a capture shows."""

    hosts: dict[str, Host] = field(default_factory=dict)
    flows: dict[tuple[str, str, int, str], FlowSeen] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    seconds: float = 0.0
    left_out: int = 0


@dataclass(slots=True)
class _Connection:
    client: tuple[str, int]
    flow: FlowSeen
    modbus: Conversation | None = None
    opcua: UaReader | None = None
    answered: bool = False
    opened: bool = False


def traffic_of(path: Path | str) -> Traffic:
    """Read a capture. Raises OtlabError when it is none."""
    found = Traffic()
    return traffic_from(packets(path, found.reading), found)


def traffic_from(seen: Iterable[Seen], found: Traffic | None = None) -> Traffic:
    """The same of packets from anywhere."""
    traffic = found if found is not None else Traffic()
    connections: dict[tuple[tuple[str, int], tuple[str, int]], _Connection] = {}
    first: float | None = None
    for packet in seen:
        first = packet.time if first is None else min(first, packet.time)
        traffic.seconds = max(traffic.seconds, packet.time - first)
        for address, mac in ((packet.source, packet.source_mac), (packet.target, "")):
            _host(traffic, address, mac, packet.vlan)
        if packet.protocol == "tcp":
            _tcp(traffic, connections, packet)
        elif packet.protocol == "udp":
            _udp(traffic, packet)
    for mac, address in traffic.reading.arp.items():
        _host(traffic, address, mac, None)
    return traffic


def _host(traffic: Traffic, address: str, mac: str, vlan: int | None) -> None:
    where = ipaddress.ip_address(address)
    if where.is_multicast or where.is_unspecified or where.is_loopback or address.endswith(".255"):
        return
    host = traffic.hosts.get(address)
    if host is None:
        if len(traffic.hosts) >= HOSTS_MOST:
            traffic.left_out += 1
            return
        host = traffic.hosts[address] = Host(address)
    if mac and len(host.macs) < 8:
        host.macs.add(mac)
    if vlan is not None and len(host.vlans) < 8:
        host.vlans.add(vlan)


def _flow(traffic: Traffic, source: str, target: str, port: int, transport: str) -> FlowSeen | None:
    key = (source, target, port, transport)
    flow = traffic.flows.get(key)
    if flow is None:
        if len(traffic.flows) >= FLOWS_MOST:
            traffic.left_out += 1
            return None
        flow = traffic.flows[key] = FlowSeen(source, target, port, transport)
    return flow


def _udp(traffic: Traffic, packet: Seen) -> None:
    reply = traffic.flows.get((packet.target, packet.source, packet.source_port, "udp"))
    if reply is not None:
        return
    if packet.source_port in PORTS and packet.target_port not in PORTS:
        return  # an answer whose question was before the capture
    flow = _flow(traffic, packet.source, packet.target, packet.target_port, "udp")
    if flow is not None:
        flow.packets += 1
        flow.size += len(packet.payload)


def _tcp(
    traffic: Traffic,
    connections: dict[tuple[tuple[str, int], tuple[str, int]], _Connection],
    packet: Seen,
) -> None:
    source, target = (packet.source, packet.source_port), (packet.target, packet.target_port)
    key = (min(source, target), max(source, target))
    opening = packet.flags & SYN and not packet.flags & ACK
    connection = connections.get(key)
    if connection is None or (opening and connection.answered):
        client = source if opening or _is_client(packet) else target
        server = target if client == source else source
        flow = _flow(traffic, client[0], server[0], server[1], "tcp")
        if flow is None:
            return
        if connection is None and len(connections) >= CONNECTIONS_MOST:
            del connections[next(iter(connections))]
        connection = connections[key] = _Connection(client, flow)
        flow.connections += 1
    elif connection is not None:
        connections[key] = connections.pop(key)
    flow = connection.flow
    flow.packets += 1
    flow.size += len(packet.payload)
    if source != connection.client:
        if packet.flags & RST and not connection.answered:
            flow.refused += 1
        connection.answered = True
    if packet.payload:
        _content(traffic, connection, packet, source == connection.client)
    if packet.flags & (RST | FIN):
        connection.answered = True


def _is_client(packet: Seen) -> bool:
    """Of a connection that was open before the capture: the end whose port is no known service."""
    if packet.flags & SYN:
        return False  # the answer to an opening
    if (packet.source_port in PORTS) != (packet.target_port in PORTS):
        return packet.target_port in PORTS
    return packet.target_port < packet.source_port


def _content(traffic: Traffic, connection: _Connection, packet: Seen, asking: bool) -> None:
    flow = connection.flow
    if not connection.opened:
        connection.opened = True
        if packet.payload[:2] == b"\x16\x03":
            flow.content = flow.content or ("modbus" if flow.port in (502, 802) else "")
            flow.services["TLS"] += 1
        elif packet.payload[:3] in (b"HEL", b"OPN", b"MSG", b"ACK"):
            connection.opcua = UaReader()
            flow.content = "opcua"
        elif _looks_modbus(packet.payload, flow.port):
            connection.modbus = Conversation()
            flow.content = "modbus"
        elif packet.payload[:4] == b"SSH-":
            flow.content = "ssh"
    try:
        if connection.modbus is not None:
            _modbus(traffic, connection, packet, asking)
        elif connection.opcua is not None and asking:
            for message in connection.opcua.feed(packet.payload):
                flow.services[message.service] += 1
                if "policy" in message.about:
                    flow.policies.add(message.about["policy"][:64])
    except ValueError:  # what was taken for a protocol is none, or a piece is missing
        connection.modbus = connection.opcua = None


def _looks_modbus(payload: bytes, port: int) -> bool:
    if len(payload) < 8 or payload[2:4] != b"\0\0" or not 2 <= (payload[4] << 8 | payload[5]) <= 254:
        return False
    return port == 502 or len(payload) == 6 + (payload[4] << 8 | payload[5])


def _modbus(traffic: Traffic, connection: _Connection, packet: Seen, asking: bool) -> None:
    flow, conversation = connection.flow, connection.modbus
    assert conversation is not None
    if asking:
        for request, frame in conversation.asked(packet.seq, packet.payload):
            flow.functions[request.function] += 1
            server = traffic.hosts.get(flow.target)
            if server is not None and len(server.units) < 16:
                server.units.add(frame[6])
            if request.function in WRITES and request.address is not None and len(flow.written) < 4096:
                flow.written.add((request.address, request.address + max(1, request.count or 1) - 1))
    else:
        for answer in conversation.answered(packet.seq, packet.payload):
            server = traffic.hosts.get(flow.target)
            if server is not None:
                server.identity.update(identity_of(answer))


# -- a list of assets --------------------------------------------------------------------------------------------

#: column -> other names of it, in small letters
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "name": ("name", "asset", "asset name", "hostname", "host", "tag", "device", "device name"),
    "address": ("address", "ip", "ip address", "ipv4", "ip-address", "ip_address"),
    "zone": ("zone", "network segment", "segment", "area", "subnet", "cell"),
    "kind": ("kind", "type", "asset type", "device type", "class", "category"),
    "vendor": ("vendor", "manufacturer", "make"),
    "product": ("product", "model"),
    "firmware": ("firmware", "version", "firmware version", "os", "software version"),
    "criticality": ("criticality", "critical", "priority"),
    "cannot": ("cannot", "no means for", "unsupported"),
}
#: words of a list of assets -> kind of asset
KINDS: Final[tuple[tuple[str, str], ...]] = (
    (r"safety|\bsis\b|esd|\bbms\b|f-?plc", "safety_plc"),
    (r"\bplc\b|\bpac\b|\brtu\b|controller|\bdcs\b|\bied\b", "plc"),
    (r"\bhmi\b|operator (station|panel)|\bscada\b|panel", "hmi"),
    (r"opc", "opcua_server"),
    (r"historian|archive", "historian"),
    (r"engineering|\bews\b|workstation|programming", "workstation"),
    (r"jump|bastion|remote access|vpn", "jump_host"),
    (r"wireless|access point|wi-?fi|\bap\b", "access_point"),
    (r"tablet|mobile|handheld", "mobile_device"),
    (r"cellular|modem|\blte\b|\b[45]g\b", "cellular_router"),
    (r"siem|log (server|collector)", "siem"),
    (r"sensor|\bids\b|monitor", "monitor"),
    (r"domain controller|radius|auth|directory", "auth_server"),
    (r"\bca\b|\bpki\b|certificate", "certificate_authority"),
    (r"\bntp\b|time server|clock", "time_server"),
    (r"backup", "backup_server"),
    (r"\bdns\b|name server", "name_server"),
    (r"firewall", "firewall_manager"),
    (r"mail|exchange|smtp", "mail_server"),
    (r"\bups\b", "ups"),
    (r"\bpc\b|office|desktop|laptop|client", "office_pc"),
)


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of a list of assets, as text; ``line`` is where it stands."""

    line: int
    values: Mapping[str, str]


def assets_of(path: Path) -> list[Listed]:
    """Read a CSV list of assets; separators and names of columns as people have them.

    Raises DocumentError with every row that cannot be used.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise OtlabError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    if len(raw) > MAX_BYTES:
        raise OtlabError(f"{path}: more than {MAX_BYTES} bytes is no list of assets")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
    return parse_assets(text, str(path))


def parse_assets(text: str, file: str) -> list[Listed]:
    """``assets_of`` for text."""
    first = text.split("\n", 1)[0]
    separator = max((",", ";", "\t"), key=first.count)
    rows = list(_rows(text, separator, file))
    if not rows:
        raise DocumentError([Problem(file, 1, 1, "", "no heading")])
    heading = [_column(cell) for cell in rows[0][1]]
    if "address" not in heading:
        known = ", ".join(COLUMNS["address"])
        raise DocumentError([Problem(file, 1, 1, "", f"no column of addresses; call it one of {known}")])
    found: list[Listed] = []
    problems: list[Problem] = []
    holders: dict[str, int] = {}
    for line, cells in rows[1:]:
        if not any(cell.strip() for cell in cells):
            continue
        values = {
            column: cell.strip()
            for column, cell in zip(heading, cells, strict=False)
            if column and cell.strip()
        }
        address = values.get("address", "")
        try:
            values["address"] = str(ipaddress.IPv4Address(address))
        except ValueError:
            problems.append(Problem(file, line, 1, "address", f"{address!r} is no IPv4 address"))
            continue
        earlier = holders.setdefault(values["address"], line)
        if earlier != line:
            problems.append(Problem(file, line, 1, "address", f"{address} stands in line {earlier} already"))
            continue
        found.append(Listed(line, values))
    if problems:
        raise DocumentError(problems)
    return found


def _rows(text: str, separator: str, file: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DocumentError([Problem(file, max(1, reader.line_num), 1, "", f"not CSV: {error}")]) from None


def _column(cell: str) -> str:
    text = " ".join(cell.strip().lower().split())
    return next((column for column, names in COLUMNS.items() if text in names), "")


# -- the draft ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guess:
    """The kind of an asset that was guessed, and why."""

    kind: str
    why: str


def draft(traffic: Traffic | None, listed: Iterable[Listed] = (), prefix: int = 24) -> dict[str, Any]:
    """Zones, conduits and assets in a site's words, with the reasons; ``prefix`` is the length of a zone's network."""
    rows = {one.values["address"]: one.values for one in listed}
    seen = traffic if traffic is not None else Traffic()
    addresses = sorted(
        {*rows, *(one for one in seen.hosts if _is_v4(one))}, key=lambda one: int(ipaddress.IPv4Address(one))
    )
    zones = _zones(addresses, rows, prefix)
    names: dict[str, str] = {}
    for address in addresses:
        names[address] = _name(rows.get(address, {}).get("name", ""), address, names.values())
    assets = {names[one]: _asset(one, seen, rows.get(one, {}), zones[one]) for one in addresses}
    networks = {
        zone: {
            "title": f"{zone}: title it",
            "level": _level(assets[names[one]]["kind"] for one in addresses if zones[one] == zone),
            "network": _network([one for one in addresses if zones[one] == zone], prefix),
            "latency": 0.0002,
            "bandwidth": 1.0e8,
            "sl_t": 1,
        }
        for zone in dict.fromkeys(zones.values())
    }
    conduits, inside = _conduits(seen, names, zones)
    return {
        "about": _about(seen),
        "zones": networks,
        "conduits": conduits,
        "inside_zones": inside,
        "assets": assets,
        "questions": _questions(assets, conduits, seen, names),
    }


def _is_v4(address: str) -> bool:
    return "." in address


def _about(traffic: Traffic) -> dict[str, Any]:
    reading = traffic.reading
    return {
        "frames": reading.frames,
        "unreadable": reading.unreadable,
        "file_breaks_off": reading.cut,
        "seconds": round(traffic.seconds, 3),
        "left_out": traffic.left_out,
        "ipv6_hosts": sorted(one for one in traffic.hosts if not _is_v4(one)),
    }


def _zones(addresses: Iterable[str], rows: Mapping[str, Mapping[str, str]], prefix: int) -> dict[str, str]:
    """Zone of each address: as listed, else of its network."""
    by_network: dict[str, str] = {}
    for address, values in rows.items():
        if "zone" in values:
            network = str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))
            by_network.setdefault(network, _word(values["zone"], "zone"))
    found = {}
    for address in addresses:
        network = str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))
        listed = rows.get(address, {}).get("zone")
        found[address] = (
            _word(listed, "zone")
            if listed
            else by_network.get(network, "net-" + network.partition("/")[0].replace(".", "-"))
        )
    return found


def _network(addresses: list[str], prefix: int) -> str:
    """The smallest network of at most ``prefix`` bits that holds them."""
    network = ipaddress.IPv4Network(f"{addresses[0]}/{prefix}", strict=False)
    while not all(ipaddress.IPv4Address(one) in network for one in addresses):
        network = network.supernet()
    return str(network)


def _word(text: str, otherwise: str) -> str:
    word = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")
    return word if word[:1].isalpha() else f"{otherwise}-{word}".rstrip("-")


def _name(listed: str, address: str, taken: Iterable[str]) -> str:
    base = _word(listed, "host") if listed else "host-" + address.replace(".", "-")
    names, number, name = set(taken), 2, base
    while name in names:
        name, number = f"{base}-{number}", number + 1
    return name


def _asset(address: str, traffic: Traffic, values: Mapping[str, str], zone: str) -> dict[str, Any]:
    guess = _kind(address, traffic, values)
    host = traffic.hosts.get(address)
    identity = host.identity if host is not None else {}
    asset: dict[str, Any] = {"kind": guess.kind, "zone": zone, "address": address}
    for key, number in (("vendor", 0), ("product", 1), ("firmware", 2)):
        text = values.get(key) or identity.get(number, "")
        if text:
            asset[key] = text
    if values.get("criticality", "").lower() in ("low", "medium", "high"):
        asset["criticality"] = values["criticality"].lower()
    cannot = re.findall(r"SR \d\.\d{1,2}(?: RE \d)?", values.get("cannot", ""))
    if cannot:
        asset["cannot"] = cannot
    if host is not None and host.units and guess.kind == "plc":
        asset["unit_id"] = min(host.units)
    evidence: dict[str, Any] = {"kind": guess.why}
    if host is None:
        evidence["traffic"] = "listed, not seen in the capture" if traffic.reading.frames else "listed"
    else:
        evidence["traffic"] = "seen" + ("" if values else ", not listed")
        if host.macs:
            evidence["macs"] = sorted(host.macs)
        if host.vlans:
            evidence["vlans"] = sorted(host.vlans)
    asset["evidence"] = evidence
    return asset


def _kind(address: str, traffic: Traffic, values: Mapping[str, str]) -> Guess:
    text = " ".join(values.get(key, "") for key in ("kind", "product", "name")).lower().replace("_", " ")
    listed = values.get("kind", "").strip().lower().replace(" ", "_")
    if listed in {kind for _, kind in KINDS}:
        return Guess(listed, "listed so")
    for pattern, kind in KINDS:
        found = re.search(pattern, text)
        if found:
            return Guess(kind, f"the list says {found[0]!r}")
    served = [
        flow for flow in traffic.flows.values() if flow.target == address and flow.packets > flow.refused
    ]
    asked = [flow for flow in traffic.flows.values() if flow.source == address]
    for protocol, kind in SERVES.items():
        if any(flow.protocol == protocol and _spoken(flow) for flow in served):
            return Guess(kind, f"serves {protocol}")
    functions: Counter[int] = Counter()
    for flow in asked:
        functions.update(flow.functions)
    if functions.keys() & PROGRAMS:
        return Guess("workstation", "reads or writes files of controllers (functions 20, 21)")
    if functions.keys() & WRITES:
        return Guess("hmi", "writes to controllers")
    if functions:
        return Guess("hmi", "reads controllers, and never writes")
    services = {service for flow in asked for service in flow.services}
    if services & CHANGES:
        return Guess("workstation", "changes values at an OPC UA server")
    if any(flow.protocol == "opcua" for flow in asked):
        return Guess("historian", "reads an OPC UA server")
    if any(flow.protocol in ("rdp", "ssh") for flow in served):
        return Guess("workstation", "takes remote sessions")
    if any(flow.protocol in ("rdp", "ssh") for flow in asked):
        return Guess("jump_host", "opens remote sessions")
    return Guess("office_pc", "nothing tells; see what it is")


def _spoken(flow: FlowSeen) -> bool:
    """Whether a service really answered: content was read, or datagrams came, or more than an opening passed."""
    return bool(flow.content or flow.transport == "udp" or flow.size)


def _level(kinds: Iterable[str]) -> float:
    there = set(kinds)
    if there & {"plc", "safety_plc"}:
        return 1.0
    if there & {"hmi", "opcua_server", "historian", "workstation"}:
        return 3.0
    return 3.5 if "jump_host" in there else 4.0


def _conduits(
    traffic: Traffic, names: Mapping[str, str], zones: Mapping[str, str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    conduits: dict[str, Any] = {}
    inside: list[dict[str, Any]] = []
    for flow in traffic.flows.values():
        if flow.source not in names or flow.target not in names:
            continue
        entry = _entry(flow, names)
        first, last = zones[flow.source], zones[flow.target]
        if first == last:
            inside.append(entry)
            continue
        ends = sorted((first, last))
        conduit = conduits.setdefault(
            f"{ends[0]}_{ends[1]}",
            {
                "between": ends,
                "latency": 0.0001,
                "bandwidth": 1.0e8,
                "purpose": "seen in the capture; say what for",
                "flows": [],
            },
        )
        conduit["flows"].append(entry)
    return conduits, inside


def _entry(flow: FlowSeen, names: Mapping[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "source": names[flow.source],
        "target": names[flow.target],
        "port": flow.port,
        "protocol": flow.protocol or f"unknown ({flow.transport})",
    }
    if flow.functions:
        entry["functions"] = sorted(code for code in flow.functions if 1 <= code <= 127)
    spans = _joined(flow.written)
    if spans:
        entry["registers"] = [list(span) for span in spans]
    evidence: dict[str, Any] = {"packets": flow.packets, "bytes": flow.size}
    if flow.connections:
        evidence["connections"] = flow.connections
    if flow.refused:
        evidence["refused"] = flow.refused
    if flow.services:
        evidence["services"] = dict(sorted(flow.services.items()))
    if flow.policies:
        evidence["policies"] = sorted(flow.policies)
    return {**entry, "evidence": evidence}


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that touch, as one."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def _questions(
    assets: Mapping[str, Any], conduits: Mapping[str, Any], traffic: Traffic, names: Mapping[str, str]
) -> list[str]:
    found = [
        f"{name}: what is it? {one['evidence']['kind']}"
        for name, one in assets.items()
        if "nothing tells" in one["evidence"]["kind"]
    ]
    found += [
        f"{name}: seen in the capture and on no list"
        for name, one in assets.items()
        if one["evidence"]["traffic"].endswith("not listed")
        and any(other["evidence"]["traffic"] != one["evidence"]["traffic"] for other in assets.values())
    ]
    for name, conduit in conduits.items():
        for flow in conduit["flows"]:
            if set(flow.get("functions", ())) & (WRITES | PROGRAMS):
                found.append(
                    f"{name}: {flow['source']} commands or programs {flow['target']}; is it meant to?"
                )
            if flow["protocol"].startswith("unknown"):
                found.append(f"{name}: what is port {flow['port']} of {flow['target']}?")
    for flow in traffic.flows.values():
        if flow.protocol == "opcua" and "None" in flow.policies and flow.source in names:
            found.append(
                f"{names[flow.source]} speaks OPC UA without security to {names.get(flow.target, flow.target)}"
            )
    return found


# -- beside a site -----------------------------------------------------------------------------------------------


def unknown_to(site: Site, traffic: Traffic) -> list[str]:
    """What a capture shows and the site's file does not: hosts, flows, Modbus functions, products. A sentence each."""
    by_address = {asset.address: name for name, asset in site.assets.items()}
    gateways = {str(zone.network[1]) for zone in site.zones.values() if zone.network.num_addresses > 1}
    found = [
        f"host {address} is no asset of the site"
        for address in traffic.hosts
        if address not in by_address and address not in gateways
    ]
    documented: dict[tuple[str, str, int], set[int] | None] = {}
    for conduit in site.conduits.values():
        for flow in conduit.flows:
            key = (flow.source, flow.target, flow.port)
            functions = None if flow.functions is None else set(flow.functions)
            known = documented.get(key, set())
            documented[key] = None if functions is None or known is None else known | functions
    for seen in traffic.flows.values():
        source, target = by_address.get(seen.source), by_address.get(seen.target)
        if source is None or target is None:
            continue
        if site.assets[source].zone == site.assets[target].zone:
            continue
        what = f"{source} to {target} port {seen.port} ({seen.protocol or seen.transport})"
        if (source, target, seen.port) not in documented:
            found.append(f"flow {what} is in no conduit's list")
            continue
        functions = documented[(source, target, seen.port)]
        extra = sorted(set(seen.functions) - functions) if functions is not None else []
        if extra:
            found.append(f"flow {what} uses functions {', '.join(map(str, extra))} beyond its list")
    for address, host in traffic.hosts.items():
        name = by_address.get(address)
        if name is None or not host.identity:
            continue
        asset = site.assets[name]
        for part, number in (("vendor", 0), ("product", 1), ("firmware", 2)):
            stated, says = getattr(asset, part), host.identity.get(number)
            if stated and says and stated != says:
                found.append(f"{name} says its {part} is {says!r}; the site's file says {stated!r}")
    return found

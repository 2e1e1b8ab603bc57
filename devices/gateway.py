"""The OPC UA server's plant side: it polls PLCs by Modbus and passes clients' writes on to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from devices.audit import Audit
from devices.modbus import ModbusClient, Refusal
from devices.opcua import PlantServer
from devices.opcua_model import UaTag
from devices.poller import StationPoller, checksum_address
from devices.registers import Table
from testbed.network import Host
from testbed.site import Controller, OpcUaServer, Tag


class Gateway:
    """One OPC UA server on ``host`` in front of some PLCs; ``server`` carries the security seams."""

    def __init__(
        self,
        host: Host,
        name: str,
        asset: OpcUaServer,
        plcs: Mapping[str, Controller],
        connect: Callable[[str], ModbusClient],
    ) -> None:
        self.host, self.name, self.asset = host, name, asset
        self.loop = host.network.loop
        self.connect = connect
        self.audit = Audit(name)
        #: PLCs that publish a checksum, which is then checked
        self.verify_checksums: frozenset[str] = frozenset()
        self._plcs = plcs
        self._where: dict[str, tuple[str, Tag]] = {}
        tags = []
        for plc in asset.polls:
            for tag in asset.exposes.get(plc, ()):
                description = plcs[plc].tags[tag]
                self._where[tag] = (plc, description)
                tags.append(_ua_tag(plc, tag, description, tag in asset.writable.get(plc, ())))
        self.server = PlantServer(host, tags, self._write, port=asset.port)
        self.clients: dict[str, ModbusClient] = {}

    def start(self) -> None:
        """Begin to serve and to poll."""
        self.server.on_event = lambda kind, data: self.audit(kind, **data)
        self.host.spawn(self._run(), "opc ua server")
        for plc, period in self.asset.polls.items():
            self.clients[plc] = self.connect(plc)
            mine = {tag: description for tag, (owner, description) in self._where.items() if owner == plc}
            checksum_at = checksum_address(self._plcs[plc].tags.values())
            poller = StationPoller(
                self.clients[plc], mine, checksum_at=checksum_at, verify=plc in self.verify_checksums
            )
            self.host.spawn(self._poll(plc, period, poller), f"poll {plc}")

    async def _run(self) -> None:
        await self.server.start()

    async def _poll(self, plc: str, period: float, poller: StationPoller) -> None:
        known: dict[str, float] = {}
        update = self.server.update
        # A quarter of a period away from stations that poll at whole seconds: a PLC serves one request at a time.
        due = self.loop.time() + period / 4
        await self.loop.until(due)
        while True:
            values = await poller.poll()
            if values is not None:
                for tag, value in values.items():
                    if known.get(tag) != value:
                        known[tag] = value
                        update(tag, value)
            elif known:
                for tag, value in known.items():
                    update(tag, value, good=False)
                known = {}
            due = max(due + period, self.loop.time())
            await self.loop.until(due)

    async def _write(self, tag: UaTag, value: float) -> bool:
        plc, description = self._where[tag.name]
        try:
            answer = await self.clients[plc].write(
                Table(description.table), description.address, description.encode(value)
            )
        except (TimeoutError, ConnectionError):
            return False
        return not isinstance(answer, Refusal)


def _ua_tag(plc: str, name: str, tag: Tag, writable: bool) -> UaTag:
    bits = tag.table in (Table.COIL, Table.DISCRETE)
    low, high = tag.range if tag.range is not None else (None, None)
    limits = tag.alarms.limits if tag.alarms is not None else {}
    return UaTag(
        name, plc, "bool" if bits else "float", tag.unit, writable, low, high, tag.description, limits
    )

"""The engineering workstation: it reads and downloads a PLC's program and changes its mode, over the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from devices.audit import Audit
from devices.modbus import ModbusClient, Refusal
from devices.plc import ACTIVATE, MODE, PROGRAM_FILE, SIGNATURE, SYSTEM, Mode
from devices.registers import Table
from testbed.errors import OtlabError
from testbed.network import Host

#: Records per request that both function 20 and function 21 can carry with room to spare.
CHUNK = 100


class EngineeringError(OtlabError):
    """The PLC refused an engineering action, or answered it with what cannot be."""


class Workstation:
    """Engineering software on ``host``; ``connect`` makes a Modbus client to a PLC by name.

    ``sign``, a seam, makes the signature that goes with a download; by default there is none. ``approve``, a seam, asks
    a second person about what would change a PLC (which one, "mode" or "program"). Every action raises
    EngineeringError if the PLC refuses to be read, and TimeoutError or ConnectionError as the client does.
    """

    def __init__(self, host: Host, name: str, connect: Callable[[str], ModbusClient]) -> None:
        self.host, self.name = host, name
        self.connect = connect
        self.audit = Audit(name)
        self.sign: Callable[[str], bytes] = lambda _source: b""
        self.approve: Callable[[str, str], Awaitable[bool]] | None = None
        #: called with PLC and source when a program was loaded from here
        self.on_loaded: list[Callable[[str, str], None]] = []

    async def mode(self, plc: str) -> Mode:
        """The PLC's present mode."""
        return await read_mode(self.connect(plc))

    async def set_mode(self, plc: str, mode: Mode) -> bool:
        """Ask for a mode; True if the PLC is in it afterwards."""
        if not await self._approved(plc, "mode"):
            return False
        return await change_mode(self.connect(plc), mode)

    async def read_program(self, plc: str) -> str:
        """Upload the source of the program that runs."""
        return await upload(self.connect(plc))

    async def download(self, plc: str, source: str) -> bool:
        """Stop the PLC, load ``source`` and start it again; True if the PLC took the program."""
        if not await self._approved(plc, "program"):
            return False
        taken = await download(self.connect(plc), source, self.sign(source))
        self.audit("program.download", plc=plc, taken=taken)
        if taken:
            for told in self.on_loaded:
                told(plc, source)
        return taken

    async def _approved(self, plc: str, what: str) -> bool:
        if self.approve is None or await self.approve(plc, what):
            return True
        self.audit("change.denied", plc=plc, what=what)
        return False


async def read_mode(client: ModbusClient) -> Mode:
    """Read the mode register."""
    value = _known(await client.read(Table.INPUT, SYSTEM, 1))[0]
    try:
        return Mode(value)
    except ValueError:
        raise EngineeringError(f"the PLC reports a mode that does not exist: {value}") from None


async def change_mode(client: ModbusClient, mode: Mode) -> bool:
    """Write the mode request; a refusal or another mode afterwards is False."""
    if await client.write(Table.HOLDING, MODE, [int(mode)]) is not None:
        return False
    return await read_mode(client) is mode


async def upload(client: ModbusClient) -> str:
    """Read the program file; EngineeringError if the PLC refuses."""
    length = _known(await client.read(Table.INPUT, SYSTEM + 5, 1))[0]
    records: list[int] = []
    while len(records) * 2 < length:
        count = min(CHUNK, (length + 1) // 2 - len(records))
        records += _known(await client.read_file(PROGRAM_FILE, len(records), count))
    return b"".join(record.to_bytes(2, "big") for record in records)[:length].decode("utf-8", "replace")


async def download(client: ModbusClient, source: str, signature: bytes = b"") -> bool:
    """Program mode, write the file, activate, run mode: True if the PLC then reports one more download."""
    before = _known(await client.read(Table.INPUT, SYSTEM + 6, 1))[0]
    if not await change_mode(client, Mode.PROGRAM):
        return False
    raw = source.encode()
    padded = raw + b"\0" * (len(raw) % 2)
    records = [int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2)]
    for start in range(0, len(records), CHUNK):
        if await client.write_file(PROGRAM_FILE, start, records[start : start + CHUNK]) is not None:
            await change_mode(client, Mode.RUN)
            return False
    if signature:
        words = [
            int.from_bytes(signature[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(signature), 2)
        ]
        await client.write(Table.HOLDING, SIGNATURE, words)
    refused = await client.write(Table.HOLDING, ACTIVATE, [len(raw)])
    after = _known(await client.read(Table.INPUT, SYSTEM + 6, 1))[0]
    running = await change_mode(client, Mode.RUN)
    return refused is None and after != before and running


def _known(answer: list[int] | Refusal) -> list[int]:
    if isinstance(answer, Refusal):
        raise EngineeringError(f"the PLC refused: {answer}")
    return answer

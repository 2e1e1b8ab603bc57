"""Standing between two machines: messages that do not arrive, and answers of an hour ago.

ATT&CK for ICS T0803, T0804, T0830, T0832 and T0856. Forging single values is ``spoof`` in ``scenarios.steps.wire``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Literal

from scenarios.attack import Attack, Seconds, Step
from scenarios.steps.commands import lacks_assets, lacks_tags
from testbed.network import Packet
from testbed.site import Name, Site

#: Modbus functions that command: writes of coils and registers.
WRITES = frozenset({5, 6, 15, 16, 22, 23})


class _Between(Step):
    plc: Name
    reader: Name
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, ())
        yield from lacks_assets(site, self.reader)

    def ends(self, attack: Attack) -> tuple[str, str]:
        """Addresses of the reader and the PLC."""
        hosts = attack.world.network.hosts
        return hosts[self.reader].address, hosts[self.plc].address


class BlockMessages(_Between):
    """Swallow what ``reader`` commands the PLC (T0803) or what the PLC reports to it (T0804)."""

    action: Literal["block_messages"]
    what: Literal["commands", "reports"]

    async def carry_out(self, attack: Attack) -> None:
        reader, plc = self.ends(attack)
        swallowed = 0

        def judge(packet: Packet) -> bytes | None:
            nonlocal swallowed
            payload = packet.payload
            if self.what == "reports":
                hit = packet.source == plc and bool(payload)
            else:
                hit = packet.target == plc and len(payload) > 7 and payload[7] in WRITES
            swallowed += hit
            return None if hit else payload

        if not attack.host.interpose(reader, plc, judge):
            attack.note(self, "refused", target=self.reader, reason="ARP replies refused")
            return
        await asyncio.sleep(self.lasting)
        attack.host.withdraw(reader, plc)
        attack.note(self, "done" if swallowed else "refused", target=self.plc, swallowed=swallowed)


class RecordAndLoop(_Between):
    """Record what the PLC answers for ``recording`` s, then show the reader that again, over and over.

    Requests go on to the PLC; only its answers are replaced, by one of the same request. Encrypted traffic has
    answers of its own each time, which the reader then takes for tampering.
    """

    action: Literal["record_and_loop"]
    recording: Seconds

    async def carry_out(self, attack: Attack) -> None:
        loop = attack.world.loop
        reader, plc = self.ends(attack)
        tape: dict[bytes, list[bytes]] = {}
        asked: dict[tuple[int, bytes], bytes] = {}
        turn: dict[bytes, int] = {}
        begin = loop.time() + self.recording
        replayed = unreadable = 0

        def judge(packet: Packet) -> bytes:
            nonlocal replayed, unreadable
            payload = packet.payload
            if len(payload) < 8:
                return payload
            if payload[2:4] != b"\0\0":
                unreadable += 1
                return payload
            port = packet.source_port if packet.target == plc else packet.target_port
            if packet.target == plc:
                if payload[7] <= 4:
                    asked[(port, payload[:2])] = payload[6:]
                return payload
            request = asked.pop((port, payload[:2]), None)
            if request is None:
                return payload
            if loop.time() < begin:
                tape.setdefault(request, []).append(payload[2:])
                return payload
            recorded = tape.get(request)
            if not recorded:
                return payload
            number = turn.get(request, 0)
            turn[request] = number + 1
            old = recorded[number % len(recorded)]
            if len(old) != len(payload) - 2:
                return payload
            replayed += 1
            return payload[:2] + old

        if not attack.host.interpose(reader, plc, judge):
            attack.note(self, "refused", target=self.reader, reason="ARP replies refused")
            return
        attack.note(self, "interposed", target=self.reader)
        await asyncio.sleep(self.recording)
        attack.note(
            self, "recorded" if tape else "refused", target=self.reader, answers=sum(map(len, tape.values()))
        )
        end, told = loop.time() + self.lasting, False
        while loop.time() < end:
            await asyncio.sleep(5.0)
            if replayed and not told:
                told = True
                attack.note(self, "done", target=self.reader)
            elif not replayed and unreadable and not tape:
                attack.note(self, "refused", target=self.reader, reason="traffic cannot be read")
                break
        attack.host.withdraw(reader, plc)
        attack.note(self, "withdrawn", target=self.reader, replayed=replayed)

"""A second opinion on the network: configuration and rules for Suricata, written from a site's documented flows.

The rules say in Suricata's language what the site's own monitor is told: who may talk to a controller, who may write,
who may load programs, and which values are out of range. They are for judging a capture from outside, or to begin a
real installation with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from devices.monitor import SCAN, SCAN_WITHIN, WRITES, KnownFlow
from devices.world import World

#: Rules of one site are numbered from here: the range that Emerging Threats leaves to local rules.
FIRST_SID = 1_000_001
_PROGRAM = (20, 21)
#: Suricata calls functions that change a value "write"; it names these no table.
_VALUE_WRITES = WRITES - {21}

CONFIG = """\
%YAML 1.1
---
vars:
  address-groups:
    HOME_NET: "[{home}]"
    EXTERNAL_NET: "any"
outputs:
  - eve-log:
      enabled: yes
      filetype: regular
      filename: eve.json
      types:
        - alert
app-layer:
  protocols:
    modbus:
      enabled: yes
      detection-ports:
        dp: 502
      stream-depth: 0
stream:
  checksum-validation: no
  midstream: true
  async-oneside: true
"""


def config_of(world: World) -> str:
    """The configuration: an event log of alerts, and Modbus read on its port (off by default)."""
    return CONFIG.format(home=", ".join(str(zone.subnet) for zone in world.network.zones.values()))


def rules_of(world: World) -> str:
    """The rules, one a line."""
    lines = [f"# Rules for the site {world.site.title!r}, from its documented flows."]
    for sid, (action, body) in enumerate(_rules(world), FIRST_SID):
        lines.append(f"alert {action} ({body}; sid:{sid}; rev:1;)")
    return "\n".join(lines) + "\n"


def write(world: World, folder: Path) -> tuple[Path, Path]:
    """Write both into ``folder``; returns their paths, configuration first. OSError as the disk has it."""
    folder.mkdir(parents=True, exist_ok=True)
    config, rules = folder / "suricata.yaml", folder / "otlab.rules"
    config.write_text(config_of(world), encoding="utf-8")
    rules.write_text(rules_of(world), encoding="utf-8")
    return config, rules


def _rules(world: World) -> Iterator[tuple[str, str]]:
    flows = world.baseline()
    ranges = world.register_ranges()
    for name, controller in world.plcs.items():
        address, port = controller.host.address, controller.seams.port
        mine = [flow for flow in flows if flow.target == address and flow.port == port]
        to = f"-> {address} {port}"
        yield (
            f"tcp {_others(mine)} any {to}",
            f'msg:"OTLAB new flow to {name}"; flow:to_server; flags:S,CE; threshold:type limit,track by_src,count 1,'
            f"seconds 300",
        )
        if port != 502:
            continue
        writers = [flow for flow in mine if flow.functions is None or flow.functions & _VALUE_WRITES]
        yield (
            f"modbus {_others(writers)} any {to}",
            f'msg:"OTLAB write to {name} by somebody who only reads"; modbus:access write',
        )
        loaders = [flow for flow in mine if flow.functions is None or flow.functions & set(_PROGRAM)]
        for function in _PROGRAM:
            yield (
                f"modbus {_others(loaders)} any {to}",
                f'msg:"OTLAB program transfer with {name}"; modbus:function {function}',
            )
        for sub in (1, 4):
            yield (
                f"modbus any any {to}",
                f'msg:"OTLAB {name} taken off line"; modbus:function 8, subfunction {sub}',
            )
        for (device, register), (low, high) in ranges.items():
            if device == address:
                for bound in (f"<{low}" if low else None, f">{high}" if high < 65535 else None):
                    if bound is not None:
                        yield (
                            f"modbus any any {to}",
                            f'msg:"OTLAB value out of range at {name}";'
                            f" modbus:access write holding, address {register}, value {bound}",
                        )
    # Those who talk to many hosts by their task open few connections a minute; a scan opens one for every door.
    yield (
        "tcp any any -> any any",
        f'msg:"OTLAB scan"; flags:S,CE; threshold:type both,track by_src,count {3 * SCAN},seconds {SCAN_WITHIN:.0f}',
    )
    yield (
        "modbus any any -> any any",
        'msg:"OTLAB not Modbus"; app-layer-event:modbus.invalid_protocol_id',
    )


def _others(flows: Iterable[KnownFlow]) -> str:
    known = sorted({flow.source for flow in flows})
    return f"![{','.join(known)}]" if known else "any"

"""A site's file is checked down to the last name, and the shipped site is one that runs."""

from __future__ import annotations

import json
import pickle
import random
import re
from collections.abc import Iterator
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from devices.logic import ProgramInstance, compile_program
from testbed.document import parse
from testbed.errors import DocumentError, Problem, UnknownNameError
from testbed.plant import Sensor
from testbed.site import Plc, SafetyPlc, Site, SLVector, Tag, load_site, site_names, site_schema
from testbed.units import from_si
from testbed.water import WATER_SENSORS, WaterPlant

WATER = load_site("water")
TEXT = (WATER.folder / "site.yaml").read_text()
PLANT = WaterPlant(stream=random.Random(0))
# The safety PLC's trips are relays wired past the plant's own commands, one for each.
TRIPS = tuple(f"TRIP_{command}" for command in PLANT.commands)


def read(text: str) -> Site:
    return parse(text, "site.yaml", Site, context={"folder": WATER.folder})


def problems_of(text: str) -> tuple[Problem, ...]:
    """What is wrong with a site's text, beside the water site's logic files; empty when nothing is."""
    try:
        read(text)
    except DocumentError as error:
        return error.problems
    return ()


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


# ----------------------------------------------------------------------------------------- the shipped site


def test_the_shipped_site_loads_by_name_and_by_path_without_a_warning() -> None:
    assert "water" in site_names()
    assert WATER.warnings == []
    assert load_site(WATER.folder) == load_site(WATER.folder / "site.yaml") == WATER
    assert load_site("water") is WATER


def test_the_shipped_site_agrees_with_its_plant_model() -> None:
    site = load_site("water", signals=PLANT.signals)
    for spec in WATER_SENSORS:
        ours = site.plant.sensors[spec.name].spec(spec.name)
        assert astuple(ours)[:2] == astuple(spec)[:2]
        assert astuple(ours)[2:] == pytest.approx(astuple(spec)[2:])
    assert len(site.plant.sensors) == len(WATER_SENSORS)
    assert site.essential_functions.safety.envelope == dict(PLANT.envelope)
    driven = {tag.command for plc in site.controllers().values() for tag in plc.tags.values() if tag.command}
    assert driven - set(TRIPS) == set(PLANT.commands)
    assert {tag.command for tag in site.controllers()["sis1"].tags.values() if tag.command} <= set(TRIPS)


def test_the_shipped_site_keeps_the_office_two_conduits_away_from_the_plcs() -> None:
    assert WATER.route("enterprise", "dmz") == ("office_dmz",)
    assert WATER.route("enterprise", "control") == ("office_dmz", "dmz_operations", "operations_control")
    assert WATER.route("control", "control") == ()
    assert WATER.route("control", "nowhere") is None


def test_a_site_reaches_a_worker_process_unchanged() -> None:
    again = pickle.loads(pickle.dumps(WATER))
    assert again == WATER
    assert again.folder == WATER.folder


def test_the_schema_accepts_the_shipped_site_and_refuses_a_broken_one() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema judges the schema and is not installed")
    judge = jsonschema.Draft202012Validator(site_schema())
    document = YAML(typ="safe", pure=True).load(TEXT)
    document["epoch"] = str(document["epoch"])
    judge.validate(document)
    del document["assets"]["plc1"]["tags"]["MV101"]["table"]
    assert not judge.is_valid(document)


def test_the_schema_is_json_that_knows_every_kind_of_asset() -> None:
    schema = json.loads(json.dumps(site_schema(), allow_nan=False))
    assets = schema["properties"]["assets"]
    [variants] = assets.get("patternProperties", {"": assets.get("additionalProperties")}).values()
    kinds = {asset.kind for asset in WATER.assets.values()}
    assert kinds == set(variants["discriminator"]["mapping"])


def test_names_that_do_not_exist_say_what_does() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'water'"):
        load_site("watr")
    with pytest.raises(DocumentError, match="cannot be read"):
        load_site("nowhere/site.yaml")
    with pytest.raises(UnknownNameError, match="did you mean 'plc1'"):
        WATER.logic("plc11")
    with pytest.raises(UnknownNameError, match="did you mean 'LIT101'"):
        WATER.tag("plc1", "LIT11")
    with pytest.raises(UnknownNameError, match="did you mean 'view'"):
        WATER.essential_functions["veiw"]


def test_the_site_of_the_how_to_loads_without_a_warning_and_its_logic_compiles(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "describe-a-site.md").read_text()
    [text] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "site.yaml").write_text(text)
    for name, logic in re.findall(r"`(\w+\.st)`\n\n```iecst\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(logic)
    site = load_site(tmp_path, signals=PLANT.signals, commands=(*PLANT.commands, *TRIPS))
    assert site.warnings == []
    for name, controller in site.controllers().items():
        assert controller.tags.keys() <= compile_program(site.logic(name)).variables.keys()


# ----------------------------------------------------------------------------------------- mistakes, one by one


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        ("model: water", "model: watr", "plant.model", "did you mean 'water'"),
        ("zone: enterprise", "zone: enterprize", "assets.corp1.zone", "did you mean 'enterprise'"),
        ("between: [enterprise, dmz]", "between: [enterprise, dmx]", "conduits.office_dmz.between[1]", "dmz"),
        ("address: 10.0.4.12", "address: 10.0.4.11", "assets.plc2.address", "already the address of 'plc1'"),
        ("address: 10.0.4.12", "address: 10.0.5.12", "assets.plc2.address", "outside 10.0.4.0/24"),
        ("address: 10.0.4.12", "address: 10.0.4.255", "assets.plc2.address", "not a host in it"),
        ("address: 10.0.4.12", "address: 10.0.4.012", "assets.plc2.address", "10.0.4.012"),
        ("10.0.1.0/24", "10.0.1.1/24", "zones.enterprise.network", "host bits set"),
        ("10.0.1.0/24", "10.0.1.10", "zones.enterprise.network", "CIDR"),
        ("sl_t: 1", "sl_t: 5", "zones.enterprise.sl_t", "0 to 4, got 5"),
        ("UC: 3, ", "", "zones.control.sl_t.UC", "missing key"),
        ("source: corp1", "source: corp2", "conduits.office_dmz.flows[0].source", "did you mean 'corp1'"),
        ("source: corp1", "source: plc1", "conduits.office_dmz.flows[0]", "does not cross this conduit"),
        ("siem1, port: 514", "siem1, port: 515", "conduits.dmz_operations.flows[2].port", "at port 514"),
        ("protocol: https", "protocol: modbus", "conduits.dmz_operations.flows[1].target", "not a PLC"),
        ("[[3, 8]", "[[8, 3]", "conduits.operations_control.flows[1].registers[0]", "above the high end"),
        ("protocol: https", "protocol: https, functions: [3]", "conduits.dmz_operations.flows[1]", "of modbus only"),
        ("LSLL101: {table: discrete, address: 1,", "LSLL101: {table: discrete, address: 0,",
         "assets.sis1.tags.LSLL101.address", "already 'LSHH101'"),
        ("FIT101: {table: input, address: 1,", "FIT101: {table: input, format: uint32, address: 65535,",
         "assets.plc1.tags.FIT101", "past address 65535"),
        ("command: P102", "command: P101", "assets.plc1.tags.P102.command", "already driven by plc1.P101"),
        ("command: P102", "command: P102, writable: true, signal: LIT101", "assets.plc1.tags.P102", "neither"),
        ("address: 104, writable: true", "address: 104, format: bool", "assets.plc1.tags.HMI_BEAT", "cannot hold bool"),
        ("LL: 250, L: 450", "LL: 550, L: 450", "assets.plc1.tags.LIT101.alarms", "LL 550 is not below L 450"),
        ("scale: 0.1\n", "scale: 0\n", "assets.plc1.tags.LIT101.scale", "must be above 0"),
        ("range: [300, 1100]", "range: [300, 9000]", "assets.plc1.tags.LIT101_L_SP", "does not fit uint16"),
        ("range: [300, 1100]", "range: [600, 1100]", "assets.plc1.tags.LIT101_L_SP", "outside the range"),
        ("unit: mm\n", "unit: m m\n", "assets.plc1.tags.LIT101.unit", "unknown unit"),
        ("logic: plc1.st", "logic: plc9.st", "assets.plc1.logic", "no file 'plc9.st'"),
        ("logic: plc1.st", "logic: ../plc1.st", "assets.plc1.logic", "match pattern"),
        ("tags: [LIT301]}", "tags: [LIT31]}", "assets.plc1.peers.plc3.tags[0]", "did you mean 'LIT301'"),
        ("plc3: {every: 2", "hmi1: {every: 2", "assets.plc1.peers.hmi1", "not a PLC"),
        ("plc3: {every: 2", "plc1: {every: 2", "assets.plc1.peers.plc1", "its own peer"),
        ("tag: HMI_BEAT, every", "tag: LIT101, every", "assets.hmi1.heartbeat.tag", "does not let LIT101 be written"),
        ("sis1: 2}", "sis2: 2}", "assets.hmi1.polls.sis2", "did you mean 'sis1'"),
        ("AIT203, MV201, P201", "AIT203, MV20, P201", "assets.opcua1.exposes.plc2[4]", "did you mean 'MV201'"),
        ("      plc1: [LIT101_L_SP,", "      plc1: [LIT101,", "assets.opcua1.writable.plc1[0]", "does not let LIT101"),
        ("server: opcua1", "server: hmi1", "assets.hist1.server", "not an OPC UA server"),
        ("programs: [plc1", "programs: [hmi1", "assets.ews1.programs[0]", "not a PLC"),
        ("taps: [control,", "taps: [contrl,", "assets.mon1.taps[0]", "did you mean 'control'"),
        ("siem: siem1", "siem: hmi1", "assets.mon1.siem", "not a SIEM"),
        ("kind: siem,", "kind: sime,", "assets.siem1.kind", "did you mean 'siem'"),
        ("  control_safety:", "  safety:", "conduits.safety", "already the name of a zone"),
        ("tag: HMI_BEAT, deadline", "tag: HMI_BEET, deadline", "essential_functions.control.tag", "HMI_BEAT"),
        ("    asset: sis1\n", "    asset: plc1\n", "essential_functions.safety.asset", "not a safety PLC"),
        ("  production: {", "  producton: {", "essential_functions.producton", "did you mean 'production'"),
        ("T06:00:00Z", "T06:00:00", "epoch", "timezone"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_once_with_its_key_and_line(old: str, new: str, key: str, message: str) -> None:
    [problem] = problems_of(changed(old, new))
    assert (problem.key, problem.line) == (key, TEXT[: TEXT.index(old)].count("\n") + 1)
    assert message in problem.message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "between: [enterprise, dmz]",
            "between: [dmz, dmz]",
            {"zones.enterprise": "no conduit reaches", "conduits.office_dmz.between": "with itself"},
        ),
        (
            "network: 10.0.2.0/24",
            "network: 10.0.1.128/25",
            {
                "zones.dmz.network": "overlaps 10.0.1.0/24",
                "assets.jump1.address": "outside 10.0.1.128/25",
                "assets.mail1.address": "outside 10.0.1.128/25",
            },
        ),
        (
            "  control: {asset: hmi1",
            "  control: {asset: hmi2",
            {"essential_functions.control.asset": "did you mean 'hmi1'"},
        ),
        (
            "signal: T101.level, unit: mm",
            "signal: T101.levle, unit: mm",
            {"plant.sensors.LIT101.signal": "did you mean 'T101.level'"},
        ),
        (
            "signal: MV201.position",
            "signal: MV20.position",
            {"assets.plc2.tags.MV201_OPEN.signal": "did you mean 'MV201.position'"},
        ),
        ("command: P205", "command: P25", {"assets.plc2.tags.P205.command": "did you mean 'P205'"}),
        (
            "signal: UF.product_flow",
            "signal: UF.flow",
            {"essential_functions.production.signal": "did you mean 'UF.waste_flow'"},
        ),
        (
            "T301.ph: [6.5",
            "T301.hp: [6.5",
            {"essential_functions.safety.envelope.T301.hp": "did you mean 'T301.ph'"},
        ),
    ],
)
def test_a_mistake_that_breaks_several_rules_is_told_by_each(
    old: str, new: str, expected: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "site.yaml").write_text(changed(old, new))
    for program in WATER.folder.glob("*.st"):
        (tmp_path / program.name).write_bytes(program.read_bytes())
    with pytest.raises(DocumentError) as caught:
        load_site(tmp_path, signals=PLANT.signals, commands=(*PLANT.commands, *TRIPS))
    told = {problem.key: problem.message for problem in caught.value.problems}
    assert told.keys() == expected.keys()
    assert all(text in told[key] for key, text in expected.items())


@pytest.mark.parametrize("missing", ["view", "control", "safety", "production"])
def test_every_site_names_all_four_essential_functions(missing: str) -> None:
    head, _, tail = TEXT.partition("essential_functions:\n")
    blocks = re.split(r"(?m)^(?=  \w)", tail)
    kept = "".join(block for block in blocks if not block.startswith(f"  {missing}:"))
    [problem] = problems_of(f"{head}essential_functions:\n{kept}")
    assert (problem.key, problem.message) == (f"essential_functions.{missing}", "missing key")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    safety: true\n", "", "assets.sis1.zone: a safety PLC in zone 'safety', which is no safety zone"),
        ("level: 3.5,", "level: 3,", "conduits.office_dmz: joins a business zone"),
        (
            "source: sis1, target: siem1",
            "source: plc1, target: siem1",
            "conduits.control_safety.flows.3: conduit 'operations_control' on the way does not list this flow",
        ),
        ("HH: 1200, deadband: 10", "HH: 1700, deadband: 10", "assets.plc1.tags.LIT101.alarms.HH: 1700 is outside"),
    ],
)  # fmt: skip
def test_what_is_allowed_but_hardly_meant_is_a_warning(old: str, new: str, expected: str) -> None:
    [warning] = read(changed(old, new)).warnings
    assert warning.startswith(expected)


def test_a_poll_that_no_conduit_lets_through_is_a_warning() -> None:
    lines = [line for line in TEXT.splitlines() if "source: opcua1, target: plc3" not in line]
    [warning] = read("\n".join(lines)).warnings
    assert warning.startswith("assets.opcua1: talks to 'plc3'")


# ----------------------------------------------------------------------- mistakes at every place of the file


class Place(NamedTuple):
    """One key of the file: its path, and where key, value and the mapping's own key are in the text."""

    path: tuple[str, ...]
    key: ScalarNode
    value: Node
    holder_line: int
    flow: bool


# Mappings whose keys the user chooses: a misspelled one is simply another name.
FREE = re.compile(
    r"plant(\.initial|\.sensors)|zones|conduits|switches|assets"
    r"|assets\.\w+\.(tags|peers|polls|exposes|writable|responses|reads|mailboxes)"
    r"|essential_functions\.(view\.tags|safety\.envelope)"
)


def places(node: Node, path: tuple[str, ...] = (), line: int = 1) -> Iterator[Place]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield Place((*path, key.value), key, value, line, bool(node.flow_style))
            yield from places(value, (*path, key.value), key.start_mark.line + 1)
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield from places(item, (*path, f"[{index}]"), item.start_mark.line + 1)


def dotted(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[", "[")


def distinct_places() -> list[Place]:
    """The first place of each kind: names that the user chose and indexes count as one."""
    first: dict[str, Place] = {}
    root = YAML(typ="safe", pure=True).compose(TEXT)
    for place in places(root, line=root.start_mark.line + 1):
        if not FREE.fullmatch(dotted(place.path[:-1])):
            kind = re.sub(r"\[\d+\]", "[]", dotted(place.path))
            kind = re.sub(r"^(zones|conduits|plant\.sensors)\.\w+", r"\1", kind)
            kind = re.sub(r"^assets\.\w+(\.(tags|peers|responses)\.[\w:]+)?", r"asset\2", kind)
            first.setdefault(kind, place)
    return list(first.values())


PLACES = distinct_places()


def sample(kept: list[Place]) -> list[Any]:
    """An eighth of the places always, because each reads the whole file again; all with the slow checks."""
    return [
        pytest.param(place, id=dotted(place.path), marks=() if index % 8 == 0 else pytest.mark.slow)
        for index, place in enumerate(kept)
    ]


@pytest.mark.parametrize("place", sample(PLACES))
def test_a_misspelled_key_is_one_problem_on_its_line(place: Place) -> None:
    end = place.key.end_mark.index
    [problem] = problems_of(f"{TEXT[:end]}x{TEXT[end:]}")
    assert (problem.line, problem.key) == (place.key.start_mark.line + 1, dotted(place.path) + "x")
    assert problem.message.startswith(f"unknown key; did you mean '{place.path[-1]}'")


# A security level may be a mapping.
SINGLE = [place for place in PLACES if isinstance(place.value, ScalarNode) and place.path[-1] != "sl_t"]


@pytest.mark.parametrize("place", sample(SINGLE))
def test_a_mapping_where_a_value_belongs_is_one_problem_on_its_line(place: Place) -> None:
    start, end = place.value.start_mark.index, place.value.end_mark.index
    [problem] = problems_of(f"{TEXT[:start]}{{x: 1}}{TEXT[end:]}")
    assert (problem.line, problem.key) == (place.key.start_mark.line + 1, dotted(place.path))


@pytest.mark.parametrize("place", sample(PLACES))
def test_a_deleted_key_is_one_problem_at_its_mapping_or_was_not_needed(place: Place) -> None:
    problems = problems_of(without(place))
    if any(problem.message == "missing key" for problem in problems):
        [problem] = problems
        assert (problem.line, problem.key) == (place.holder_line, dotted(place.path))
    else:
        assert place.path[-1] in OPTIONAL


OPTIONAL = frozenset(
    (
        *(
            "former",
            "mailboxes",
            "portal",
            "predecessors",
            "serves",
            "switches",
            "terminal",
            "took_over",
            "initial",
            "sensors",
            "noise",
            "lag",
            "loss",
            "trusted",
            "safety",
            "flows",
            "functions",
            "registers",
            "safe_state",
        ),
        *(
            "purpose",
            "signal",
            "command",
            "unit",
            "scale",
            "writable",
            "range",
            "alarms",
            "use",
            "description",
        ),
        *(
            "vendor",
            "product",
            "firmware",
            "criticality",
            "roles",
            "targets",
            "users",
            "reads",
            "peers",
            "operators",
            "heartbeat",
            "responses",
        ),
        *("programs", "siem", "LL", "L", "H", "HH", "deadband", "delay"),
    )
)


def without(place: Place) -> str:
    """The text without one key and its value."""
    start, end = place.key.start_mark.index, place.value.end_mark.index
    if not place.flow:
        # A block's end mark is where the next key begins; a single value may have a comment after it.
        stop = end if TEXT[:end].endswith((" ", "\n")) else TEXT.index("\n", end)
        return TEXT[: TEXT.rindex("\n", 0, start) + 1] + TEXT[TEXT.rindex("\n", 0, stop + 1) + 1 :]
    if TEXT.startswith(", ", end):
        return TEXT[:start] + TEXT[end + 2 :]
    return TEXT[:start].removesuffix(", ") + TEXT[end:]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, len(TEXT)),
    st.integers(0, 30),
    st.text(st.sampled_from("{}[],:-&*!|'\"#\n a0"), max_size=8),
)
def test_the_site_with_any_damage_loads_or_says_what_is_wrong(start: int, length: int, filling: str) -> None:
    lines = TEXT.count("\n") + filling.count("\n") + 2
    for problem in problems_of(TEXT[:start] + filling + TEXT[start + length :]):
        assert 1 <= problem.line <= lines
        assert problem.message


# ----------------------------------------------------------------------------------------- parts


def test_a_security_level_may_be_one_number_or_seven() -> None:
    assert SLVector.model_validate(2).as_tuple() == (2, 2, 2, 2, 2, 2, 2)
    assert WATER.zones["control"].sl_t.as_tuple() == (2, 3, 3, 1, 3, 2, 3)


@given(
    st.sampled_from(["int16", "uint16", "int32", "uint32", "float32"]),
    st.sampled_from([0.001, 0.1, 1.0, 50.0]),
    st.floats(-1e6, 1e6),
)
def test_a_tag_keeps_a_value_to_half_a_count_or_clips_it(form: str, scale: float, value: float) -> None:
    tag = Tag.model_validate({"table": "holding", "address": 0, "format": form, "scale": scale})
    words = tag.encode(value)
    assert len(words) == tag.words
    assert all(0 <= word <= 0xFFFF for word in words)
    low, high = (tag.decode(tag.encode(end)) for end in (-1e12, 1e12))
    nearest = min(max(value, low), high)
    assert tag.decode(words) == pytest.approx(nearest, rel=1e-6, abs=scale / 2 * (1 + 1e-9))


def test_a_two_register_tag_takes_two_addresses() -> None:
    text = changed(
        "FIT101: {table: input, address: 1,", "FIT101: {table: input, address: 1, format: float32,"
    )
    assert problems_of(text) == ()
    text = changed(
        "FIT101: {table: input, address: 1,", "FIT101: {table: input, address: 0, format: float32,"
    )
    [problem] = problems_of(text)
    assert problem.message == "input 0 is already 'LIT101'"


# ----------------------------------------------------------------------------------------- the logic


@pytest.mark.parametrize("name", list(WATER.controllers()))
def test_each_program_has_a_variable_for_each_tag_and_each_value_it_reads_from_peers(name: str) -> None:
    controller = WATER.controllers()[name]
    variables = compile_program(WATER.logic(name)).variables
    assert controller.tags.keys() <= variables.keys()
    for tag, description in controller.tags.items():
        assert (variables[tag].type == "BOOL") == (description.format == "bool"), tag
    for peer in controller.peers.values():
        for tag in peer.tags:
            assert tag in variables
            assert variables[f"{tag}_OK"].type == "BOOL"


@pytest.mark.parametrize("name", list(WATER.controllers()))
def test_setpoints_and_modes_start_in_the_program_as_in_the_site(name: str) -> None:
    variables = compile_program(WATER.logic(name)).variables
    for tag, description in WATER.controllers()[name].tags.items():
        if description.writable:
            assert float(variables[tag].initial) == description.initial, tag


def program(name: str, **values: float) -> ProgramInstance:
    instance = compile_program(WATER.logic(name)).instantiate()
    for variable, value in values.items():
        instance.write(variable, value)
    return instance


def scan(instance: ProgramInstance, start: float, stop: float, period: float = 0.5) -> None:
    for step in range(round((stop - start) / period)):
        instance.scan(start + step * period)


NORMAL = {
    "LIT101": 600,
    "LIT301": 700,
    "LIT301_OK": 1,
    "FIT201": 2.4,
    "FIT201_OK": 1,
    "MV201_OPEN": 1,
    "MV201_OPEN_OK": 1,
}


def test_the_transfer_pump_runs_on_demand_and_both_its_interlocks_hold_in_manual() -> None:
    plc1 = program("plc1", **NORMAL)
    plc1.scan(0)
    assert plc1.memory["P101"]
    plc1.write("LIT301", 1000)
    plc1.scan(1)
    assert not plc1.memory["P101"]
    plc1.write("P101_AUTO", False)
    plc1.write("P101_CMD", True)
    plc1.scan(2)
    assert plc1.memory["P101"]
    for name, value in (("LIT101", 250.0), ("MV201_OPEN", False), ("MV201_OPEN_OK", False)):
        blocked = program("plc1", **{**NORMAL, name: value, "P101_AUTO": 0, "P101_CMD": 1})
        blocked.scan(0)
        assert not blocked.memory["P101"], name


def test_a_lost_level_of_t301_holds_the_last_demand_for_a_minute_and_then_stops_the_pump() -> None:
    plc1, plc2 = program("plc1", **NORMAL), program("plc2", **PLC2)
    for plc in (plc1, plc2):
        plc.scan(0)
        plc.write("LIT301_OK", False)
        plc.write("LIT301", 0)
        scan(plc, 0.5, 60)
    assert plc1.memory["P101"]
    assert plc2.memory["MV201"]
    for plc in (plc1, plc2):
        scan(plc, 60, 61)
    assert not plc1.memory["P101"]
    assert not plc2.memory["MV201"]


PLC2 = {
    "LIT301": 700, "LIT301_OK": 1, "LIT301_L_SP": 800, "LIT301_L_SP_OK": 1, "LIT301_H_SP": 1000, "LIT301_H_SP_OK": 1,
    "FIT201": 2.4, "AIT201": 255, "AIT202": 7.0, "AIT203": 460,
}  # fmt: skip


def test_the_standby_pump_takes_over_when_nothing_flows() -> None:
    plc1 = program("plc1", **{**NORMAL, "FIT201": 0})
    scan(plc1, 0, 29)
    assert (plc1.memory["P101"], plc1.memory["P102"]) == (True, False)
    scan(plc1, 29, 32)
    assert (plc1.memory["P101"], plc1.memory["P102"]) == (False, True)


def test_dosing_stops_with_the_flow_even_in_manual_and_at_each_analyzer_limit() -> None:
    dosing = ("P201", "P203", "P205")
    for values, running in (
        ({}, {"P201", "P203", "P205"}),
        ({"FIT201": 0}, set()),
        ({"FIT201": 0, "P201_AUTO": 0, "P201_CMD": 1}, set()),
        ({"AIT201": 261}, {"P203", "P205"}),
        ({"AIT202": 6.9}, {"P201", "P205"}),
        ({"AIT203": 501}, {"P201", "P203"}),
    ):
        plc2 = program("plc2", **{**PLC2, **values})
        plc2.scan(0)
        assert {pump for pump in dosing if plc2.memory[pump]} == running, values


def test_a_filtration_is_followed_by_backwash_drain_and_flush() -> None:
    plc3 = program("plc3", LIT301=900, FIT301=2)
    seen: list[tuple[float, int]] = []
    for step in range(4000):
        plc3.scan(step * 0.5)
        state = int(plc3.memory["UF_STATE"])
        if not seen or seen[-1][1] != state:
            seen.append((step * 0.5, state))
        assert plc3.memory["P301"] == (state in (1, 4))
    starts, states = zip(*seen, strict=True)
    assert states == (1, 2, 3, 4, 1)
    lengths = [after - before for before, after in pairwise(starts)]
    assert lengths == pytest.approx([1800, 45, 60, 30], abs=1.0)


def test_a_clogged_membrane_ends_its_filtration_early() -> None:
    plc3 = program("plc3", LIT301=900, FIT301=2, DPIT301=41)
    scan(plc3, 0, 12)
    assert plc3.memory["UF_STATE"] == 2


@pytest.mark.parametrize(
    ("switch", "trips"),
    [
        ("LSHH101", {"TRIP_MV101"}),
        ("LSLL101", {"TRIP_P101", "TRIP_P102"}),
        ("LSHH301", {"TRIP_P101", "TRIP_P102"}),
        ("LSLL301", {"TRIP_P301", "TRIP_P302"}),
    ],
)
def test_a_trip_outlasts_its_cause_until_someone_resets_it(switch: str, trips: set[str]) -> None:
    sis1 = program("sis1")

    def tripped(switched: bool, reset: bool, start: float) -> set[str]:
        sis1.write(switch, switched)
        sis1.write("RESET", reset)
        scan(sis1, start, start + 2, 0.1)
        return {name for name, value in sis1.memory.items() if name.startswith("TRIP_") and value}

    assert tripped(False, False, 0) == set()
    assert tripped(True, False, 10) == trips
    assert tripped(True, True, 20) == trips
    assert tripped(False, False, 30) == trips
    assert sis1.memory["TRIPPED"]
    assert tripped(False, True, 40) == set()
    assert tripped(False, True, 50) == set()


def test_two_hours_of_the_site_stay_in_band_without_alarm_trip_or_failed_pump() -> None:
    plant = WaterPlant(stream=random.Random("plant"), initial=WATER.plant.initial)
    instruments = WATER.plant.sensors
    sensors = {name: Sensor(i.spec(name), plant, random.Random(name)) for name, i in instruments.items()}
    plcs = {name: program(name) for name in WATER.controllers()}
    beyond: set[str] = set()
    for step in range(1, 2 * 3600 * 5 + 1):
        plant.advance()
        if step % 2:
            continue  # scans of 0.4 s on steps of 0.2 s
        readings = {name: from_si(sensor.read(), instruments[name].unit) for name, sensor in sensors.items()}
        exchange(plcs, readings, plant)
        for name, plc in plcs.items():
            plc.scan(step * 0.2)
            for tag, description in WATER.controllers()[name].tags.items():
                if description.command in plant.commands:
                    plant.command(str(description.command), float(plc.memory[tag]))
                limits = description.alarms.limits if description.alarms and step > 20 * 5 else {}
                beyond |= {
                    f"{tag} {key}" for key, at in limits.items() if past(key, float(plc.memory[tag]), at)
                }
    assert beyond == set()
    assert not plcs["sis1"].memory["TRIPPED"]
    assert not plcs["plc1"].memory["P101_FAILED"]
    assert not plcs["plc3"].memory["P301_FAILED"]
    expected = WATER.essential_functions.production.expected * 2 * 3600
    assert plant.value("product_volume") == pytest.approx(expected, rel=0.02)
    assert plant.value("good_product_volume") == plant.value("product_volume")
    assert plant.value("P101.deadhead_time") + plant.value("dry_run_time") < 1.0


def past(limit: str, value: float, at: float) -> bool:
    return value < at if limit.startswith("L") else value > at


def exchange(plcs: dict[str, ProgramInstance], readings: dict[str, float], plant: Any) -> None:
    """What wires and network do between two scans, without loss or delay."""
    for name, plc in plcs.items():
        controller = WATER.controllers()[name]
        assert isinstance(controller, Plc | SafetyPlc)
        for tag, description in controller.tags.items():
            if description.signal is not None:
                switch = description.signal not in readings
                plc.write(
                    tag, plant.value(description.signal) >= 0.5 if switch else readings[description.signal]
                )
    for name, plc in plcs.items():
        for peer, wanted in WATER.controllers()[name].peers.items():
            for tag in wanted.tags:
                plc.write(tag, plcs[peer].memory[tag])
                plc.write(f"{tag}_OK", True)

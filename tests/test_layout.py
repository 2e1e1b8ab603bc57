"""The one direction of import, and who alone may import what."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("testbed", "devices", "controls", "scenarios", "results", "lab")
#: library -> the only modules that may import it
ONLY = {
    "pymodbus": {"devices/modbus.py"},
    "asyncua": {"devices/opcua.py"},
    "matplotlib": {
        "results/assessment_figures.py",
        "results/figures.py",
        "results/look.py",
        "results/trade_figures.py",
    },
    "h11": {"devices/web.py"},
    "pyrad": {"devices/auth_server.py"},
    "starlette": {"lab/live/web.py"},
    "optuna": {"lab/tradeoff.py"},
    "weasyprint": {"results/pdf.py"},
    "uvicorn": {"lab/live/serve.py"},
}


def modules() -> list[Path]:
    return [path for package in ORDER for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_imports_only_folders_below_it(path: Path) -> None:
    mine = ORDER.index(path.relative_to(ROOT).parts[0])
    above = {name for name in imported(path) if name.split(".")[0] in ORDER[mine + 1 :]}
    assert not above


@pytest.mark.parametrize("library", ONLY)
def test_each_wrapped_library_is_imported_in_one_module(library: str) -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in modules()
        if any(name.split(".")[0] == library for name in imported(path))
    }
    assert users == ONLY[library]


def test_a_control_never_looks_at_the_plant_or_the_attacker() -> None:
    for path in sorted((ROOT / "controls").glob("*.py")):
        attributes = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute)
        }
        assert not attributes & {"plant", "wiring", "interceptor"}, path


#: The one module that makes sockets of the operating system; what it makes is bound to loopback (test_live_outside).
SOCKETS = "lab/live/loopback.py"


def test_only_one_module_opens_a_socket_of_the_operating_system() -> None:
    users = set()
    for path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "socket"
        }
        if calls - {"AF_INET", "SOCK_STREAM", "SOCK_DGRAM", "gaierror", "EAI_NONAME"}:
            users.add(path.relative_to(ROOT).as_posix())
    assert users == {SOCKETS}


def test_only_the_live_lab_knows_its_sockets_and_only_the_command_line_knows_the_live_lab() -> None:
    for path in modules():
        name = path.relative_to(ROOT).as_posix()
        for wanted in imported(path):
            if wanted.startswith("lab.live"):
                assert name.startswith(("lab/live/", "lab/live_commands.py", "lab/exercises/")), name
            if wanted == "lab.live.loopback":
                assert name in ("lab/live/outside.py", "lab/live/serve.py"), name


def test_what_drives_a_live_run_knows_no_wall_clock() -> None:
    # Below the engine a live run is a virtual run: the same inputs give the same trace at any speed.
    for name in ("inputs", "bridge", "alarms", "session", "recording", "mimic"):
        path = ROOT / "lab" / "live" / f"{name}.py"
        assert not imported(path) & {"time", "datetime", "threading", "secrets", "random", "socket"}, name

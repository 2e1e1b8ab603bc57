"""Labelled datasets on disk: one folder a run, and a manifest and a card over all of them.

A run's folder is written beside its place and renamed when it is whole, so what is there is whole; the manifest comes
last. Tables are CSV, and Parquet beside where wanted. See docs/reference/dataset.md.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.errors import OtlabError, RunError

#: Version of the layout and the columns.
SCHEMA = "otlab-dataset-1"

#: Table -> columns with DuckDB's types; ``tags`` and ``truth`` have a column a tag besides.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "tags": {"time": "DOUBLE", "attack": "BOOLEAN", "after": "BOOLEAN", "impact": "BOOLEAN"},
    "truth": {"time": "DOUBLE"},
    "events": {"time": "DOUBLE", "kind": "VARCHAR", "source": "VARCHAR", "data": "VARCHAR"},
    "labels": {
        "start": "DOUBLE",
        "end": "DOUBLE",
        "label": "VARCHAR",
        "scenario": "VARCHAR",
        "action": "VARCHAR",
        "technique": "VARCHAR",
        "outcome": "VARCHAR",
        "source": "VARCHAR",
    },
    "flows": {
        "protocol": "VARCHAR",
        "source": "VARCHAR",
        "source_port": "INTEGER",
        "target": "VARCHAR",
        "target_port": "INTEGER",
        "source_name": "VARCHAR",
        "target_name": "VARCHAR",
        "first": "DOUBLE",
        "last": "DOUBLE",
        "packets_out": "BIGINT",
        "packets_back": "BIGINT",
        "bytes_out": "BIGINT",
        "bytes_back": "BIGINT",
        "attack": "BOOLEAN",
    },
}


class RunFolder:
    """The folder of one run while it is written: ``path`` is where files go, ``done`` puts it in its place."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise RunError(f"could not write {self.path}: {error.strerror or error}") from error

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write one table as CSV; None is an empty field."""
        path = self.path / f"{name}.csv"
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                for row in rows:
                    writer.writerow([_plain(value) for value in row])
        except OSError as error:
            raise RunError(f"could not write {path}: {error.strerror or error}") from error

    def parquet(self, names: Iterable[str]) -> None:
        """Write tables as Parquet too, from their CSV; OtlabError where duckdb is not installed."""
        duckdb = duckdb_or_sentence()
        try:
            with duckdb.connect() as database:
                database.execute("SET threads TO 1")  # the same bytes every time
                for name in names:
                    path = self.path / f"{name}.csv"
                    with path.open(encoding="utf-8", newline="") as file:
                        header = next(csv.reader(file))
                    known = COLUMNS[name]
                    types = ", ".join(f"'{column}': '{known.get(column, 'DOUBLE')}'" for column in header)
                    source, target = (
                        str(each).replace("'", "''") for each in (path, path.with_suffix(".parquet"))
                    )
                    database.execute(
                        f"COPY (SELECT * FROM read_csv('{source}', header = true, columns = {{{types}}}))"
                        f" TO '{target}' (FORMAT parquet, KV_METADATA {{otlab_schema: '{SCHEMA}'}})"
                    )
        except (OSError, duckdb.Error) as error:
            raise RunError(f"could not write Parquet into {self.path}: {error}") from error

    def done(self, about: Mapping[str, Any]) -> None:
        """Write ``run.json`` with what the run was and the sum of every file, and put the folder in its place."""
        try:
            files = {path.name: digest(path) for path in sorted(self.path.iterdir())}
            text = json.dumps({"schema": SCHEMA, **about, "files": files}, indent=1, sort_keys=True)
            (self.path / "run.json").write_text(text + "\n", encoding="utf-8")
            if self.target.exists():
                shutil.rmtree(self.target)
            self.path.rename(self.target)
        except OSError as error:
            raise RunError(f"could not write {self.target}: {error.strerror or error}") from error


def is_whole(folder: Path, about: Mapping[str, Any]) -> bool:
    """Whether ``folder`` has the run that ``about`` describes, every file with its right sum."""
    try:
        found = json.loads((folder / "run.json").read_text("utf-8"))
        files = found.pop("files")
        return found == json.loads(json.dumps({"schema": SCHEMA, **about})) and all(
            digest(folder / name) == wanted for name, wanted in files.items()
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def duckdb_or_sentence() -> Any:
    """The duckdb module; OtlabError in a sentence without it."""
    try:
        import duckdb
    except ImportError:
        raise OtlabError(
            "Parquet needs duckdb: pip install 'otlab[analysis]', or ask for --format csv"
        ) from None
    return duckdb


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".") if abs(value) < 1e15 else repr(value)
    return value


def card(
    title: str, about: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], units: Mapping[str, str]
) -> str:
    """The data card: what the data are, how they came about, what they are good for and what not."""
    sections = [
        f"# {title}",
        "Simulated traffic and process data of an industrial site, with and without attacks, labelled exactly.",
        "## Composition",
        "\n".join(f"- {key}: {value}" for key, value in about.items()),
        "| split | run | seed | attack | from (s) | to (s) |\n|---|---|---|---|---|---|\n"
        + "\n".join(
            f"| {run['split']} | {run['name']} | {run['seed']} | {run['scenario'] or 'none'} |"
            f" {_short(run.get('attack_start'))} | {_short(run.get('attack_end'))} |"
            for run in runs
        ),
        "Train and test differ by seed: noise, disturbances, operators and the moment of the attack. They share the"
        " site and, unless chosen otherwise, the scenarios: nothing here tests generalization to another plant.",
        "## Files of a run",
        "- `capture.pcapng`: all frames of all zones, as simulated\n"
        "- `tags`: one row a second, what a passive recorder on the monitor's taps read of the process\n"
        "- `truth`: the plant's own state, never visible to a detector; for judging, not for training\n"
        "- `events`: what devices, people and the attacker did, in order\n"
        "- `labels`: intervals (`attack`, `impact`) and steps with ATT&CK for ICS techniques\n"
        "- `flows`: connections; `attack` marks those from the attacker's machines while it acted that no documented"
        " flow covers\n"
        "- `run.json`: what the run was, and the SHA-256 of every file",
        "## Labels",
        "`attack` is true from the attacker's first act to its last, `after` from the first act on, `impact` while an"
        " essential function is lost or the process is outside its safe envelope after the first act. They come from"
        " the simulation itself and are exact. A command that was sent once leaves a plant that moves for long"
        " afterwards: choose `after` or `impact` if that shall count.",
        "## Units",
        "\n".join(f"- {tag}: {unit}" for tag, unit in sorted(units.items())),
        "## Uses and limits",
        "For developing and comparing detectors and for teaching. Traffic has the protocols of the site and little"
        " else: no office chatter, no broadcasts, no operating systems' noise, so false alarm rates are lower than in"
        " a real plant. Delays and losses are those of the site's file. Where traffic is encrypted, `tags` is empty."
        " Do not read rates of attacks off the data: how often a run is attacked was chosen.",
        "## License",
        "The data are output of a simulation and contain nobody's data; use them as you like, at your own risk.",
    ]
    return "\n\n".join(sections) + "\n"


def _short(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else "-"

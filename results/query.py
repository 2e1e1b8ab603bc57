"""Rows as one table: a metric by its name, Parquet and CSV, and SQL over them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from results.rows import FUNCTIONS, Row
from results.store import save_text
from testbed.errors import OtlabError, RunError, UnknownNameError

#: Version of the table's columns; a change of meaning or name raises it.
SCHEMA = 1


def columns() -> tuple[str, ...]:
    """Columns of the table: the row's fields, one for each essential function in place of ``availability``."""
    names: list[str] = []
    for field in fields(Row):
        if field.name == "availability":
            names += [f"availability.{function}" for function in FUNCTIONS]
        else:
            names.append(field.name)
    return tuple(names)


def flat(row: Row) -> dict[str, Any]:
    """The row under ``columns``."""
    document = row.to_dict()
    shares = document.pop("availability")
    assert isinstance(shares, dict)
    found = {**document, **{f"availability.{name}": shares.get(name) for name in FUNCTIONS}}
    return {name: found[name] for name in columns()}


def values_of(rows: Sequence[Row], metric: str) -> list[float | None]:
    """The numbers of one column; None where a run has none. Raises UnknownNameError, OtlabError for text."""
    if metric not in columns():
        raise UnknownNameError("metric", metric, columns())
    found: list[float | None] = []
    for row in rows:
        value = flat(row)[metric]
        if isinstance(value, str):
            raise OtlabError(f"{metric} is text: nothing to compute")
        found.append(None if value is None else float(value))
    return found


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write rows to a .csv or .parquet file. Raises OtlabError for another ending, RunError if it cannot be written."""
    if path.suffix == ".csv":
        save_text(path, _csv(rows))
    elif path.suffix == ".parquet":
        _parquet(rows, path)
    else:
        raise OtlabError(f"{path}: a table ends in .csv or .parquet")


def ask(query: str, tables: Sequence[Path]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Names and rows of a query over exported tables, together table ``rows``. Raises OtlabError for its mistakes."""
    duckdb = _duckdb()
    with duckdb.connect() as database:
        parts = [
            f"SELECT * FROM {'read_parquet' if path.suffix == '.parquet' else 'read_csv'}({_quoted(path)})"
            for path in tables
        ]
        try:
            database.execute(f"CREATE VIEW rows AS {' UNION ALL BY NAME '.join(parts)}")
            found = database.execute(query)
            return [one[0] for one in found.description], found.fetchall()
        except duckdb.Error as error:
            raise OtlabError(f"the query: {str(error).splitlines()[0]}") from None


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if value is None else value for name, value in flat(row).items()})
    return text.getvalue()


def _parquet(rows: Sequence[Row], path: Path) -> None:
    duckdb = _duckdb()
    scratch = path.with_name(f".{path.name}.csv")
    partial = path.with_name(f".{path.name}.part")
    save_text(scratch, _csv(rows))
    types = "{" + ", ".join(f"'{name}': '{kind}'" for name, kind in _types().items()) + "}"
    try:
        with duckdb.connect() as database:
            database.execute(
                f"COPY (SELECT * FROM read_csv({_quoted(scratch)}, header = true, columns = {types}))"
                f" TO {_quoted(partial)} (FORMAT parquet, KV_METADATA {{otlab_schema: '{SCHEMA}'}})"
            )
        partial.replace(path)
    except (OSError, duckdb.Error) as error:
        raise RunError(f"could not write {path}: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)


def _types() -> dict[str, str]:
    kinds = {"str": "VARCHAR", "int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN"}
    known = {field.name: kinds.get(str(field.type).partition(" ")[0], "DOUBLE") for field in fields(Row)}
    return {name: known.get(name, "DOUBLE") for name in columns()}


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise OtlabError("Parquet and SQL need the extra: pip install 'otlab[analysis]'") from None
    return duckdb

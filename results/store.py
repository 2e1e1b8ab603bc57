"""Rows on disk, written so that what is read back is either whole or absent.

A row's file is named by the SHA-256 of its experiment, so a campaign that was interrupted finds what it already
has. A file is written next to its place, forced to the disk and renamed over it; a reader therefore sees the old
file, the new file or none. A check line guards against what renaming cannot (a copy cut short, an edit by hand).
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from results.rows import Row
from testbed.errors import RunError

_FORMAT: Final = "otlab-row-1"
_KEY: Final = re.compile(r"[0-9a-f]{64}")


def canonical(value: object) -> str:
    """Return ``value`` as JSON with one spelling: sorted keys, no spaces, ASCII.

    1 and 1.0 are spelled differently, as are ``null`` and an absent key. Raises TypeError for a key that is not
    text or a value JSON has no form for, ValueError for a number that is not finite.
    """
    _require_text_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_key(mapping: Mapping[str, object]) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of the canonical JSON of an experiment's description."""
    return hashlib.sha256(canonical(dict(mapping)).encode()).hexdigest()


def save_bytes(path: Path | str, data: bytes) -> None:
    """Write a whole file or leave what was there. Creates its folder. Raises RunError naming the file."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch, descriptor = _scratch(target)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, target)
        except BaseException:
            with suppress(OSError):
                scratch.unlink()
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise RunError(f"could not write {target}: {error.strerror or error}") from error


def save_text(path: Path | str, text: str) -> None:
    """Write ``text`` as UTF-8, line ends as they are, under the promise of ``save_bytes``."""
    save_bytes(path, text.encode())


class RowStore:
    """Rows under one folder, one file each, found by the key of their experiment."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Return where the row of ``key`` is kept. Raises ValueError for what ``content_key`` never returns."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"not a content key: {key!r}")
        # 256 folders: directories of 100,000 entries are slow to list on common file systems.
        return self.folder / key[:2] / f"{key}.jsonl"

    def get(self, key: str) -> Row | None:
        """Return the row of ``key``, or None when there is none or its file is torn, foreign or older.

        Raises RunError when the file exists but may not be read.
        """
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"could not read {path}: {error.strerror or error}") from error
        return _decode(key, data)

    def put(self, key: str, row: Row) -> None:
        """Keep ``row`` under ``key``. Raises RunError naming the file when the disk will not take it."""
        save_bytes(self.path(key), _encode(key, row))


def _encode(key: str, row: Row) -> bytes:
    head = canonical({"format": _FORMAT, "key": key})
    body = f"{head}\n{canonical(row.to_dict())}\n".encode()
    return body + _check_line(body)


def _check_line(body: bytes) -> bytes:
    return f"{canonical({'sha256': hashlib.sha256(body).hexdigest()})}\n".encode()


def _decode(key: str, data: bytes) -> Row | None:
    lines = data.splitlines(keepends=True)
    if len(lines) != 3 or lines[2] != _check_line(lines[0] + lines[1]):
        return None
    if lines[0] != f"{canonical({'format': _FORMAT, 'key': key})}\n".encode():
        return None
    try:
        document = json.loads(lines[1])
        return Row.from_dict(document) if isinstance(document, dict) else None
    except (RunError, ValueError, RecursionError):
        # The check line is right, so another version wrote this: its rows are not ours to interpret.
        return None


def _require_text_keys(value: object) -> None:
    if isinstance(value, Mapping):
        for name, member in value.items():
            if not isinstance(name, str):  # json would turn 1 into "1" and let two experiments collide
                raise TypeError(f"a key must be text, got {name!r}")
            _require_text_keys(member)
    elif isinstance(value, list | tuple):
        for member in value:
            _require_text_keys(member)


def _scratch(target: Path) -> tuple[Path, int]:
    """Create a new file beside ``target``; not tempfile, whose 0600 mode would outlive the rename."""
    for attempt in itertools.count():
        path = target.parent / f".{target.name[:40]}.{os.getpid()}.{attempt}.part"
        with suppress(FileExistsError):
            return path, os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
            )
    raise AssertionError("unreachable: counting never ends")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable. Raises OSError when the disk refuses."""
    if os.name == "nt":  # a folder cannot be opened there; the file system journals the rename
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such call
            raise
    finally:
        os.close(descriptor)

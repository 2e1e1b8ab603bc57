"""Shapes in which devices tell what happened: Elastic Common Schema for computers, OCSF for monitors.

Both travel as JSON in the text of a syslog message, behind the cookie that marks such text; controllers and firewalls
send structured data instead. Whatever the shape, a collector gets back the event's kind and its data.

References: Elastic Common Schema 8 (field names), Open Cybersecurity Schema Framework 1.x (classes 2004, 3002, 6003).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

Shape = Literal["ecs", "ocsf"]

#: What marks JSON in the text of a syslog message (CEE's cookie, in common use beyond it).
COOKIE = b"@cee:"
#: Longest text (characters) of one value; what is longer is cut, as collectors would cut it.
LONGEST = 1024
#: Event kinds by their first word -> ECS event.category; others are "process".
_CATEGORIES = {
    "login": "authentication",
    "breakglass": "authentication",
    "auth": "authentication",
    "session": "session",
    "remote": "session",
    "connection": "network",
    "boundary": "network",
    "ids": "intrusion_detection",
    "process": "intrusion_detection",
    "malware": "malware",
    "write": "configuration",
    "program": "configuration",
    "settings": "configuration",
    "mode": "configuration",
    "file": "file",
    "media": "file",
}
_FAILURES = (".failed", ".refused", ".denied", ".locked", ".malformed", ".dropped")
#: OCSF class, category and activity by an event's first word; others are 6003, API activity.
_CLASSES = {"ids": (2004, 2, 1), "process": (2004, 2, 1), "login": (3002, 3, 1)}
#: syslog severity (RFC 5424) -> OCSF severity_id (1 informational .. 5 critical)
_SEVERITIES = {0: 5, 1: 5, 2: 5, 3: 4, 4: 3, 5: 2, 6: 1, 7: 1}


def to_json(
    shape: Shape, source: str, kind: str, data: Mapping[str, Any], stamp: str | None, severity: int
) -> bytes:
    """The event as the text of a message; values are text, and None is left out."""
    values = {name: str(value)[:LONGEST] for name, value in data.items() if value is not None}
    document = (
        _ecs(source, kind, values, stamp) if shape == "ecs" else _ocsf(source, kind, values, stamp, severity)
    )
    return COOKIE + json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode()


def from_json(text: bytes) -> tuple[str, dict[str, str]] | None:
    """Kind and data of an event in either shape; None for text that is none of them, hostile bytes included."""
    if not text.startswith(COOKIE):
        return None
    try:
        document = json.loads(text[len(COOKIE) :])
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    found = _from_ocsf(document) if "class_uid" in document else _from_ecs(document)
    if found is None:
        return None
    kind, data = found
    if not all(isinstance(value, str) for value in (kind, *data.values())):
        return None
    return kind, data


def _ecs(source: str, kind: str, values: dict[str, str], stamp: str | None) -> dict[str, Any]:
    rest = dict(values)
    document: dict[str, Any] = {
        "ecs": {"version": "8.11.0"},
        "event": {
            "kind": "event",
            "action": kind,
            "category": [_CATEGORIES.get(kind.partition(".")[0], "process")],
            "outcome": "failure" if kind.endswith(_FAILURES) else "success",
        },
        "host": {"name": source},
    }
    if stamp is not None:
        document["@timestamp"] = stamp
    if "peer" in rest:
        document["source"] = {"address": rest.pop("peer")}
    if "user" in rest:
        document["user"] = {"name": rest.pop("user")}
    document["otlab"] = rest
    return document


def _from_ecs(document: dict[str, Any]) -> tuple[str, dict[str, str]] | None:
    event, rest = document.get("event"), document.get("otlab")
    if not isinstance(event, dict) or not isinstance(rest, dict):
        return None
    data = dict(rest)
    for group, inner, name in (("source", "address", "peer"), ("user", "name", "user")):
        holder = document.get(group)
        if isinstance(holder, dict) and inner in holder:
            data[name] = holder[inner]
    return event.get("action"), data  # type: ignore[return-value]


def _ocsf(source: str, kind: str, values: dict[str, str], stamp: str | None, severity: int) -> dict[str, Any]:
    class_uid, category, activity = _CLASSES.get(kind.partition(".")[0], (6003, 6, 1))
    rest = dict(values)
    document: dict[str, Any] = {
        "class_uid": class_uid,
        "category_uid": category,
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "severity_id": _SEVERITIES.get(severity, 1),
        "metadata": {"version": "1.3.0", "event_code": kind, "product": {"name": source}},
    }
    if stamp is not None:
        document["time_dt"] = stamp
    if "rule" in rest:
        document["finding_info"] = {"title": rest.pop("rule"), "uid": kind}
    if "subject" in rest:
        document["src_endpoint"] = {"name": rest.pop("subject")}
    document["unmapped"] = rest
    return document


def _from_ocsf(document: dict[str, Any]) -> tuple[str, dict[str, str]] | None:
    metadata, rest = document.get("metadata"), document.get("unmapped")
    if not isinstance(metadata, dict) or not isinstance(rest, dict):
        return None
    data = dict(rest)
    for group, inner, name in (("finding_info", "title", "rule"), ("src_endpoint", "name", "subject")):
        holder = document.get(group)
        if isinstance(holder, dict) and inner in holder:
            data[name] = holder[inner]
    return metadata.get("event_code"), data  # type: ignore[return-value]

"""How a program of the site logs in where it is a client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class UaCredentials:
    """How one asset logs in to the OPC UA server; all None is anonymous without security."""

    user: str | None = None
    password: str | None = None
    security: str | None = None
    certificate: bytes | None = None
    key: bytes | None = None

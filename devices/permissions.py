"""Which role may do what, as a table that an authorised person can change, and limits that one can lift for a time.

A right is a kind of action on the process (commands, setpoints, the safety system) or a single tag by name, so that a
role can be given exactly what its task needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from devices.accounts import User
from devices.audit import Audit
from testbed.errors import UnknownNameError


@dataclass(slots=True)
class Permissions:
    """``table`` maps roles to rights, ``kinds`` tags to the kind of right that writing them takes.

    ``definers`` are the roles that may change the table, ``lifters`` those that may lift a limit.
    """

    table: dict[str, frozenset[str]]
    kinds: Mapping[str, str]
    clock: Callable[[], float]
    definers: Collection[str] = ("supervisor", "admin")
    lifters: Collection[str] = ("supervisor",)
    audit: Audit = field(default_factory=lambda: Audit("permissions"))
    #: (user, right) -> time (s) until which the limit is lifted
    _lifted: dict[tuple[str, str], float] = field(default_factory=dict)

    def allows(self, user: User, tag: str) -> bool:
        """Whether ``user`` may write ``tag`` now; a tag that no kind is known of may be written by name only."""
        needed = {tag, self.kinds.get(tag, tag)}
        if needed & self.table.get(user.role, frozenset()):
            return True
        return any(self.clock() < self._lifted.get((user.name, right), 0.0) for right in needed)

    def define(self, by: User, role: str, rights: Iterable[str]) -> bool:
        """Give ``role`` exactly ``rights``, if ``by`` may; UnknownNameError for a right that does not exist."""
        wanted = frozenset(rights)
        known = {*self.kinds, *self.kinds.values()}
        for right in sorted(wanted - known):
            raise UnknownNameError("right", right, known)
        if by.role not in self.definers:
            self.audit("rights.refused", user=by.name, role=role)
            return False
        self.table[role] = wanted
        self.audit("rights.changed", user=by.name, role=role, rights=" ".join(sorted(wanted)))
        return True

    def lift(self, by: User, user: str, tag: str, seconds: float) -> bool:
        """Lift the limit of ``user`` for actions of the kind of ``tag`` for a time, if ``by`` may."""
        if by.role not in self.lifters or by.name == user:
            self.audit("override.refused", user=user, by=by.name, tag=tag)
            return False
        self._lifted[user, self.kinds.get(tag, tag)] = self.clock() + seconds
        self.audit("override.granted", user=user, by=by.name, tag=tag, seconds=seconds)
        return True

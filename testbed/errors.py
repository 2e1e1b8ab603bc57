"""The exception tree of the whole project.

    OtlabError
    ├── DocumentError      a user's file is wrong: every problem in it, each with file:line:column and key
    ├── UnknownNameError   a scenario, site, profile, control or host that does not exist (says what does)
    ├── NetworkError       the in-memory network was built or used in a way that cannot be (port clash, no route)
    └── RunError           a run could not be carried out or kept (full disk, killed worker)

The command line prints the message of any of these as one sentence and exits with 2. Anything else is a
defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

#: A sentence that lists more names than this is no help any more.
SHOWN = 24


class OtlabError(Exception):
    """Root of every error that is told to a user in a sentence."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a user's file; ``line`` and ``column`` count from 1."""

    file: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class DocumentError(OtlabError):
    """A user's file is wrong; ``problems`` holds every mistake found, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column)))
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[DocumentError], tuple[tuple[Problem, ...]]]:
        # An exception is rebuilt from its message by default, which is not what the constructor takes; workers send
        # these back to the process that started them.
        return (type(self), (self.problems,))


class UnknownNameError(OtlabError):
    """A name that nothing answers to."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = get_close_matches(name, names, n=1)
        shown = names if len(names) <= SHOWN else [*names[:SHOWN], f"and {len(names) - SHOWN} more"]
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(shown) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")
        self.kind, self.name, self.known = kind, name, tuple(names)

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, tuple[str, ...]]]:
        return (type(self), (self.kind, self.name, self.known))


class NetworkError(OtlabError):
    """The in-memory network was built or used in a way that cannot be."""


class RunError(OtlabError):
    """A run could not be carried out, or its record could not be kept whole."""

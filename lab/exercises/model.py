"""An exercise as its file describes it: a story, tasks with points and checks, hints that cost points."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import Field

from testbed.document import Document, Route, load
from testbed.errors import UnknownNameError
from testbed.site import Name, RequirementId, Text

Kind: TypeAlias = Literal["live", "file", "questions"]
Points = Annotated[int, Field(ge=1, le=100)]
Count = Annotated[int, Field(ge=0)]
Moment = Annotated[float, Field(ge=0)]
#: What a student may hand in, and the file's name.
Format: TypeAlias = Literal["controls", "conduits", "zoning", "scenario"]
#: What a run of a case may be asked, see ``lab.exercises.cases``.
Truth: TypeAlias = Literal[
    "attacker_address",
    "target",
    "first_write",
    "writes",
    "written_function",
    "first_alert",
    "alerted_subject",
]
Handout: TypeAlias = Literal["pcap", "alerts"]


class _Check(Document):
    """``run`` is the run that is looked at, of those that the exercise names; a live one has only its own."""

    run: Name | None = None
    after: Moment = 0.0
    before: Moment | None = None


class Modbus(_Check):
    """The student's laptop asked a controller by these function codes, and was answered (or not, ``answered``)."""

    check: Literal["modbus"]
    target: Name
    #: where the laptop is plugged in, None for anywhere
    zone: Name | None = None
    functions: Annotated[tuple[Annotated[int, Field(ge=1, le=127)], ...], Field(min_length=1)]
    registers: tuple[Count, Count] | None = None
    answered: bool = True
    at_least: Annotated[int, Field(ge=1)] = 1


class Signal(_Check):
    """A sampled signal (SI units, 0 or 1 for machines) is within bounds ``ever``, ``always`` or at the ``end``."""

    check: Literal["signal"]
    signal: Text
    above: float | None = None
    below: float | None = None
    when: Literal["ever", "always", "end"] = "ever"
    #: seconds for which it is, at least, without a break; only with ``ever``
    lasting: Moment = 0.0


class Differs(_Check):
    """What a station shows differs from what is true, ``scale`` times a signal plus ``offset``, for ``lasting`` s."""

    check: Literal["differs"]
    shown: Text
    signal: Text
    scale: float = 1.0
    offset: float = 0.0
    more_than: Annotated[float, Field(gt=0)]
    lasting: Moment = 0.0


class Events(_Check):
    """How many events of a kind, from a source and with some data, the trace has."""

    check: Literal["events"]
    kind: Text
    source: Text | None = None
    data: dict[str, str | int | float | bool] = Field(default_factory=dict)
    at_least: Count = 0
    at_most: Count | None = None


class Function(_Check):
    """An essential function was there for a share of the time that is judged."""

    check: Literal["function"]
    function: Literal["view", "control", "safety"]
    share: Annotated[float, Field(ge=0, le=1)] = 1.0


class Safe(_Check):
    """The process was outside its safe envelope for ``seconds`` at most."""

    check: Literal["safe"]
    seconds: Moment = 0.0


class Goals(_Check):
    """The attacker of a run reached a number of the scenario's goals, no more and no fewer than these bounds."""

    check: Literal["goals"]
    at_least: Count = 0
    at_most: Count | None = None


class Attack(_Check):
    """How many of the attacker's steps came to what they wanted."""

    check: Literal["attack"]
    at_least: Count = 0
    at_most: Count | None = None


class Acknowledged(_Check):
    """Every alarm from ``after`` on was acknowledged at the station within ``within`` s, and there were some."""

    check: Literal["acknowledged"]
    hmi: Name = "hmi1"
    within: Annotated[float, Field(gt=0)]
    at_least: Annotated[int, Field(ge=1)] = 1


class Work(_Check):
    """Somebody's task was done (not refused) within ``within`` s."""

    check: Literal["work"]
    task: Text
    within: Annotated[float, Field(gt=0)]


class Chosen(_Check):
    """What the file of controls chooses: of what a level asks, all but ``missing`` at most; so many that compensate."""

    check: Literal["chosen"]
    level: Annotated[int, Field(ge=0, le=4)] = 0
    missing: Count = 0
    #: no more requirements than so many, and none of these
    most: Count | None = None
    without: tuple[RequirementId, ...] = ()
    #: a missing requirement counts as met where something chosen stands in for it
    compensated: bool = False
    compensating: Count = 0
    most_compensating: Count | None = None


class Apart(_Check):
    """In the student's zones, these assets share no zone with those; with ``together``, they share one."""

    check: Literal["apart"]
    these: Annotated[tuple[Name, ...], Field(min_length=1)]
    those: tuple[Name, ...] = ()
    together: bool = False


class Target(_Check):
    """In the student's zones, the zone of ``asset`` is given this target level at least, in every FR."""

    check: Literal["target"]
    asset: Name
    level: Annotated[int, Field(ge=1, le=4)]


class Rules(_Check):
    """In the student's conduits, no more than so many flows, and none that lets anything through to a controller.

    A flow of Modbus that names no function codes lets everything through.
    """

    check: Literal["rules"]
    at_most: Count


class Answer(_Check):
    """The student's answer to the task's question is what the run's truth says; numbers within ``tolerance``."""

    check: Literal["answer"]
    truth: Truth
    tolerance: Moment = 0.0


AnyCheck: TypeAlias = Annotated[
    Modbus
    | Signal
    | Differs
    | Events
    | Function
    | Safe
    | Goals
    | Attack
    | Acknowledged
    | Work
    | Chosen
    | Apart
    | Target
    | Rules
    | Answer,
    Field(discriminator="check"),
]


class Task(Document):
    """One thing to do; it is met when all its checks are, and those tasks that it needs.

    ``title`` is what the student reads (for a question: the question); it must not give the answer away.
    """

    name: Name
    title: Text
    points: Points
    checks: Annotated[tuple[AnyCheck, ...], Field(min_length=1)]
    needs: tuple[Name, ...] = ()


class Hint(Document):
    """A text that costs points."""

    text: Text
    cost: Points


class Run(Document):
    """A run that the check makes with what was handed in: an attack or a quiet one, at a level where none is chosen."""

    scenario: Name | None = None
    level: Annotated[int, Field(ge=0, le=4)] = 0
    #: requirements that are in force beside those of the level
    add: tuple[RequirementId, ...] = ()
    begin: Annotated[float, Field(gt=0)] | None = None
    duration: Annotated[float, Field(ge=60, le=7200)] = 900.0
    seed: Count = 1


class Live(Document):
    """The live run: ``lasts`` is how long it must go (virtual s); ``scenario`` is what happens in it, if anything."""

    level: Annotated[int, Field(ge=0, le=4)] = 0
    scenario: Name | None = None
    attach: tuple[Text, ...] = ()
    #: somebody has to sit at the station
    station: Name | None = None
    lasts: Annotated[float, Field(ge=60, le=7200)] = 300.0
    longest: Annotated[float, Field(ge=60, le=14400)] = 3600.0


class Case(Document):
    """A run that the student is given to investigate; each student's draws its attack, its zone and its moment."""

    scenarios: Annotated[tuple[Name, ...], Field(min_length=1)]
    zones: Annotated[tuple[Name, ...], Field(min_length=1)]
    begin: tuple[Moment, Moment]
    duration: Annotated[float, Field(ge=60, le=7200)]
    level: Annotated[int, Field(ge=0, le=4)] = 0
    hands_out: Annotated[tuple[Handout, ...], Field(min_length=1)]


class HandIn(Document):
    """The file that the student writes, and what it begins as."""

    format: Format
    file: Text
    begins: str
    #: of a scenario: the actions that its steps may have, and the zones that its attacker may be in
    actions: tuple[Text, ...] = ()
    zones: tuple[Name, ...] = ()


class Exercise(Document):
    """One exercise. ``side`` is red (attack) or blue (defend); ``minutes`` is what it takes a student, estimated."""

    name: Name
    title: Text
    side: Literal["red", "blue"]
    kind: Kind
    site: Name
    minutes: Annotated[int, Field(ge=1)]
    story: Text
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    hints: tuple[Hint, ...] = ()
    live: Live | None = None
    hand_in: HandIn | None = None
    runs: dict[Name, Run] = Field(default_factory=dict)
    case: Case | None = None

    @property
    def points(self) -> int:
        """Points that can be had."""
        return sum(task.points for task in self.tasks)

    def problems(self) -> Iterator[tuple[Route, str]]:
        wanted = {"live": self.live, "file": self.hand_in, "questions": self.case}
        for kind, part in wanted.items():
            key = {"live": "live", "file": "hand_in", "questions": "case"}[kind]
            if (part is not None) is not (kind == self.kind):
                yield (key,), f"an exercise of kind {kind!r} has it, and no other"
        if self.runs and self.kind != "file":
            yield ("runs",), "only an exercise of kind 'file' makes runs"
        if sum(hint.cost for hint in self.hints) > self.points:
            yield ("hints",), "all hints together cost more than there is to earn"
        before: set[str] = set()
        for number, task in enumerate(self.tasks):
            if task.name in before:
                yield ("tasks", number, "name"), "another task has this name"
            for other in task.needs:
                if other not in before:
                    yield ("tasks", number, "needs"), f"no task before this one is named {other!r}"
            before.add(task.name)
            for place, check in enumerate(task.checks):
                for message in self._wrong(check):
                    yield ("tasks", number, "checks", place), message

    def _wrong(self, check: AnyCheck) -> Iterator[str]:
        here = _PLACES[type(check)]
        if self.kind not in here:
            yield f"a check {check.check!r} is for exercises of kind {' or '.join(here)}"
        elif self.kind == "file" and type(check) not in _OF_FILE and check.run not in self.runs:
            yield f"which run is looked at? there are {', '.join(self.runs) or 'none'}"
        elif (self.kind != "file" or type(check) in _OF_FILE) and check.run is not None:
            yield "this check looks at no named run"
        if isinstance(check, Signal) and check.above is None and check.below is None:
            yield "a signal is above something or below something"


_OF_FILE = frozenset({Chosen, Apart, Target, Rules})
_PLACES: dict[type, tuple[Kind, ...]] = dict.fromkeys(
    (Signal, Differs, Events, Function, Safe, Goals, Attack), ("live", "file")
)
_PLACES |= dict.fromkeys((*_OF_FILE, Work), ("file",))
_PLACES |= {Modbus: ("live",), Acknowledged: ("live",), Answer: ("questions",)}
assert set(_PLACES) == set(get_args(get_args(AnyCheck)[0]))


def exercise_names() -> tuple[str, ...]:
    """The exercises that are shipped, by name."""
    return tuple(sorted(path.stem for path in _library().glob("*.yaml")))


def load_exercise(name_or_path: str | Path) -> Exercise:
    """A shipped exercise by name, or one from a file.

    Raises UnknownNameError for a name that is neither, DocumentError with every mistake in the file.
    """
    text = str(name_or_path)
    if text in exercise_names():
        return _shipped(text)
    path = Path(name_or_path)
    if not path.suffix and not path.exists():
        raise UnknownNameError("exercise", text, exercise_names())
    return load(path, Exercise)


@cache
def _shipped(name: str) -> Exercise:
    return load(_library() / f"{name}.yaml", Exercise)


def _library() -> Path:
    return Path(str(files("lab.exercises"))) / "library"

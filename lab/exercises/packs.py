"""A student's folder: what is handed out, what is handed in, which hints were asked for, and what it is worth.

Two uses. Alone, the folder holds the key from which everything of the student's own is drawn, and `check` computes the
answers again. In a class, the key stays in the teacher's file: the folder holds no seed of a case, no answer and no
digest of one, and only the teacher can check it. A digest would be no better than the answer, because there are only
so many addresses and seconds to try.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from controls.catalogue import SecurityLevels
from controls.selection import Selection, load_selection, select
from lab.exercises import cases, variants
from lab.exercises.checks import Judged, judge
from lab.exercises.evidence import Evidence, Ran, play
from lab.exercises.model import Exercise, HandIn, Run, Truth, exercise_names, load_exercise
from results.store import canonical, save_text
from scenarios.experiment import Experiment, run, site_of
from scenarios.model import Scenario, load_scenario
from testbed.document import Document, load
from testbed.errors import OtlabError, RunError, UnknownNameError

STATE: Final = "state.json"
HINTS: Final = "hints.json"
STORY: Final = "exercise.md"
ANSWERS: Final = "answers.yaml"
#: Where the live run of an exercise is kept, inside the student's folder.
LIVE: Final = "live"
Student = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Key = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ClassFile(Document):
    """The teacher's file: the students, and the key that decides what each is given. Students must not have it."""

    format: Literal["otlab-class-1"]
    key: Key
    students: Annotated[tuple[Student, ...], Field(min_length=1)]


class State(Document):
    """What a student's folder says of itself.

    ``key`` is there for who learns alone, and ``seal`` for a class: the teacher's key over the rest of it. ``seed`` is
    that of a live run, which the student's machine has to make; a case's is in no folder of a class.
    """

    format: Literal["otlab-exercise-1"]
    exercise: str
    student: Student
    seed: int | None = None
    key: Key | None = None
    seal: Key | None = None


class Hints(Document):
    """Numbers (from 1) of the hints that were asked for."""

    asked: tuple[Annotated[int, Field(ge=1)], ...] = ()


class Answers(Document):
    """Answers by the name of the task."""

    answers: dict[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class Result:
    """What a student's folder came to; ``problem`` is why it could not be judged, None if it could."""

    student: str
    exercise: Exercise
    judged: tuple[Judged, ...] = ()
    hints: int = 0
    cost: int = 0
    problem: str | None = None

    @property
    def earned(self) -> int:
        """Points of the tasks that are met, before hints."""
        return sum(one.points for one in self.judged)

    @property
    def points(self) -> int:
        """Points after hints, never below 0."""
        return max(0, self.earned - self.cost)


# -- the teacher's file ------------------------------------------------------------------------------------------------


def new_class(path: Path, students: tuple[str, ...]) -> None:
    """Write a class's file with a new key, readable by its owner only; an existing one is an OtlabError."""
    made = {"format": "otlab-class-1", "key": secrets.token_hex(32), "students": list(students)}
    if len(set(students)) != len(students):
        raise OtlabError("two students have the same name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(made, file, indent=1)
            file.write("\n")
    except FileExistsError:
        raise OtlabError(f"{path} is there already; a class keeps its key") from None
    except OSError as error:
        raise RunError(f"could not write {path}: {error.strerror or error}") from error
    load(path, ClassFile)


def read_class(path: Path) -> ClassFile:
    """The teacher's file. Raises DocumentError with every mistake in it."""
    return load(path, ClassFile)


def seed_of(key: str, exercise: str, student: str) -> int:
    """The number from which everything that is this student's own in an exercise is drawn."""
    return int.from_bytes(_mac(key, f"seed/{exercise}/{student}")[:6], "big")


def _mac(key: str, text: str) -> bytes:
    return hmac.digest(bytes.fromhex(key), text.encode(), hashlib.sha256)


def _seal(key: str, state: State) -> str:
    return _mac(key, "seal/" + canonical(state.model_dump(exclude={"seal"}))).hex()


# -- handing out -------------------------------------------------------------------------------------------------------


def start(exercise: Exercise, folder: Path, student: str = "me", key: str | None = None) -> State:
    """Make the folder of somebody who learns alone; ``key`` is drawn unless given."""
    mine = key if key is not None else secrets.token_hex(32)
    state = State(format="otlab-exercise-1", exercise=exercise.name, student=student, key=mine)
    return _hand_out(exercise, folder, state, mine)


def prepare(exercise: Exercise, folder: Path, teacher: ClassFile, student: str) -> State:
    """Make the folder that a teacher gives to a student; UnknownNameError for one who is not in the class."""
    if student not in teacher.students:
        raise UnknownNameError("student", student, teacher.students)
    state = State(format="otlab-exercise-1", exercise=exercise.name, student=student)
    return _hand_out(exercise, folder, state, teacher.key, sealed=True)


def _hand_out(exercise: Exercise, folder: Path, state: State, key: str, sealed: bool = False) -> State:
    if (folder / STATE).exists():
        raise OtlabError(f"{folder} holds an exercise already")
    seed = seed_of(key, exercise.name, state.student)
    if exercise.kind == "live":
        state = state.model_copy(update={"seed": seed})
    if sealed:
        state = state.model_copy(update={"seal": _seal(key, state)})
    save_text(folder / STORY, story(exercise))
    if exercise.hand_in is not None:
        save_text(folder / exercise.hand_in.file, exercise.hand_in.begins)
    if exercise.case is not None:
        cases.investigate(exercise, seed, folder)
        lines = [f"  {task.name}: null # {task.title}" for task in exercise.tasks]
        save_text(folder / ANSWERS, "answers:\n" + "\n".join(lines) + "\n")
    save_text(folder / HINTS, json.dumps({"asked": []}) + "\n")
    save_text(folder / STATE, json.dumps(state.model_dump(exclude_none=True), indent=1) + "\n")
    return state


def story(exercise: Exercise) -> str:
    """What the student reads: story, tasks with points, what hints cost; no check and no hint itself."""
    lines = [
        f"# {exercise.title}",
        "",
        f"{exercise.side} side, site {exercise.site}, about {exercise.minutes} minutes, {exercise.points} points",
        "",
        exercise.story.strip(),
        "",
        "## Tasks",
        "",
        *(f"- **{task.name}** ({task.points} points): {task.title}" for task in exercise.tasks),
    ]
    if exercise.hand_in is not None:
        lines += ["", f"Hand in: `{exercise.hand_in.file}` in this folder."]
    if exercise.case is not None:
        lines += ["", f"Handed out: {', '.join(f'`{cases.FILES[one]}`' for one in exercise.case.hands_out)}."]
        lines += [f"Write your answers into `{ANSWERS}`."]
    if exercise.hints:
        costs = ", ".join(str(hint.cost) for hint in exercise.hints)
        lines += ["", f"There are {len(exercise.hints)} hints, for {costs} points in this order."]
    return "\n".join(lines) + "\n"


def read_state(folder: Path) -> tuple[State, Exercise]:
    """What a folder holds. Raises DocumentError for a broken state, UnknownNameError for an exercise not shipped."""
    state = load(folder / STATE, State)
    if state.exercise not in exercise_names():  # a name from a student's file is never a path
        raise UnknownNameError("exercise", state.exercise, exercise_names())
    return state, load_exercise(state.exercise)


def live_seed(folder: Path) -> int:
    """The seed of a folder's live run; OtlabError if its exercise has none."""
    state, exercise = read_state(folder)
    if exercise.kind != "live":
        raise OtlabError(f"{exercise.name} has no live run")
    if state.seed is None:
        raise OtlabError(f"{folder / STATE} is not as it was handed out")
    return state.seed


def ask_hint(folder: Path) -> str:
    """The next hint, whose cost is on record from now on; OtlabError when there are no more."""
    _, exercise = read_state(folder)
    asked = _asked(folder, exercise)
    if len(asked) >= len(exercise.hints):
        raise OtlabError(f"{exercise.name} has no more hints")
    number = len(asked) + 1
    save_text(folder / HINTS, json.dumps({"asked": [*asked, number]}) + "\n")
    return exercise.hints[number - 1].text


def _asked(folder: Path, exercise: Exercise) -> tuple[int, ...]:
    found = load(folder / HINTS, Hints).asked
    if found != tuple(range(1, len(found) + 1)) or len(found) > len(exercise.hints):
        raise OtlabError(f"{folder / HINTS}: hints are asked for in their order")
    return found


# -- judging -----------------------------------------------------------------------------------------------------------


def check(folder: Path, teacher: ClassFile | None = None) -> Result:
    """Judge a folder: make its runs, or play them again, and look.

    Raises OtlabError for a folder of a class without the teacher's file, one that is not what was handed out, or
    something handed in that is wrong.
    """
    state, exercise = read_state(folder)
    key = _key_of(folder, state, teacher)
    seed = seed_of(key, exercise.name, state.student)
    if exercise.kind == "live" and state.key is not None and state.seed != seed:
        raise OtlabError(f"{folder / STATE} is not as it was handed out")
    asked = _asked(folder, exercise)
    judged = judge(exercise, gather(exercise, folder, seed))
    return Result(state.student, exercise, judged, len(asked), sum(exercise.hints[n - 1].cost for n in asked))


def _key_of(folder: Path, state: State, teacher: ClassFile | None) -> str:
    if teacher is None:
        if state.key is None:
            raise OtlabError(f"{folder} is of a class: only its teacher can check it, with --class FILE")
        return state.key
    sealed = state.seal if state.seal is not None else ""
    if state.student not in teacher.students or not hmac.compare_digest(sealed, _seal(teacher.key, state)):
        raise OtlabError(f"{folder / STATE} is not as it was handed out to this class")
    return teacher.key


def gather(exercise: Exercise, folder: Path, seed: int) -> Evidence:
    """What there is to look at in a student's folder."""
    if exercise.kind == "live":
        return play(exercise, folder / LIVE / "inputs.jsonl", seed)
    if exercise.kind == "questions":
        given = load(folder / ANSWERS, Answers).answers
        by_truth: dict[Truth, Any] = {
            one.truth: given.get(task.name)
            for task in exercise.tasks
            for one in task.checks
            if one.check == "answer"
        }
        return Evidence(answers=by_truth, truths=cases.investigate(exercise, seed))
    assert exercise.hand_in is not None
    path = folder / exercise.hand_in.file
    with tempfile.TemporaryDirectory(prefix="otlab-") as scratch:
        return _try_out(exercise, path, Path(scratch))


def _try_out(exercise: Exercise, path: Path, scratch: Path) -> Evidence:
    """Run the site with what was handed in."""
    assert exercise.hand_in is not None
    evidence = Evidence()
    where, scenario = exercise.site, None
    match exercise.hand_in.format:
        case "controls":
            evidence.selection = load_selection(path)
        case "conduits":
            evidence.site = variants.with_rules(
                exercise.site, load(path, variants.ConduitRules), scratch / "site"
            )
            where = str(scratch / "site")
        case "zoning":
            evidence.site = variants.with_zones(exercise.site, load(path, variants.Zoning), scratch / "site")
            where = str(scratch / "site")
        case "scenario":
            _keep_to(exercise.hand_in, load_scenario(path, site_of(exercise.site)))
            scenario = str(path)
    for name, one in exercise.runs.items():
        evidence.runs[name] = _run(one, where, evidence.selection, scenario)
    return evidence


def _keep_to(asked: HandIn, scenario: Scenario) -> None:
    """OtlabError for a scenario that does what the exercise does not allow."""
    attacker = scenario.attacker
    if attacker is None or attacker.zone is None or attacker.zone not in asked.zones:
        raise OtlabError(f"the attacker has a machine of their own in zone {' or '.join(asked.zones)}")
    if attacker.has or attacker.profile is not None:
        raise OtlabError("the attacker has nothing from the start, and no profile")
    for step in scenario.steps:
        if step.action not in asked.actions:
            raise OtlabError(f"{step.action} is not allowed here; there are {', '.join(asked.actions)}")


def _run(one: Run, where: str, chosen: Selection | None, handed_in: str | None) -> Ran:
    selection = chosen if chosen is not None else select(SecurityLevels.uniform(one.level), one.add)
    experiment = Experiment.of(where, selection, handed_in or one.scenario, one.seed, one.duration)
    record, trace = run(experiment, begin=one.begin)
    return Ran(record, trace, one.duration)


def as_data(result: Result) -> Mapping[str, Any]:
    """A result as JSON-ready data."""
    return {
        "student": result.student,
        "exercise": result.exercise.name,
        "points": result.points,
        "of": result.exercise.points,
        "hints": result.hints,
        "cost": result.cost,
        "problem": result.problem,
        "tasks": {one.task.name: one.met for one in result.judged},
    }

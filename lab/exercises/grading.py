"""Grades of a class: every student's folders judged, as CSV and as pages of HTML.

The pages are complete in themselves, need no script and ask for nothing. They hold no answer: a page can be given
back to its student while others still work.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from lab.exercises import packs
from lab.exercises.packs import ClassFile, Result
from results.store import save_text
from testbed.errors import OtlabError

#: Folders of students are looked for at most so deep: class/student/exercise.
_DEPTH: Final = 3
_COLUMNS: Final = ("student", "exercise", "points", "of", "earned", "hints", "cost", "met", "problem")


@dataclass(frozen=True, slots=True)
class Student:
    """One student's results, in the order of the exercises' names."""

    name: str
    results: tuple[Result, ...]

    @property
    def points(self) -> int:
        return sum(one.points for one in self.results)

    @property
    def total(self) -> int:
        return sum(one.exercise.points for one in self.results)


def grade(folder: Path, teacher: ClassFile | None = None) -> tuple[Student, ...]:
    """Judge every exercise below ``folder``. One that cannot be judged has 0 points and says why; it stops nothing.

    Raises OtlabError if there is none, or one student has handed in the same exercise twice.
    """
    found: dict[str, list[Result]] = {}
    for place in _places(folder):
        result = _judged(place, teacher)
        mine = found.setdefault(result.student, [])
        if any(one.exercise.name == result.exercise.name for one in mine):
            raise OtlabError(
                f"{result.student} has handed in {result.exercise.name} twice; the second is {place}"
            )
        mine.append(result)
    if not found:
        raise OtlabError(f"there is no exercise in {folder}")
    return tuple(
        Student(name, tuple(sorted(mine, key=lambda one: one.exercise.name)))
        for name, mine in sorted(found.items())
    )


def _judged(place: Path, teacher: ClassFile | None) -> Result:
    state, exercise = packs.read_state(place)
    try:
        return packs.check(place, teacher)
    except OtlabError as error:
        return Result(state.student, exercise, problem=str(error))


def _places(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Folders with an exercise at or below ``folder``; links are not followed."""
    if (folder / packs.STATE).is_file():
        yield folder
        return
    if depth == 0:
        return
    for one in sorted(folder.iterdir() if folder.is_dir() else ()):
        if one.is_dir() and not one.is_symlink():
            yield from _places(one, depth - 1)


def table(students: Sequence[Student]) -> str:
    """The grades as CSV, one line for each student and exercise."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for student in students:
        for one in student.results:
            met = " ".join(each.task.name for each in one.judged if each.met)
            problem = (one.problem or "").replace("\n", "; ")
            row = (student.name, one.exercise.name, one.points, one.exercise.points, one.earned)
            writer.writerow([*row, one.hints, one.cost, met, _inert(problem)])
    return out.getvalue()


def _inert(text: str) -> str:
    """What a spreadsheet shows and does not compute, although a student's file may have worded it."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def pages(students: Sequence[Student]) -> dict[str, str]:
    """The class's page as ``grade.html``, and each student's as ``NAME.html``."""
    environment = Environment(
        loader=PackageLoader("lab.exercises", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    exercises = sorted({one.exercise.name for each in students for one in each.results})
    whole = environment.get_template("class.html.j2")
    single = environment.get_template("student.html.j2")
    made = {"grade.html": whole.render(students=students, exercises=exercises)}
    return made | {f"students/{each.name}.html": single.render(student=each) for each in students}


def save(students: Sequence[Student], folder: Path) -> None:
    """Write ``grade.csv``, ``grade.html`` and each student's page. Raises RunError naming a file."""
    save_text(folder / "grade.csv", table(students))
    for name, text in pages(students).items():
        save_text(folder / name, text)

"""``otlab exercise``: exercises with checks and grades."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.groups import Group
from testbed.errors import OtlabError

if TYPE_CHECKING:
    from lab.exercises.packs import Result

_folder = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
_class = click.option(
    "--class",
    "teacher",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The teacher's file, of `otlab exercise class`.",
)


@click.group(cls=Group)
def exercise() -> None:
    """Exercises with tasks, hints, checks and grades: see the student's and the instructor's guide."""


@exercise.command("list")
def list_() -> None:
    """List the exercises."""
    from lab.exercises.model import exercise_names, load_exercise

    for name in exercise_names():
        one = load_exercise(name)
        about = f"{one.side:4} {one.kind:9} {one.site:7} {one.points:4} points  {one.minutes:3} min"
        click.echo(f"{name:24} {about}  {one.title}")


@exercise.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show an exercise's story and tasks; nothing that gives an answer away."""
    from lab.exercises.model import load_exercise
    from lab.exercises.packs import story

    click.echo(story(load_exercise(name)), nl=False)


@exercise.command("start")
@click.argument("name")
@click.option("--student", default="me", show_default=True, help="Whose folder it is.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="The folder. [default: exercises/NAME]",
)
def start(name: str, student: str, out: Path | None) -> None:
    """Begin an exercise alone: make its folder, with all that is handed out."""
    from lab.exercises import packs
    from lab.exercises.model import load_exercise

    one = load_exercise(name)
    folder = out if out is not None else Path("exercises") / one.name
    packs.start(one, folder, student)
    click.echo(packs.story(one))
    click.echo(f"{one.name}: {folder}")
    if one.kind == "live":
        click.echo(f"begin its run with: otlab exercise run {folder}")


@exercise.command("run")
@_folder
@click.option("--speed", type=click.FloatRange(0.1, 1000), default=1.0, show_default=True)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 for a free one."
)
@click.option(
    "--attach",
    "ports",
    multiple=True,
    type=click.IntRange(0, 65535),
    help="Port of 127.0.0.1 for each socket of the exercise, in order; any free one if not given.",
)
@click.option("--terminal", is_flag=True, help="Also work the station here, by lines: without a browser.")
@click.option("--again", is_flag=True, help="Throw away the run that is there.")
def run_(folder: Path, speed: float, port: int, ports: tuple[int, ...], terminal: bool, again: bool) -> None:
    """Run the live part of an exercise until Ctrl-C; only the student's pages and sockets are told."""
    from lab.exercises import packs
    from lab.exercises.live import host

    _, one = packs.read_state(folder)
    host(
        one,
        packs.live_seed(folder),
        folder / packs.LIVE,
        speed=speed,
        port=port,
        ports=ports,
        terminal=terminal,
        again=again,
    )


@exercise.command("hint")
@_folder
def hint(folder: Path) -> None:
    """Show the next hint; that it was asked for is on record, and costs points."""
    from lab.exercises import packs

    click.echo(packs.ask_hint(folder))


@exercise.command("check")
@_folder
@_class
def check(folder: Path, teacher: Path | None) -> None:
    """Say which tasks are met. Exit code 1 if any is not."""
    from lab.exercises import packs

    result = packs.check(folder, packs.read_class(teacher) if teacher is not None else None)
    click.echo(told(result))
    if not all(one.met for one in result.judged):
        raise click.exceptions.Exit(1)


def told(result: Result) -> str:
    """A result in lines."""
    lines = []
    for one in result.judged:
        lines.append(f"{'met ' if one.met else 'open'} {one.points:3}/{one.task.points:<3} {one.task.title}")
        lines.append(f"             {'; '.join(one.found)}")
    if result.hints:
        lines.append(f"hints {-result.cost}")
    lines.append(f"{result.points} of {result.exercise.points} points")
    return "\n".join(lines)


@exercise.command("class")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("students", nargs=-1, required=True)
def class_(file: Path, students: tuple[str, ...]) -> None:
    """Make a teacher's file for these students. Keep it: it is the key, and students must not have it."""
    from lab.exercises import packs

    packs.new_class(file, students)
    click.echo(f"{len(students)} students: {file}")


@exercise.command("prepare")
@click.argument("name")
@click.option(
    "--class", "teacher", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("class"),
    show_default=True,
    help="Where each student gets a folder.",
)
def prepare(name: str, teacher: Path, out: Path) -> None:
    """Make the folder of every student of a class, to be handed out."""
    from lab.exercises import packs
    from lab.exercises.model import load_exercise

    one, found = load_exercise(name), packs.read_class(teacher)
    taken = [student for student in found.students if (out / student / one.name).exists()]
    if taken:
        raise OtlabError(f"{out / taken[0] / one.name} is there already")
    for student in found.students:
        packs.prepare(one, out / student / one.name, found, student)
        click.echo(out / student / one.name)


@exercise.command("grade")
@_folder
@_class
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("grades"),
    show_default=True,
    help="Folder of grade.csv, grade.html and each student's page.",
)
def grade(folder: Path, teacher: Path | None, out: Path) -> None:
    """Judge all folders below FOLDER, and write the grades."""
    from lab.exercises import grading, packs

    students = grading.grade(folder, packs.read_class(teacher) if teacher is not None else None)
    grading.save(students, out)
    for student in students:
        click.echo(f"{student.name:20} {student.points:4} of {student.total}")
        for one in student.results:
            if one.problem is not None:
                click.echo(f"  {one.exercise.name}: {one.problem}", err=True)
    click.echo(out / "grade.html")

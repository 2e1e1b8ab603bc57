"""Exercises as files, students' folders and grades: what is told, what is kept back, what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from exercise_desk import KEY, met
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.cli import main
from lab.exercises import cases, grading, packs
from lab.exercises.model import Exercise, exercise_names, load_exercise
from lab.exercises.packs import ClassFile
from testbed.document import parse
from testbed.errors import DocumentError, OtlabError

PCAP = "investigate-the-pcap"
HUNT = "hunt-in-the-siem"


def otlab(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(one) for one in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def answer(folder: Path, truths: dict[str, object]) -> None:
    """Answer every task of the folder's exercise by ``truths``."""
    _, exercise = packs.read_state(folder)
    lines = ["answers:"]
    for task in exercise.tasks:
        (check,) = task.checks
        assert check.check == "answer"
        lines.append(f"  {task.name}: {json.dumps(truths[check.truth])}")
    (folder / packs.ANSWERS).write_text("\n".join(lines) + "\n", encoding="utf-8")


# -- the library -------------------------------------------------------------------------------------------------------


def test_there_are_enough_exercises_of_each_side_kind_and_site() -> None:
    all_ = [load_exercise(name) for name in exercise_names()]
    assert len(all_) >= 16
    assert {one.side for one in all_} == {"red", "blue"}
    assert {one.kind for one in all_} == {"live", "file", "questions"}
    assert {one.site for one in all_} == {"water", "boiler", "reactor"}


@pytest.mark.parametrize("name", exercise_names())
def test_a_shipped_exercise_has_its_own_name_and_a_hundred_points(name: str) -> None:
    one = load_exercise(name)
    assert one.name == name
    assert one.points == 100
    assert one.hints


@pytest.mark.parametrize("name", exercise_names())
def test_what_a_student_reads_holds_no_hint_and_no_check(name: str) -> None:
    one = load_exercise(name)
    text = packs.story(one)
    assert not any(hint.text in text for hint in one.hints)
    if one.live is not None and one.live.scenario is not None:
        assert one.live.scenario not in text


WHOLE = """
name: mine
title: Mine
side: red
kind: live
site: water
minutes: 5
story: Do it.
live: {lasts: 60}
tasks:
  - name: one
    title: One
    points: 10
    checks: [{check: safe}]
"""


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("points: 10", "points: lots"), 13, "tasks[0].points"),
        (("check: safe", "check: sane"), 14, "tasks[0].checks[0]"),
        (("check: safe", "check: work, task: x, within: 3"), 14, "exercises of kind file"),
        (("check: safe", "check: signal, signal: x"), 14, "above something or below"),
        (("checks:", "needs: [two]\n    checks:"), 14, "no task before this one is named 'two'"),
        (("live: {lasts: 60}", ""), 2, "live"),
        (("story: Do it.", "story: Do it.\nanswer: 42"), 9, "unknown key"),
    ],
)
def test_a_mistake_in_an_exercise_is_told_with_line_and_key(
    change: tuple[str, str], line: int, said: str
) -> None:
    assert parse(WHOLE, "mine.yaml", Exercise).points == 10
    with pytest.raises(DocumentError) as told:
        parse(WHOLE.replace(*change), "mine.yaml", Exercise)
    assert said in str(told.value)
    if said != "live":
        assert any(one.line == line for one in told.value.problems), str(told.value)


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher() -> ClassFile:
    return ClassFile(format="otlab-class-1", key=KEY, students=("anna", "bert", "carl"))


@pytest.fixture(scope="module")
def handed_out(teacher: ClassFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class's folders of the hunt, for anna and bert."""
    folder = tmp_path_factory.mktemp("class")
    for student in ("anna", "bert"):
        packs.prepare(load_exercise(HUNT), folder / student / HUNT, teacher, student)
    return folder


def truths_of(student: str, name: str = HUNT) -> dict[str, object]:
    exercise = load_exercise(name)
    return dict(cases.investigate(exercise, packs.seed_of(KEY, name, student)))


@pytest.fixture(scope="module")
def truths() -> dict[str, dict[str, object]]:
    return {student: truths_of(student) for student in ("anna", "bert")}


@pytest.mark.slow
def test_two_students_are_given_different_cases(
    handed_out: Path, truths: dict[str, dict[str, object]]
) -> None:
    logs = [(handed_out / one / HUNT / "siem.jsonl").read_bytes() for one in ("anna", "bert")]
    assert logs[0] != logs[1]
    assert truths["anna"] != truths["bert"]


@pytest.mark.slow
def test_a_folder_of_a_class_holds_no_key_seed_or_answer(handed_out: Path) -> None:
    folder = handed_out / "anna" / HUNT
    seed = packs.seed_of(KEY, HUNT, "anna")
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        assert KEY not in text
        assert str(seed) not in text
        assert "attack." not in text
    state = json.loads((folder / packs.STATE).read_text())
    assert state.keys() == {"format", "exercise", "student", "seal"}
    with pytest.raises(OtlabError, match="only its teacher can check it"):
        packs.check(folder)


@pytest.mark.slow
def test_what_is_asked_for_can_be_found_in_what_is_handed_out(
    handed_out: Path, truths: dict[str, dict[str, object]]
) -> None:
    for student in ("anna", "bert"):
        lines = [
            json.loads(line) for line in (handed_out / student / HUNT / "siem.jsonl").read_text().splitlines()
        ]
        address = {"plc1": "10.0.4.11", "plc2": "10.0.4.12", "plc3": "10.0.4.13"}[
            str(truths[student]["target"])
        ]
        about = [one for one in lines if one.get("subject") == truths[student]["alerted_subject"]]
        assert any(one.get("target") == address for one in about)
        assert any(
            one["kind"] == "alert" and one["t"] == truths[student]["first_alert"] for one in about
        ) or (
            min(one["t"] for one in about if one["kind"] == "alert")
            == pytest.approx(truths[student]["first_alert"])
        )


@pytest.mark.slow
def test_right_answers_meet_every_task_and_anothers_do_not(
    handed_out: Path, teacher: ClassFile, truths: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    shutil.copytree(handed_out / "anna" / HUNT, folder)
    assert met(packs.check(folder, teacher)) == set()
    answer(folder, truths["anna"])
    assert packs.check(folder, teacher).points == 100
    answer(folder, truths["bert"])
    assert packs.check(folder, teacher).points < 100


@pytest.mark.slow
def test_a_folder_that_was_changed_is_not_taken_for_another(
    handed_out: Path, teacher: ClassFile, tmp_path: Path
) -> None:
    for old, new in (("anna", "bert"), (HUNT, PCAP), ("anna", "zoe")):
        folder = tmp_path / new
        shutil.copytree(handed_out / "anna" / HUNT, folder)
        state = folder / packs.STATE
        state.write_text(state.read_text().replace(f'"{old}"', f'"{new}"'))
        with pytest.raises(OtlabError, match="not as it was handed out to this class"):
            packs.check(folder, teacher)


@pytest.mark.slow
def test_a_hint_costs_points_and_is_on_record(handed_out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(handed_out / "anna" / HUNT, folder)
    hints = load_exercise(HUNT).hints
    assert [packs.ask_hint(folder) for _ in hints] == [hint.text for hint in hints]
    with pytest.raises(OtlabError, match="no more hints"):
        packs.ask_hint(folder)
    assert json.loads((folder / packs.HINTS).read_text()) == {"asked": [1, 2]}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_a_broken_folder_is_told_in_a_sentence(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / packs.STATE).write_bytes(junk)
    with pytest.raises(OtlabError):
        packs.read_state(tmp_path)


def test_a_state_cannot_name_a_file_as_its_exercise(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(WHOLE)
    state = {"format": "otlab-exercise-1", "exercise": str(tmp_path / "own.yaml"), "student": "me"}
    (tmp_path / packs.STATE).write_text(json.dumps(state))
    with pytest.raises(OtlabError, match="unknown exercise"):
        packs.read_state(tmp_path)


# -- grades ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_class_is_graded_though_one_folder_is_broken(
    handed_out: Path, teacher: ClassFile, truths: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    folder = tmp_path / "class"
    shutil.copytree(handed_out, folder)
    answer(folder / "anna" / HUNT, truths["anna"])
    packs.ask_hint(folder / "anna" / HUNT)
    (folder / "bert" / HUNT / packs.ANSWERS).write_text("answers: [<script>alert(1)</script>]\n")
    students = grading.grade(folder, teacher)
    assert [(one.name, one.points, one.total) for one in students] == [("anna", 90, 100), ("bert", 0, 100)]
    grading.save(students, tmp_path / "grades")
    rows = list(csv.DictReader((tmp_path / "grades" / "grade.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["student"], row["points"], row["cost"]) for row in rows] == [
        ("anna", "90", "10"),
        ("bert", "0", "0"),
    ]
    assert "answers" in rows[1]["problem"]
    pages = {path.name: path.read_text() for path in (tmp_path / "grades").rglob("*.html")}
    assert set(pages) == {"grade.html", "anna.html", "bert.html"}
    for text in pages.values():
        assert "<script" not in text
        assert not re.search(r"(src|href)=\"https?:", text)
        assert str(truths["anna"]["alerted_subject"]) not in text
    assert "90/100" in pages["grade.html"]
    assert "✓ met" in pages["anna.html"]


def test_a_cell_that_a_spreadsheet_would_compute_is_made_inert() -> None:
    exercise = load_exercise(HUNT)
    student = grading.Student("anna", (packs.Result("anna", exercise, problem="=HYPERLINK(1)\nx"),))
    (row,) = csv.DictReader(grading.table((student,)).splitlines())
    assert row["problem"] == "'=HYPERLINK(1); x"


# -- the command line --------------------------------------------------------------------------------------------------


def test_list_and_show_name_the_exercises() -> None:
    code, text = otlab("exercise", "list")
    assert code == 0
    assert all(name in text for name in exercise_names())
    code, text = otlab("exercise", "show", "stop-a-pump")
    assert code == 0
    assert "Stop a pump" in text


def test_a_users_mistakes_are_one_sentence(tmp_path: Path) -> None:
    for arguments in (
        ("exercise", "show", "nosuch"),
        ("exercise", "check", tmp_path),
        ("exercise", "grade", tmp_path),
        ("exercise", "run", tmp_path),
        ("exercise", "prepare", HUNT, "--class", tmp_path / "none.json"),
        ("exercise", "class", tmp_path / "class.json", "a b"),
        ("exercise", "class", tmp_path / "class.json", "a", "a"),
    ):
        code, text = otlab(*arguments)
        assert code == 2, text
        assert "Traceback" not in text


def test_a_class_keeps_its_key(tmp_path: Path) -> None:
    path = tmp_path / "class.json"
    assert otlab("exercise", "class", path, "anna", "bert")[0] == 0
    assert path.stat().st_mode & 0o077 == 0
    before = path.read_bytes()
    assert otlab("exercise", "class", path, "anna")[0] == 2
    assert path.read_bytes() == before


def test_alone_one_starts_asks_and_checks(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    code, text = otlab("exercise", "start", "stop-a-pump", "--out", folder)
    assert (code, "otlab exercise run" in text) == (0, True)
    assert otlab("exercise", "start", "stop-a-pump", "--out", folder)[0] == 2
    assert "automatic" in otlab("exercise", "hint", folder)[1]
    code, text = otlab("exercise", "check", folder)
    assert code == 2
    assert "inputs.jsonl" in text

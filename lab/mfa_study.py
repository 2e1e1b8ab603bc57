"""The study of MFA against operability: arms, the runs of each, and what is written about them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final

from controls.catalogue import SecurityLevels
from controls.profiles import with_needs
from controls.selection import select
from devices.crew import CrewOperator, Method
from devices.hmi import Alarm
from devices.operator import Action
from devices.reliability import HumanModel
from lab.campaign import Processes, key_of
from results.look import png
from results.mfa import GRID, ArmResult, slower, worse_from
from results.statistics import Estimate
from results.store import content_key, save_bytes, save_text
from results.trade_figures import missed_deadlines
from scenarios.emergencies import Leeway
from scenarios.experiment import Experiment, prepare, run
from testbed.figures import load_figures
from testbed.network import Host
from testbed.site import Response

#: When the alarm comes, how long an answer is waited for, and how often it is looked (s).
DEMAND, PATIENCE, LOOK = 90.0, 14_400.0, 10.0
DRILL_SITE: Final = "boiler"
DRILL: Final = Alarm("DRILL", "HH", DEMAND, 0.0)
ANSWER: Final = (Action("FEEDWATER_CMD", 65.0),)
INTRUSIONS: Final = (
    "account-default-password",
    "account-guessed",
    "account-stolen-inside",
    "account-phished-outside",
    "account-phished-code",
)
INTRUSION_SITE, INTRUSION_LENGTH = "water", 700.0
COMPENSATING: Final = ("break_glass", "dual_operators", "enhanced_physical_security")
#: An idle session locks after 5 min, so that log-ins in emergencies are seen; an attended room needs no such lock.
LOCK: Final = ("session.lock_after", 300.0)
ATTENDED: Final = ("session.lock_after", 28_800.0)


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm; ``extra`` are requirements beside the levels, ``outage`` takes the authentication server away."""

    name: str
    iac: int
    mfa: Method = "totp"
    compensating: tuple[str, ...] = ()
    overrides: tuple[tuple[str, float], ...] = (LOCK,)
    extra: tuple[str, ...] = ()
    outage: bool = False
    #: whether the site's procedure has the drill's answer, so that dual approval lets it through at once
    procedure: bool = True

    def experiment(
        self, site: str, scenario: str | None, seed: int, duration: float, human: HumanModel
    ) -> Experiment:
        """The arm's run."""
        # Use control needs to know who somebody is, so that it goes as far as IAC does.
        levels = SecurityLevels.parse(f"IAC={self.iac},UC={min(self.iac, 1)}")
        selection = select(levels, with_needs(self.extra), name=self.name, compensating=self.compensating)
        return Experiment.of(
            site, selection, scenario, seed, duration, self.overrides, human=human, mfa=self.mfa
        )


ARMS: Final = (
    *(Arm(f"SL {level}", level) for level in range(5)),
    Arm("SL 4, push", 4, "push"),
    Arm("SL 4, badge", 4, "badge"),
    Arm("SL 4, FIDO", 4, "fido"),
    Arm("SL 4, lock 1 min", 4, overrides=(("session.lock_after", 60.0),)),
    Arm("SL 4, lock 15 min", 4, overrides=(("session.lock_after", 900.0),)),
    Arm("SL 4, lock 8 h", 4, overrides=(ATTENDED,)),
    Arm("SL 4, dual approval", 4, extra=("SR 2.1 RE 4",)),
    Arm("SL 4, dual, no procedure", 4, extra=("SR 2.1 RE 4",), procedure=False),
    Arm("SL 4, server out", 4, outage=True),
    Arm("SL 4, break-glass", 4, compensating=("break_glass",)),
    Arm("SL 4, compensating set", 4, compensating=COMPENSATING, overrides=(ATTENDED,)),
)


def answer(experiment: Experiment, outage: bool, procedure: bool = True) -> float | None:
    """Seconds from an alarm to the operator's completed action; None if it was not done in four hours."""
    world, _ = prepare(experiment)
    try:
        operator = next(iter(world.operators.values()))
        people = [operator, *(() if operator.colleague is None else (operator.colleague,))]
        for one in people:
            one.responses = {**one.responses, DRILL.key: ANSWER}
        hmi, stream, figures = operator.hmi, world.stream("emergency"), world.figures
        if procedure:
            owner = {tag: plc for plc, each in world.site.controllers().items() for tag in each.tags}
            steps = tuple(Response(plc=owner[one.tag], tag=one.tag, value=one.value) for one in ANSWER)
            hmi.asset = hmi.asset.model_copy(update={"responses": {**hmi.asset.responses, DRILL.key: steps}})
        idle = stream.expovariate(1.0 / figures["operator.routine"])
        handover = stream.random() < figures["operators.handover"] / figures["operators.shift"]
        missing = stream.random() < figures["login.token_missing"]

        def begin(_: object) -> None:
            # How long nobody has touched the screen: the age of a Poisson routine at a time of no one's choosing.
            if hmi.session is not None:
                hmi.session.last_action = hmi.loop.time() - idle
            if handover and isinstance(operator, CrewOperator):
                operator.hand_over()
            operator.token_left = missing
            hmi.alarms[DRILL.key] = DRILL
            for told in hmi.on_alarm:
                told(DRILL, True)

        world.start()
        if outage:
            for server in world.auth_servers.values():
                world.loop.wake(DEMAND - 1.0, Host.power_off, server.host)
        world.loop.wake(DEMAND, begin, None)
        until = DEMAND
        while until < DEMAND + PATIENCE:
            until += LOOK if until < DEMAND + 1200.0 else 60 * LOOK
            world.loop.run_to(until)
            done: list[float] = [
                end - raised for one in people for raised, end in one.completed if raised == DEMAND
            ]
            if done:
                return round(min(done), 3)
            if sum(one.missed for one in people):
                return None
        return None
    finally:
        world.close()


def intruded(experiment: Experiment) -> bool:
    """Whether anything that the attacker did was let through to the process."""
    record, trace = run(experiment)
    steps = [one for one in trace.events if one.kind == "attack.step"]
    return any(one.data["outcome"] == "done" for one in steps) and record.succeeded > 0


def _measure(experiment: Experiment, outage: bool, procedure: bool) -> float | bool | None:
    return intruded(experiment) if experiment.scenario is not None else answer(experiment, outage, procedure)


def study(
    arms: Sequence[Arm],
    seeds: int,
    intrusion_seeds: int,
    human: HumanModel,
    folder: Path,
    workers: int,
    progress: Callable[[], None] = lambda: None,
) -> list[ArmResult]:
    """Measure each arm; what ``folder`` holds by the content of its experiment is not run again."""
    wanted: list[tuple[Arm, Experiment, Path]] = []
    for arm in arms:
        runs = [
            arm.experiment(DRILL_SITE, None, seed, PATIENCE + DEMAND, human) for seed in range(1, seeds + 1)
        ]
        for scenario in INTRUSIONS:
            for seed in range(1, intrusion_seeds + 1):
                runs.append(arm.experiment(INTRUSION_SITE, scenario, seed, INTRUSION_LENGTH, human))
        for one in runs:
            key = content_key(
                {"experiment": key_of(one), "outage": arm.outage, "procedure": arm.procedure, "study": "mfa"}
            )
            wanted.append((arm, one, folder / f"{key}.json"))
    _complete(wanted, workers, progress)
    found = []
    for arm in arms:
        mine = [(one, json.loads(path.read_text())) for of, one, path in wanted if of == arm]
        answers = tuple(value for one, value in mine if one.scenario is None)
        attacks = [value for one, value in mine if one.scenario is not None]
        found.append(ArmResult(arm.name, answers, sum(attacks), len(attacks)))
    return found


def _complete(
    wanted: Sequence[tuple[Arm, Experiment, Path]], workers: int, progress: Callable[[], None]
) -> None:
    missing = {(one, arm.outage, arm.procedure): path for arm, one, path in wanted if not path.exists()}
    for outage, procedure in product((False, True), repeat=2):
        calls = [call for call in missing if call[1:] == (outage, procedure)]
        for (one,), value in Processes(workers).run(_measure, calls, progress):
            save_text(missing[one, outage, procedure], json.dumps(value))


def write(results: Sequence[ArmResult], leeways: Sequence[Leeway], out: Path) -> None:
    """The table of the curve as CSV, the figure, and a page with the numbers."""
    save_text(out / "mfa-versus-operability.csv", table(results))
    save_text(out / "mfa-versus-operability.md", page(results, leeways))
    marks = [(one.scenario.removeprefix("emergency-"), one.answer_within) for one in leeways]
    save_bytes(out / "mfa-versus-operability.png", png(missed_deadlines(results, marks, rates())))


def rates() -> tuple[float, float]:
    """Intrusions and emergencies a year."""
    figures = load_figures()
    return figures["study.intrusions_per_year"], figures["study.emergencies_per_year"]


def table(results: Sequence[ArmResult]) -> str:
    """Arm, process safety time, missed share and total with their bounds."""
    buffer = io.StringIO()
    sheet = csv.writer(buffer, lineterminator="\n")
    sheet.writerow(
        ["arm", "within_s", "missed", "low", "high", "total_per_year", "total_low", "total_high", "intruded"]
    )
    for one in results:
        for within in GRID:
            missed, total = one.missed(within), one.total(within, *rates())
            numbers = (missed.value, missed.low, missed.high, total.value, total.low, total.high)
            sheet.writerow(
                [
                    one.name,
                    f"{within:g}",
                    *(f"{x:.4f}" for x in numbers if x is not None),
                    f"{one.acted}/{one.tried}",
                ]
            )
    return buffer.getvalue()


def page(results: Sequence[ArmResult], leeways: Sequence[Leeway]) -> str:
    """The numbers as Markdown."""
    shown = (60.0, 120.0, 180.0, 300.0, 600.0, 1800.0, 7200.0)
    lines = [
        "| emergency | site | alarm after | limit after | left to answer | what is reached |",
        "|" + "---|" * 6,
    ]
    for leeway in leeways:
        times = (leeway.alarm, leeway.unsafe, leeway.answer_within)
        cells = " | ".join(f"{x:.0f} s" for x in times)
        lines.append(f"| {leeway.scenario} | {leeway.site} | {cells} | {leeway.signal} |")
    lines += [
        "",
        "Share of emergencies missed (95 % Wilson interval), by time left from alarm to limit, in percent:",
        "",
    ]
    lines += [f"| arm | {' | '.join(f'{x:g} s' for x in shown)} | intrusions that act |", "|" + "---|" * 9]
    for one in results:
        cells = " | ".join(_percent(one.missed(within)) for within in shown)
        lines.append(f"| {one.name} | {cells} | {one.acted} of {one.tried} |")
    low = results[0]
    lines += ["", f"Seconds later than with {low.name}, paired by seed (95 % bootstrap interval):", ""]
    lines += [f"- {one.name}: {_seconds(slower(one, low))}" for one in results[1:]]
    lines += ["", f"Times at which the total is worse than with {low.name} (s):", ""]
    for one in results[1:]:
        worse = worse_from(low, one, *rates())
        lines.append(f"- {one.name}: {', '.join(f'{x:g}' for x in worse) or 'none'}")
    return "\n".join(lines) + "\n"


def _seconds(one: Estimate) -> str:
    if one.value is None:
        return "-"
    bounds = f" ({one.low:.0f} to {one.high:.0f})" if one.low is not None and one.high is not None else ""
    return f"{one.value:+.0f}{bounds}"


def _percent(one: Estimate) -> str:
    if one.value is None or one.low is None or one.high is None:
        return "-"
    return f"{100 * one.value:.0f} ({100 * one.low:.0f}-{100 * one.high:.0f})"

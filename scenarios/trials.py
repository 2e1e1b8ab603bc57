"""The trial of each requirement: the situation in which having it or not must make a difference.

A trial is data: a scenario, the other requirements that are in force on both sides, and the one outcome that is
expected to change, stated before anything is run. ``otlab ablate`` runs it with the requirement and without.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

from pydantic import Field, RootModel, StringConstraints

from controls import profiles
from controls.catalogue import catalogue
from scenarios.experiment import Experiment
from testbed.document import Document, load
from testbed.errors import OtlabError, UnknownNameError
from testbed.site import Name, RequirementId


class Trial(Document):
    """One requirement's trial; ``context`` is in force on both sides beside what the requirement needs.

    ``shows`` names the outcome (``results.outcomes``) that is to change, ``says`` the difference in one sentence;
    ``set`` overrides figures on both sides.
    """

    scenario: Name
    context: tuple[RequirementId, ...] = ()
    duration: Annotated[float, Field(ge=60)] = 900.0
    shows: Annotated[str, StringConstraints(pattern=r"^[a-z]+\.[a-z_]+$")]
    says: Annotated[str, StringConstraints(min_length=20)]
    site: str = "water"
    set: dict[str, float] = Field(default_factory=dict)

    def arm(self, requirement: str, seed: int, *, on: bool, attack: bool = True) -> Experiment:
        """The experiment of one side: with the requirement or without it, with the scenario or without it."""
        names = set(profiles.with_needs((requirement, *self.context))) - {requirement}
        if missing := sorted(names & profiles.dependents(requirement)):
            raise OtlabError(f"trial of {requirement}: {', '.join(missing)} in its context needs it")
        if on:
            names.add(requirement)
        return Experiment(
            self.site,
            profiles.check(names),
            f"with {requirement}" if on else f"without {requirement}",
            self.scenario if attack else None,
            seed,
            self.duration,
            tuple(sorted(self.set.items())),
        )


class TrialTable(RootModel[dict[RequirementId, Trial]]):
    """The shape of a file of trials: requirement -> trial."""


@cache
def trials() -> dict[str, Trial]:
    """Every shipped trial by requirement, in the standard's order. Raises OtlabError for two of one requirement."""
    found: dict[str, Trial] = {}
    with as_file(files("scenarios") / "trials") as folder:
        for path in sorted(Path(folder).glob("*.yaml")):
            for name, trial in load(path, TrialTable).root.items():
                if name not in catalogue():
                    raise UnknownNameError("requirement", name, catalogue())
                if name in found:
                    raise OtlabError(f"{path.name}: {name} has a trial already")
                found[name] = trial
    return {name: found[name] for name in catalogue() if name in found}

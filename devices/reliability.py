"""Human reliability: published formulas for how probable an error is, and how long a diagnosis takes.

HEART (Williams 1986), SPAR-H (NUREG/CR-6883), dependence as in THERP (NUREG/CR-1278, table 20-17), and HCR (EPRI
NP-6560, from memory). All were read in secondary sources (docs/explanation/operators.md).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from testbed.figures import Figures

#: How an operator is modeled. "simple": times only, no error and no attention; "lognormal": attention and floods with
#: the times of the table; the others add their method.
HumanModel: TypeAlias = Literal["simple", "lognormal", "hcr", "spar-h", "heart"]
HUMAN_MODELS: Final[tuple[HumanModel, ...]] = ("simple", "lognormal", "hcr", "spar-h", "heart")
#: HCR's b, Ce and Cg by kind of behavior.
HCR: Final = {"skill": (1.2, 0.407, 0.7), "rule": (0.9, 0.601, 0.6), "knowledge": (0.8, 0.791, 0.5)}
#: THERP's levels of dependence: zero, low, moderate, high, complete.
DEPENDENCE: Final = {"zero": (0, 1), "low": (1, 19), "moderate": (1, 6), "high": (1, 1), "complete": (1, 0)}
#: Nominal error probabilities of SPAR-H.
DIAGNOSIS, ACTION = 0.01, 0.001
#: HEART's multipliers at full effect.
SHORTAGE, OVERLOAD = 11.0, 6.0


def heart(task: float, conditions: Iterable[tuple[float, float]]) -> float:
    """Error probability of a generic ``task`` under (full effect, assessed share 0 to 1) conditions, at most 1."""
    return min(task * math.prod((effect - 1.0) * share + 1.0 for effect, share in conditions), 1.0)


def spar_h(nominal: float, factors: Iterable[float]) -> float:
    """Error probability under performance shaping factors; corrected where three or more are negative (over 1)."""
    factors = list(factors)
    product = math.prod(factors)
    if sum(1 for one in factors if one > 1.0) >= 3:
        return nominal * product / (nominal * (product - 1.0) + 1.0)
    return min(nominal * product, 1.0)


def dependent(probability: float, level: str) -> float:
    """Error probability of a second person, given that the first erred. Raises KeyError for no level of THERP's."""
    numerator, weight = DEPENDENCE[level]
    if level == "zero":
        return probability
    return (numerator + weight * probability) / (numerator + weight)


def no_response(seconds: float, median: float, kind: str = "rule") -> float:
    """HCR: probability that nobody has responded after ``seconds``, with ``median`` (s) the T50."""
    b, width, shift = HCR[kind]
    scaled = (seconds / median - shift) / width
    return 1.0 if scaled <= 0.0 else math.exp(-(scaled**b))


def hcr_seconds(chance: float, median: float, kind: str = "rule") -> float:
    """The time (s) after which ``no_response`` has fallen to ``chance``, which is above 0 and at most 1."""
    b, width, shift = HCR[kind]
    return median * float(shift + width * (-math.log(chance)) ** (1.0 / b))


class Reliability:
    """One operator's diagnosis by ``model``: how long it takes and how probably it is wrong."""

    def __init__(self, model: HumanModel, figures: Figures) -> None:
        self.model, self.figures = model, figures

    def diagnosis(self, stream: random.Random) -> float:
        """Seconds from noticing to deciding."""
        if self.model != "hcr":
            return stream.lognormvariate(*self.figures.lognormal("operator.diagnose"))
        median = self.figures["operators.hcr_median"] * (1.0 + self.figures["operators.hcr_stress"])
        return hcr_seconds(1.0 - stream.random(), median)

    def error(self, load: int) -> float:
        """Probability of a wrong diagnosis with ``load`` alarms in the last 10 minutes."""
        flood = load >= self.figures["hmi.flood_from"]
        if self.model == "spar-h":
            names = ("stress", "complexity", "experience", "procedures")
            factors = [self.figures[f"operators.sparh_{name}"] for name in names]
            return spar_h(DIAGNOSIS, [max(factors[0], 5.0) if flood else factors[0], *factors[1:]])
        if self.model == "heart":
            conditions = [(SHORTAGE, self.figures["operators.heart_shortage"])]
            if flood:
                conditions.append((OVERLOAD, self.figures["operators.heart_overload"]))
            return heart(self.figures["operators.heart_task"], conditions)
        return 0.0

    def overlooked(self, load: int) -> float:
        """Probability that an alarm is read past with ``load`` alarms in the last 10 minutes."""
        first, full = self.figures["hmi.flood_from"], self.figures["hmi.overload_from"]
        share = 1.0 if full <= first else (load - first) / (full - first)
        return self.figures["operators.overlook_at_overload"] * min(max(share, 0.0), 1.0)

"""Oort's selection (F. Lai et al., OSDI 2021): the sites that promise most for their time, and some that are not known.

The utility of a site that has reported is

    (records · loss / the largest of all + sqrt(0.1 · ln round / its last round))
    · (preferred seconds / its seconds) ** PENALTY, where it takes longer than is preferred

with rewards clipped at their 95th percentile, so that one odd loss does not rule. A share of each round, `EXPLORE` at
first and less each round, goes to sites never asked, the quicker ones more likely; the rest is drawn by utility among
those within `CUTOFF` of the last that would be taken. The pacer lengthens the preferred time, a percentile of those
seen, when rounds bring less than the window of rounds before.

Where we differ: the reward takes the mean loss with which a model arrived, not the root of its mean square, since that
is what a visit reports; sites trusted or available by half count by half.

Legend: S data sets, H reports. Cost: O(H + S log S).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final

import numpy as np

from daitn.base.ids import DataSetId
from daitn.decision.costs import batch_seconds
from daitn.decision.rounds.contract import Rounds, SiteReport
from daitn.decision.routes.contract import best_compute, datasets
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import Candidate, TrainingView

ROUND_FRAC: Final = 0.5
"""Share of all sites that a round has, two at least: choosing begins where not all are taken."""
CLIP_PERCENT: Final = 95.0
EXPLORE: Final = 0.9
EXPLORE_DECAY: Final = 0.98
EXPLORE_LEAST: Final = 0.2
"""Share of a round for sites never asked: at first, what is left of it after each round, and at the end."""
CUTOFF: Final = 0.95
"""Utilities within this share of the last one taken are drawn among."""
PENALTY: Final = 2.0
"""Exponent of the penalty for slow sites."""
PACE_PERCENT: Final = 50.0
PACE_STEP_PERCENT: Final = 10.0
PACE_ROUNDS: Final = 10
"""The preferred time: at first the median of sites, a step of the percentile more whenever a window of so many rounds
brought less than the one before."""


class Oort:
    """See the module's docstring."""

    name = "oort"

    def choose(self, view: TrainingView, rounds: Rounds, most: int) -> tuple[Stop, ...]:
        """Half of the sites at most: known ones by utility, unknown ones by speed."""
        names = datasets(view)
        if not names:
            return ()
        places = {name: best_compute(view, name) for name in names}
        wanted = min(most, max(2, math.ceil(ROUND_FRAC * len(names))), len(names))
        rng = random.Random(f"oort/{rounds.seed}/{rounds.round}")
        newest = {one.dataset: one for one in rounds.reports if one.dataset in places}
        unknown = [name for name in names if name not in newest]
        share = max(EXPLORE_LEAST, EXPLORE * EXPLORE_DECAY**rounds.round)
        explored = min(len(unknown), max(wanted - len(newest), round(share * wanted)))
        utilities = utilities_of(places, newest, rounds)
        picked = _exploit(utilities, wanted - explored, rng)
        fresh = _draw(unknown, [1.0 / batch_seconds(places[name], None) for name in unknown], explored, rng)
        stops = [(name, f"round {rounds.round + 1}: utility {utilities[name]:.3g}") for name in picked]
        stops += [(name, f"round {rounds.round + 1}: never asked yet") for name in fresh]
        return tuple(Stop(dataset=name, compute_node=places[name].compute_node, why=why) for name, why in sorted(stops))


def utilities_of(
    places: dict[DataSetId, Candidate], newest: dict[DataSetId, SiteReport], rounds: Rounds
) -> dict[DataSetId, float]:
    """The utility of each site that has reported."""
    if not newest:
        return {}
    rewards = {name: _reward(one) for name, one in newest.items()}
    clip = float(np.percentile(list(rewards.values()), CLIP_PERCENT))
    scale = max(max(rewards.values()), 1e-12)
    preferred_s = preferred_seconds(rounds.reports)
    found: dict[DataSetId, float] = {}
    for name, report in newest.items():
        stale = math.sqrt(0.1 * math.log(rounds.round + 1) / (report.round + 1))
        utility = min(rewards[name], clip) / scale + stale
        if report.seconds > preferred_s > 0:
            utility *= (preferred_s / report.seconds) ** PENALTY
        found[name] = utility * min(1.0, places[name].trust) * min(1.0, places[name].availability)
    return found


def preferred_seconds(reports: Sequence[SiteReport]) -> float:
    """The pacer: a percentile of the times of sites that grows whenever rounds bring less than before."""
    if not reports:
        return 0.0
    by_round: dict[int, float] = {}
    times: dict[DataSetId, float] = {}
    for one in reports:
        by_round[one.round] = by_round.get(one.round, 0.0) + _reward(one)
        times[one.dataset] = one.seconds
    brought = [by_round[number] for number in sorted(by_round)]
    percent = PACE_PERCENT
    for end in range(2 * PACE_ROUNDS, len(brought) + 1, PACE_ROUNDS):
        if sum(brought[end - PACE_ROUNDS : end]) < sum(brought[end - 2 * PACE_ROUNDS : end - PACE_ROUNDS]):
            percent = min(100.0, percent + PACE_STEP_PERCENT)
    return float(np.percentile(list(times.values()), percent))


def _reward(report: SiteReport) -> float:
    """What a site had to teach when it was last asked; nothing where its loss was no number."""
    return report.records * max(0.0, report.loss) if math.isfinite(report.loss) else 0.0


def _exploit(utilities: dict[DataSetId, float], count: int, rng: random.Random) -> list[DataSetId]:
    """So many of the best, drawn by utility among all within the cut-off of the last of them."""
    order = sorted(utilities, key=lambda name: (-utilities[name], name))
    if count <= 0 or not order:
        return []
    bound = CUTOFF * utilities[order[min(count, len(order)) - 1]]
    near = [name for name in order if utilities[name] >= bound]
    return _draw(near, [utilities[name] for name in near], min(count, len(near)), rng)


def _draw(names: Sequence[DataSetId], weights: Sequence[float], count: int, rng: random.Random) -> list[DataSetId]:
    """So many without putting back, each with a chance in proportion to its weight (A. Efraimidis and P. Spirakis,
    2006)."""
    keys = {
        name: math.log(rng.random() + 1e-300) / max(weight, 1e-12) for name, weight in zip(names, weights, strict=True)
    }
    return sorted(names, key=lambda name: (-keys[name], name))[:count]

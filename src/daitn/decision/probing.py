"""Probes: one bounded visit before the verdict, where the trial leaves it open whether a goal can be reached.

Paper II-A, T-FAM. The unit's trial learns from at most half of a sample. Where the chance that comes of it lies near
what the owner asks for, or where there were too few records for a trial at all, and the owner allows it, one site
trains the submitted model on all its records for a moment and the unit measures what came of it: one more point of the
learning curve, at many more records. The model is thrown away, so that the run begins as it would have.

A site's labels are not everybody's. What a model learnt there is no better than what as many records of all sites would
have taught it, so the point bounds the curve from one side, and says less of the other the further the site's mix of
labels is from that of all (`ProbePoint.gap`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from daitn.base.ids import DataSetId, NodeId
from daitn.decision.attainability import trial_seconds
from daitn.decision.costs import batch_seconds, visit_seconds
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.label_mix import label_gaps
from daitn.decision.routes.contract import best_computes
from daitn.descriptors.outcome import Condition, Prediction, ReasonCode
from daitn.descriptors.request import Request
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import Training

UNSURE: Final = 0.2
"""How near to the owner's floor a chance has to lie for a probe to be worth its while: nearer, and one more point can
turn the verdict. Never nearer to 0 or 1 than to the floor."""

STEPS_MOST: Final = 240
"""Steps of a probe: as many as a trial makes of each point, so that more steps do not pass for more records."""

STEPS_LEAST: Final = 20
"""Where not even so many fit the time that a probe may take, it would show nothing."""


class ProbeSite(NamedTuple):
    """Where to probe, for how many batches, and how far its labels are from those of all sites."""

    dataset: DataSetId
    node: NodeId
    batches: int
    gap: float


def wanted(
    request: Request, preflight: Preflight | None, conditions: Sequence[Condition], predictions: Sequence[Prediction]
) -> bool:
    """Whether a probe could turn the verdict: the owner allows it, none was made, the chance of a target lies near the
    floor or is not known, and nothing else is in the way."""
    if not request.allow_probe or request.chance_floor <= 0 or preflight is None or preflight.probed or preflight.fault:
        return False
    if any(not one.met and one.code is not ReasonCode.ATTAINABILITY for one in conditions):
        return False
    chances = {one.name: one.probability for one in predictions}
    floor = request.chance_floor
    low, high = floor - min(UNSURE, floor / 2), floor + min(UNSURE, (1 - floor) / 2)
    if any(chance <= low for chance in chances.values()):
        return False  # one that is surely missed is not mended by another
    return any(target.name not in chances or chances[target.name] < high for target in request.targets)


def probe_site(view: TrainingView, request: Request, package: PackageFacts, preflight: Preflight) -> ProbeSite | None:
    """The site that teaches most about all: most labels, then many records in everybody's mix. None where no site that
    holds its records itself has the time. Cost: O(candidates)."""
    seconds = trial_seconds(request.deadline_s)
    found: list[tuple[int, float, ProbeSite]] = []
    for name, place in best_computes(view).items():
        still_s = visit_seconds(place, 0, package.total_bytes, preflight)
        fit = int((seconds - still_s) / max(1e-6, batch_seconds(place, preflight)))
        batches = min(STEPS_MOST, fit)
        if place.streamed or place.split or batches < STEPS_LEAST:
            continue
        (gap,), _ = label_gaps(view, [name])
        site = ProbeSite(DataSetId(name), place.compute_node, batches, gap)
        held = sum(count >= 1 for count in place.labels.values())
        found.append((held, place.records * (1.0 - gap), site))
    return max(found, key=lambda one: (*one[:2], one[2].dataset), default=(0, 0.0, None))[2]


def probe_training(training: Training, site: ProbeSite) -> Training:
    """The plan's training, as long as a probe is, with nothing that other visits would have to remember."""
    return msgspec.structs.replace(training, batches=site.batches, control_variates=False)

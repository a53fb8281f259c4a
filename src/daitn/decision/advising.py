"""Model advice: which other model would reach the goal where the submitted one is not believed to.

Paper II-A (v). A refusal for attainability is of little use to an owner who does not know whether another model would
do. So the owner may declare variants (other widths, depths, adapter ranks, families) as further packages for the same
contract. Each is tried at the verification unit as the submitted model was, and judged by the very function that
refused (`decision.feasibility.judge`), as if it were submitted now: with what it would move, take and reach.

The search is bounded: the smallest first, up to the first that would be admitted, so that what is named is the smallest
model that does. Not the likeliest: an owner who wants more of a chance asks for it with `chance_floor`.

What it does not do: make models. The centre runs no foreign code and knows only packages that owners have signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from daitn.base.ids import ArtifactId
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.feasibility import Known, judge, verdict_of
from daitn.descriptors.outcome import ReasonCode, TriedVariant, Verdict
from daitn.descriptors.request import Request
from daitn.descriptors.view import TrainingView

OF_THE_MODEL: Final = frozenset(
    {
        ReasonCode.ATTAINABILITY,
        ReasonCode.CANNOT_OVERFIT,
        ReasonCode.TIME,
        ReasonCode.SLOTS,
        ReasonCode.BYTES,
        ReasonCode.MEMORY,
        ReasonCode.STORAGE,
        ReasonCode.ENERGY,
        ReasonCode.PRICE,
    }
)
"""Conditions that can hold with another model. Where any other fails, trying models would be in vain."""


UNATTAINABLE: Final = frozenset({ReasonCode.ATTAINABILITY, ReasonCode.CANNOT_OVERFIT})
"""Conditions of which one has to fail: the goal is out of the model's reach, or it learns nothing at all."""


def advisable(verdict: Verdict) -> bool:
    """Whether it is a refusal for attainability that another model could turn."""
    failed = {one.code for one in verdict.failed()}
    return verdict.outcome == "refused" and bool(failed & UNATTAINABLE) and failed <= OF_THE_MODEL


def next_variant(
    variants: Mapping[ArtifactId, PackageFacts], tried: Mapping[ArtifactId, TriedVariant]
) -> ArtifactId | None:
    """The variant to try now, the smallest first; None where one reaches the goal, or all were tried."""
    if any(one.reaches for one in tried.values()):
        return None
    left = [one for one in variants if one not in tried]
    return min(left, key=lambda one: (variants[one].total_bytes, one), default=None)


def judge_variant(
    view: TrainingView, request: Request, variant: ArtifactId, package: PackageFacts, known: Known, tried: Preflight
) -> TriedVariant:
    """What the request would come to with this model, by its own trial `tried`, from a fresh submission: nothing of the
    deadline and the budgets is gone. A chance that is not known is none. Cost: one judgement."""
    # No probe is made for a variant: what there is decides.
    own = known._replace(preflight=msgspec.structs.replace(tried, probed=True), elapsed_s=0.0, moved_bytes=0)
    asked = msgspec.structs.replace(request, package=variant)
    judged = judge(view, asked, package, own)
    verdict = verdict_of(judged.view, asked, judged)
    return TriedVariant(
        package=variant,
        name=package.name,
        reaches=verdict.outcome == "admitted" and verdict.probability is not None,
        probability=verdict.probability,
        predictions=verdict.predictions,
        failed=verdict.failed(),
    )

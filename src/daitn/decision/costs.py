"""What visits and verifications cost in seconds, price and joules, by facts and by what this job has measured."""

from __future__ import annotations

from typing import Final

from daitn.decision.cutting import choose_cut
from daitn.decision.facts import PackageFacts, Preflight
from daitn.descriptors.view import Candidate

HOP_S: Final = 0.05
"""Seconds a hop costs besides moving bytes and training: what the benchmark `hop` has to stay below."""

EXCHANGE_S: Final = 0.005
"""Seconds the exchange of a batch's gradients costs besides moving them; see the benchmark `streams`."""

WARM_S: Final = 2.5
"""Seconds to start a sandboxed child, once per site and job: nearly all of it is importing torch."""

SPLIT_BATCH: Final = 32
"""Records of a batch for which a step of split learning is estimated before one was made."""

BATCH_S: Final = 0.005
"""Assumed seconds per batch before a preflight measured any."""

TIME_MARGIN: Final = 1.25
"""How much more than the least time a plan takes there has to be: machines and lines deviate by a fifth from what they
say, and what is admitted has to have the time it was promised."""

MEMORY_FACTOR: Final = 8.0
"""Memory a visit takes as a multiple of the payload: weights, gradients, two optimizer slots, the average
and the newest weights apart, activations."""
SPLIT_MEMORY_FACTOR: Final = 6.0
"""The same at each of two sites between which the model is cut: weights and slots, and those that they tell each other
at the end. There is no average, and activations of the middle are at one of them."""

MEMORY_BASE_BYTES: Final = 400e6


def memory_bytes(package: PackageFacts, *, split: bool) -> float:
    """Memory that a visit takes at a site."""
    return package.payload_bytes * (SPLIT_MEMORY_FACTOR if split else MEMORY_FACTOR) + MEMORY_BASE_BYTES


def fits_memory(candidate: Candidate, package: PackageFacts) -> bool:
    """Whether a candidate's sites have the memory that a visit takes."""
    return memory_bytes(package, split=candidate.split) <= candidate.memory_bytes


def batch_seconds(candidate: Candidate, preflight: Preflight | None) -> float:
    """Seconds per batch at a candidate: measured there, else scaled from the preflight by speed, else assumed."""
    if candidate.batch_s is not None:
        return candidate.batch_s
    if candidate.split and preflight is not None and preflight.cuts and preflight.batch_seconds > 0:
        chosen = choose_cut(preflight.cuts, candidate, SPLIT_BATCH, preflight.batch_seconds, preflight.unit_flops)
        return BATCH_S if chosen is None else chosen.step_s
    if preflight is not None and preflight.batch_seconds > 0:
        ratio = preflight.unit_flops / candidate.flops if candidate.flops > 0 and preflight.unit_flops > 0 else 1.0
        return preflight.batch_seconds * min(100.0, max(0.01, ratio))
    return BATCH_S


def visit_seconds(candidate: Candidate, plan_batches: int, model_bytes: int, preflight: Preflight | None) -> float:
    """One visit: hop, transfer of model (and of records that stream), training in the share of a slot that is free."""
    moved = model_bytes + (candidate.records * candidate.record_bytes if candidate.streamed else 0.0)
    work_s = plan_batches * batch_seconds(candidate, preflight) / candidate.share
    return HOP_S + moved / candidate.bytes_per_s + work_s


def visit_price(candidate: Candidate, plan_batches: int, model_bytes: int, preflight: Preflight | None) -> float | None:
    """What one visit is charged, in the domain's unit of account; None where its site states no price."""
    moved = model_bytes + (candidate.records * candidate.record_bytes if candidate.streamed else 0.0)
    return candidate.tariff.price_of(plan_batches * batch_seconds(candidate, preflight), moved)


def visit_joules(candidate: Candidate, plan_batches: int, preflight: Preflight | None) -> float | None:
    """What one visit draws; None where its site does not state its power."""
    return candidate.tariff.joules_of(plan_batches * batch_seconds(candidate, preflight))


def verification_seconds(package: PackageFacts, preflight: Preflight | None, bytes_per_s: float | None) -> float:
    """Seconds a verification takes, transfer included."""
    moved = package.total_bytes / bytes_per_s if bytes_per_s else 0.0
    return HOP_S + moved + (preflight.evaluate_seconds if preflight is not None else 0.05)

"""How much noise a visit of private training needs, and whether a data set can take another one.

Only what everybody knows enters: the request, and the groups that a site has published. Each data set gets noise of its
own, as much as makes the visits that the owner counts on cost what the owner allows: a small one is in a batch more
often and needs more. The site books by the order alone (`describe.accountant`), so centre and site come to one figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from daitn.describe.accountant import Mechanism, epsilon_of, noise_for
from daitn.descriptors.plan import Choice
from daitn.descriptors.privacy import Privacy, PrivateSteps
from daitn.descriptors.request import Request
from daitn.descriptors.view import Candidate, TrainingView
from daitn.descriptors.work import Training, TrainWork

RATE_STEP: Final = 1.05
"""Sampling rates are taken from a ladder of such steps, rounded up: noise is sought once for sites of about one size,
and a batch is up to a twentieth larger."""

_ROUNDING: Final = 1e-9


def sampling_rate(batch_size: int, groups: float) -> float:
    """The chance of a group to be in a step, so that a step has about `batch_size` of `groups`."""
    rate = min(1.0, batch_size / max(1.0, groups))
    return min(1.0, RATE_STEP ** math.ceil(round(math.log(rate) / math.log(RATE_STEP), 9)))


def private_steps(privacy: Privacy, planned: Training, candidate: Candidate) -> PrivateSteps | None:
    """What is done at one place; None where no noise is enough. O(1) where a place like it was asked for before."""
    return private_steps_of(privacy, planned, candidate.groups)


def private_steps_of(privacy: Privacy, planned: Training, groups: float) -> PrivateSteps | None:
    """The same for a place with so many groups. About 20 ms, O(1) where it was asked for before."""
    rate = sampling_rate(planned.batch_size, groups)
    noise = noise_for(rate, planned.batches * privacy.visits, privacy.epsilon, privacy.delta)
    if noise is None:
        return None
    return PrivateSteps(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip=privacy.clip,
        noise_multiplier=noise,
        sampling_rate=rate,
    )


def mechanism_of(private: PrivateSteps, steps: int) -> Mechanism:
    """What the accountant has to know of a visit."""
    return Mechanism(sampling_rate=private.sampling_rate, noise_multiplier=private.noise_multiplier, steps=steps)


def told_of(works: Iterable[TrainWork]) -> dict[str, tuple[Mechanism, ...]]:
    """Data set → what was ordered of it with noise, whether it came to a result or not."""
    found: dict[str, list[Mechanism]] = {}
    for work in works:
        if work.private is not None:
            found.setdefault(work.dataset, []).append(mechanism_of(work.private, work.training.batches))
    return {dataset: tuple(mechanisms) for dataset, mechanisms in found.items()}


def can_take(privacy: Privacy, planned: Training, candidate: Candidate, before: tuple[Mechanism, ...]) -> bool:
    """Whether another visit of the plan's length leaves the job within its bound at a data set."""
    private = private_steps(privacy, planned, candidate)
    if private is None:
        return False
    more = mechanism_of(private, planned.batches)
    return epsilon_of((*before, more), privacy.delta) <= privacy.epsilon * (1 + _ROUNDING)


def said_of_noise(view: TrainingView, request: Request, planned: Training) -> tuple[Choice, ...]:
    """The plan's words on it; none where nothing is private."""
    privacy = request.privacy
    if privacy is None:
        return ()
    # The most and the least groups bound the noise of all others.
    ends = sorted(view.candidates, key=lambda one: one.groups)
    found = [private_steps(privacy, planned, one) for one in (*ends[:1], *ends[-1:])]
    noises = [one.noise_multiplier for one in found if one is not None]
    noise = f", noise of {min(noises):.3g} to {max(noises):.3g} times that on each step's sum" if noises else ""
    chosen = (
        f"ε at most {privacy.epsilon:g} at δ = {privacy.delta:g} for each data set, {privacy.visits} visits to each, "
        f"gradients cut to norm {privacy.clip:g}{noise}"
    )
    why = "the owner asked for it; what the trial promises knows no noise"
    return (Choice(what="privacy", chosen=chosen, why=why),)

"""Hyper-parameters (HPO): rules from the field, applied to the view, or what a search found; the owner may pin any.

The search is `decision.tuning`; what is adjusted while a job runs is at the end of this page and in `decision.pacing`.

Sequential training wants a rate 10–30 times below parallel training and frequent small visits rather than rare long
ones (Li & Lyu, NeurIPS 2023). So: batches of at most 32 records and about one epoch of a typical site per visit for
sequential methods, two for parallel ones, where a round costs more than its steps.

Small has a floor. A hop and the check after it cost what tens of steps of a small model cost, and a visit of a few
steps moves a model less than the next one moves it back. Measured on scikit-learn's digits (six sites) and breast
cancer (five), label mixes far apart, five seeds each, median visits until 93 and 95 % were reached: half an epoch (4
batches of 32, 5 of 8) 41 and 12, with one seed of each set never there; a whole epoch 23 and 4; sixteen batches 8 and
5. A rate of 0.05 never arrived with half of the seeds; leaving the momentum behind at each hop made 23 visits 40.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Final

import msgspec

from daitn.decision.facts import Searched
from daitn.decision.label_mix import label_skew
from daitn.decision.visit_length import VISIT_BATCHES_LEAST, VISIT_BATCHES_MOST
from daitn.descriptors.plan import Choice, Plan
from daitn.descriptors.request import Hyperparameters
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import ServerStep, Training
from daitn.learning.methods.contract import Preferences

USUAL: Final = Preferences()
"""What a method wants that wants nothing in particular."""

BATCH_MOST: Final = 32
BATCH_LEAST: Final = 8
SEQUENTIAL_RATE: Final = 0.02
PARALLEL_RATE: Final = 0.1
"""SGD with momentum on normalised inputs: five times the sequential one, since averaging shrinks each step. At 0.2 the
average of the same five sites fell to chance in some rounds."""
ADAPTIVE: Final = ("adam", "adamw")
ADAPTIVE_SHARE: Final = 20.0
"""Optimizers that divide by the gradient's size take a rate so many times smaller."""
SEQUENTIAL_EPOCHS: Final = 1.0
PARALLEL_EPOCHS: Final = 2.0

AVERAGE_VISITS: Final = 3
"""Visits over which the weights of a steady method are averaged: about a round of those that together have every label.
Two to four were alike (MNIST, 3 to 10 sites of 2 to 5 labels)."""
AVERAGE_LEAD: Final = 0.8
"""How far the newest weights lead that average: what visits have in common goes up to five times as fast. At a rate
that is small for its task that took a third to a half of the steps off (MNIST, 3 to 10 sites; 0.9 was alike); at one
that is not it neither gained nor lost more than chance (tables of 30 and 64 numbers, our own rate, ten seeds)."""
FORGETTING_STEPS: Final = 40.0
"""Steps after which most of what was learnt elsewhere has given way, at momentum 0.9: a visit of that many has its loss
corrected for the site's labels by 1 - 1/e. Visits of 15 steps gained nothing from more than 0.3, visits of 50 reached
90 % in a third of the steps at 0.75."""
CORRECTION_MOST: Final = 0.9
"""Beyond it labels that are not here hardly count, and are not told from those that are: at 0.9 visits of 15 steps took
twice the steps to the same accuracy."""
APART: Final = 0.5
"""Label skew from which sites count as having labels of their own; below, the correction is less in proportion."""

EPISODE_STEPS: Final = 1000
"""Steps of an environment in a batch, played to the end of their episodes: a gradient of fewer is mostly chance."""
EPISODE_BATCHES: Final = 8
EPISODE_RATE: Final = 0.01
"""Of Adam, for policies in an environment: sites hold alike environments, so one copy that travels is not held back."""

VERIFY_EVERY_MOST: Final = 2
"""Visits between two verifications after a roll back. Not one: measured over six seeds, looking at every single visit
rolls back the sways that sequential training lives from, and misses goals that looking at every second or third one
reaches."""

ROLLBACK_FACTOR: Final = 0.5
"""Each model that is rolled back halves the rate: a backtracking line search over the network."""


def propose_training(
    view: TrainingView,
    pinned: Hyperparameters,
    *,
    parallel: bool,
    steady: bool = False,
    prefers: Preferences = USUAL,
    private: bool = False,
    searched: Searched | None = None,
    episodes: bool = False,
) -> tuple[Training, Choice]:
    """Hyper-parameters for each visit, and why. Works on an empty view too (then from the rules alone).

    `steady`: the method averages its weights and corrects for labels (`Method.steady`). `private`: each record's
    gradient stands for itself, so nothing is corrected by the labels of the others. `searched`: what a search found,
    which takes the place of the rules for whatever the owner left open. `episodes`: batches are played in an
    environment.
    """
    found = searched.chosen if searched is not None else None
    typical = typical_records(view)
    batch_size = (
        pinned.batch_size
        or (found.batch_size if found is not None else 0)
        or int(min(BATCH_MOST, max(BATCH_LEAST, 2 ** round(math.log2(max(1.0, typical) / 8)))))
    )
    epochs = pinned.epochs_per_visit or usual_epochs(prefers, parallel=parallel)
    batches = (
        pinned.batches_per_visit
        or (found.batches if found is not None else 0)
        or int(
            min(
                prefers.batches_most or VISIT_BATCHES_MOST,
                max(VISIT_BATCHES_LEAST, round(epochs * typical / batch_size)),
            )
        )
    )
    if episodes:
        batch_size, batches = pinned.batch_size or EPISODE_STEPS, pinned.batches_per_visit or EPISODE_BATCHES
        steady = False
    usual = "adam" if episodes and prefers.server is None else prefers.optimizer
    optimizer = pinned.optimizer or (found.optimizer if found is not None else usual)
    rate = pinned.learning_rate
    if rate is None and found is not None and found.optimizer == optimizer:
        rate = found.learning_rate
    if rate is None:
        rate = EPISODE_RATE if episodes else PARALLEL_RATE if parallel else SEQUENTIAL_RATE
        if optimizer in ADAPTIVE and not episodes:
            rate /= ADAPTIVE_SHARE
    average_steps, average_lead, label_correction = pinned.average_steps, pinned.average_lead, pinned.label_correction
    if average_steps is None:
        average_steps = AVERAGE_VISITS * batches if steady else 0
    if average_lead is None:
        average_lead = AVERAGE_LEAD if steady and average_steps else 0.0
    if label_correction is None or private:
        label_correction = correction(view, batches) if steady and not private else 0.0
    training = Training(
        batch_size=batch_size,
        batches=batches,
        learning_rate=rate,
        optimizer=optimizer,
        momentum=0.9 if pinned.momentum is None else pinned.momentum,
        weight_decay=1e-4 if pinned.weight_decay is None else pinned.weight_decay,
        gradient_clip=5.0 if pinned.gradient_clip is None else pinned.gradient_clip,
        carry_optimizer=not parallel,
        average_steps=average_steps,
        average_lead=average_lead,
        label_correction=label_correction,
        proximal=prefers.proximal if pinned.proximal is None else pinned.proximal,
        elastic=prefers.elastic,
        distillation=prefers.distillation,
        replay=prefers.replay,
        control_variates=prefers.control_variates,
    )
    set_by_owner = [name for name in Hyperparameters.__struct_fields__ if getattr(pinned, name) is not None]
    why = (
        f"a typical site has {typical:.0f} records: {epochs:g} epoch{'s' if epochs != 1 else ''} a visit, "
        f"at least {VISIT_BATCHES_LEAST} batches; "
        + ("parallel methods take a larger rate" if parallel else "sequential ones a small rate and short visits")
    )
    if episodes:
        why = f"batches are played: {EPISODE_STEPS} steps of an environment each, {EPISODE_BATCHES} batches a visit"
    why += f"; pinned by the owner: {', '.join(set_by_owner)}" if set_by_owner else ""
    chosen = f"{batches} batches of {batch_size}, {optimizer} at {rate:g}"
    if training.average_steps:
        chosen += f", weights averaged over {training.average_steps} steps"
    if training.average_lead:
        chosen += f", the newest leading by {training.average_lead:g}"
    if training.label_correction:
        chosen += f", loss corrected for a site's labels by {training.label_correction:.2f}"
    if training.proximal:
        chosen += f", held to the model as it arrived by {training.proximal:g}"
    if training.elastic:
        chosen += f", weights that mattered before held by {training.elastic:g}"
    if training.distillation:
        chosen += f", answers of before kept up by {training.distillation:g}"
    if training.replay:
        chosen += f", {training.replay:.0%} of each batch from earlier records where a site keeps some"
    if training.control_variates:
        chosen += ", gradients corrected for how each site differs from all"
    if searched is not None:
        why = f"{searched.why}; by the rules: {why}"
    rejected = searched.rejected if searched is not None else ()
    return training, Choice(what="hyper-parameters", chosen=chosen, why=why, rejected=rejected)


def typical_records(view: TrainingView) -> float:
    """Records of a typical site; of an empty view as many as a batch has at most."""
    sizes = [candidate.records for candidate in view.candidates]
    return float(median(sizes)) if sizes else float(BATCH_MOST)


def usual_epochs(prefers: Preferences, *, parallel: bool) -> float:
    """Passes over a typical site that a visit makes by the rules."""
    return prefers.epochs or (PARALLEL_EPOCHS if parallel else SEQUENTIAL_EPOCHS)


def at_site(training: Training, batches: int, pinned: Hyperparameters) -> Training:
    """The training of a visit of so many batches: its loss makes up for as much as such a visit forgets, unless the
    owner pinned that."""
    if batches == training.batches:
        return training
    corrected = training.label_correction
    if pinned.label_correction is None:
        corrected *= forgotten_share(batches) / forgotten_share(training.batches)
    return msgspec.structs.replace(training, batches=batches, label_correction=corrected)


def propose_server(prefers: Preferences, pinned: Hyperparameters) -> ServerStep | None:
    """The step that follows the mean of a round, at the owner's rate where that is pinned."""
    if prefers.server is None or pinned.server_learning_rate is None:
        return prefers.server
    return msgspec.structs.replace(prefers.server, learning_rate=pinned.server_learning_rate)


def correction(view: TrainingView, batches: int) -> float:
    """How far the loss makes up for a site's labels: more in longer visits, nothing where sites are alike."""
    return forgotten_share(batches) * min(1.0, label_skew(view) / APART)


def forgotten_share(batches: int) -> float:
    """How much of what was learnt elsewhere gives way in a visit, as far as that is corrected for."""
    return min(CORRECTION_MOST, 1 - math.exp(-batches / FORGETTING_STEPS))


def after_rollback(plan: Plan, pinned: Hyperparameters) -> tuple[Plan, str]:
    """The plan to go on with after a model was rolled back: half the rate and a look at least at every second
    visit, as far as the owner left it open. Without a change the same visits would make the same model again."""
    training = plan.training
    changes: list[str] = []
    if pinned.learning_rate is None:
        training = msgspec.structs.replace(training, learning_rate=training.learning_rate * ROLLBACK_FACTOR)
        changes.append(f"learning rate {training.learning_rate:g}")
    every = min(plan.verify_every, VERIFY_EVERY_MOST)
    if every != plan.verify_every:
        changes.append(f"verify every {every}")
    changed = msgspec.structs.replace(plan, training=training, verify_every=every)
    return changed, "the model got worse: " + (", ".join(changes) or "the owner pinned the learning rate; other sites")


def after_kept(plan: Plan, pinned: Hyperparameters, planned_rate: float) -> tuple[Plan, str] | None:
    """The plan to go on with after a model was kept, where roll backs had lowered the rate: twice the rate, up to the
    one first planned. Without it a few early sways would leave a run creeping for the rest of its time."""
    rate = plan.training.learning_rate
    if pinned.learning_rate is not None or rate >= planned_rate:
        return None
    training = msgspec.structs.replace(plan.training, learning_rate=min(planned_rate, rate / ROLLBACK_FACTOR))
    changed = msgspec.structs.replace(plan, training=training)
    return changed, f"the model was kept: learning rate back to {training.learning_rate:g}"

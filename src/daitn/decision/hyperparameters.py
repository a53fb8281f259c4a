"""Hyper-parameters (HPO, first form): rules from the field, applied to the view; the owner may pin any.

Sequential training wants a rate 10–30 times below parallel training and frequent small visits rather than rare long ones
(Li & Lyu, NeurIPS 2023). So: batches of at most 32 records and about half an epoch of a typical site per visit for
sequential methods, two epochs for parallel ones, where a round costs more than its steps.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Final

from daitn.descriptors.plan import Choice
from daitn.descriptors.request import Hyperparameters
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import Training

BATCH_MOST: Final = 32
BATCH_LEAST: Final = 8
VISIT_BATCHES_LEAST: Final = 4
VISIT_BATCHES_MOST: Final = 200
SEQUENTIAL_RATE: Final = 0.02
PARALLEL_RATE: Final = 0.2
"""SGD with momentum on normalised inputs; ten times the sequential one."""


def propose_training(view: TrainingView, pinned: Hyperparameters, *, parallel: bool) -> tuple[Training, Choice]:
    """Hyper-parameters for each visit, and why. Works on an empty view too (then from the rules alone)."""
    sizes = [candidate.records for candidate in view.candidates]
    typical = median(sizes) if sizes else float(BATCH_MOST)
    batch_size = pinned.batch_size or int(
        min(BATCH_MOST, max(BATCH_LEAST, 2 ** round(math.log2(max(1.0, typical) / 8))))
    )
    epochs = 2.0 if parallel else 0.5
    batches = pinned.batches_per_visit or int(
        min(VISIT_BATCHES_MOST, max(VISIT_BATCHES_LEAST, round(epochs * typical / batch_size)))
    )
    optimizer = pinned.optimizer or "momentum"
    rate = pinned.learning_rate
    if rate is None:
        rate = PARALLEL_RATE if parallel else SEQUENTIAL_RATE
        if optimizer in ("adam", "adamw"):
            rate /= 20
    training = Training(
        batch_size=batch_size,
        batches=batches,
        learning_rate=rate,
        optimizer=optimizer,
        momentum=0.9 if pinned.momentum is None else pinned.momentum,
        weight_decay=1e-4 if pinned.weight_decay is None else pinned.weight_decay,
        gradient_clip=5.0 if pinned.gradient_clip is None else pinned.gradient_clip,
        carry_optimizer=not parallel,
    )
    set_by_owner = [name for name in Hyperparameters.__struct_fields__ if getattr(pinned, name) is not None]
    why = (
        f"a typical site has {typical:.0f} records: {epochs:g} epoch{'s' if epochs != 1 else ''} a visit; "
        + ("parallel methods take a larger rate" if parallel else "sequential ones a small rate and short visits")
        + (f"; pinned by the owner: {', '.join(set_by_owner)}" if set_by_owner else "")
    )
    chosen = f"{batches} batches of {batch_size}, {optimizer} at {rate:g}"
    return training, Choice(what="hyper-parameters", chosen=chosen, why=why)

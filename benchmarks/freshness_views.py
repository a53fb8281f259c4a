"""What keeping a view up to date costs whoever holds one: by an adapter's deltas, or by periodic triggers.

Paper II-A, DRRT-A and its alternative. The map here is right at every moment, so that only the view's own staleness
counts. Each of some requests holds a view of all terminals and a choice made on it. *Adapter*: `ViewAdapter.compare`
after every change of the map, silent while the ranges of the choice hold. *Periodic*: what changed is sent every
period. Bytes are those of the encoded `ViewDelta`s; the error is that of `freshness_world.regrets`.
"""

from __future__ import annotations

import msgspec
import numpy as np

from benchmarks import freshness_world as fw
from daitn.base.ids import DataSetId, NodeId
from daitn.descriptors.plan import FactRange, Pair, Validity
from daitn.descriptors.view import Candidate, TrainingView, ViewDelta
from daitn.topology.adapter import ViewAdapter
from daitn.topology.view_deltas import apply_delta, delta_between

REQUESTS = 6
"""Holders: the first requesters of the world."""


class ViewOutcome(msgspec.Struct):
    """One run."""

    bytes_per_view_s: float
    error: float
    deltas_per_view_s: float


def run_views(world: fw.World, period_s: float | None) -> ViewOutcome:
    """All requests over the horizon; `period_s`: None for the adapter."""
    load, capacity = fw.true_facts(world)
    moments = world.asked_s > world.warm_s
    steps = np.flatnonzero(moments)
    every = 1 if period_s is None else max(1, round(period_s / (world.asked_s[1] - world.asked_s[0])))
    sent, deltas, errors = 0, 0, []
    for request in range(REQUESTS):
        near = world.round_trip_RN[request]
        true = fw.completion(near, load, capacity)
        adapter = ViewAdapter()
        view = view_of(true[steps[0]], 0)
        adapter.follow(view, validity_of_choice(view))
        for number, step in enumerate(steps[1:], start=1):
            delta: ViewDelta | None = None
            if period_s is None:
                delta = adapter.compare(view_of(true[step], int(step)))
            elif number % every == 0:
                delta = delta_between(view, view_of(true[step], int(step)))
            if delta is not None:
                sent += len(msgspec.msgpack.encode(delta))
                deltas += 1
                view = apply_delta(view, delta)
                if period_s is None:
                    adapter.follow(view, validity_of_choice(view))
            errors.append(float(fw.regrets(seconds_of(view)[None, :], true[step][None, :])[0]))
    spent_s = REQUESTS * (len(steps) - 1) * float(world.asked_s[1] - world.asked_s[0])
    return ViewOutcome(sent / spent_s, float(np.mean(errors)), deltas / spent_s)


def view_of(seconds_N: fw.Floats, version: int) -> TrainingView:
    """All terminals as candidates: `batch_s` is what the task takes there, available or not."""
    candidates = tuple(
        Candidate(
            dataset=DataSetId(f"t{terminal}/records"),
            data_node=NodeId(f"n{terminal:04d}"),
            compute_node=NodeId(f"n{terminal:04d}"),
            streamed=False,
            records=1000.0,
            groups=1000.0,
            labels={},
            fields={},
            record_bytes=8.0,
            relevance={},
            flops=fw.FLOPS,
            memory_bytes=8e9,
            slots=1,
            batch_s=float(seconds) if np.isfinite(seconds) else 1e6,
            bytes_per_s=1e8,
            latency_s=0.0,
            trust=0.9,
            availability=float(np.isfinite(seconds)),
            age_s=0.0,
        )
        for terminal, seconds in enumerate(seconds_N)
    )
    return TrainingView(
        version=version, made_at_ns=version, candidates=candidates, excluded=(), verifiers=(), aggregators=()
    )


def seconds_of(view: TrainingView) -> fw.Floats:
    """What the holder of a view believes of each terminal, in the order of their numbers."""
    ordered = sorted(view.candidates, key=lambda one: one.compute_node)
    return np.array([one.batch_s if one.availability > 0 and one.batch_s is not None else np.inf for one in ordered])


def validity_of_choice(view: TrainingView) -> Validity:
    """Ranges within which the choice of the quickest stands: of each terminal's seconds, which are 1e6 while it is not
    available."""
    seconds = np.array([one.batch_s for one in view.candidates], dtype=np.float64)
    low, high = fw.keep_best(seconds, fw.CHOSEN)
    ranges = tuple(
        FactRange(
            thing=one.compute_node, dataset=one.dataset, fact="batch_s", low=float(low[place]), high=float(high[place])
        )
        for place, one in enumerate(view.candidates)
    )
    pairs = sorted(Pair(one.dataset, one.compute_node, one.batch_s is not None) for one in view.candidates)
    return Validity(pairs=tuple(pairs), ranges=ranges)

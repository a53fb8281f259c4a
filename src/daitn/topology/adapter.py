"""ViewAdapter (DRRT-A): follows the map for a view that was made, and speaks only when a decision could change.

Paper II-A: an optional unit monitors and updates the model-specific topologies as training progresses and the terminal
layer evolves; or the orchestrator does it by periodic triggers. Both are here (`ViewUpdates`).

A view is frozen; the adapter holds one and is shown what the map says now. Two uses:

    for whoever planned      `compare`: candidates as they are → the `ViewDelta` to send, or None while the decision's
                             validity ranges hold (`descriptors.plan.Validity`). Comparing is all it does. By periodic
                             triggers: what changed, whether it matters or not, once a period.
    for the next choice      `refresh`: standings of nodes → the same view with facts that moved put in, or None where
                             it has to be made anew, because a node came, went, rests, or described itself anew.

Comparing how a node stands takes a sixth of judging its data sets again, which is what making a view is: 2 against
13 µs.

Legend: S candidates, N nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from daitn.base.ids import DataSetId, NodeId
from daitn.base.units import ns_to_seconds
from daitn.descriptors.plan import FactRange, Validity
from daitn.descriptors.view import Candidate, TrainingView, ViewDelta
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.view_deltas import PairKey, apply_delta, delta_between
from daitn.topology.view_updates import ViewUpdates
from daitn.topology.views import TRUST_LEAST, Asker, has_room

AGE_MOST_S: Final = 5.0
"""A refreshed view is made anew after this long: what standings do not tell (links, estimates) is no older."""


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """What of a node decides whether its data sets and compute are in a view, and its facts that move."""

    described: int
    """Sequence of its description."""
    usable: bool
    resting: bool
    trusted: bool
    """At least as far as the request asks for."""
    shunned: bool
    """Less than views ask for while others serve."""
    roomy: bool
    """Has room for the model."""
    trust: float
    bytes_per_s: float
    flops: float
    wait_s: float

    def same_kind(self, other: Standing) -> bool:
        """Whether a view would hold the same candidates of it."""
        moved = {name: getattr(other, name) for name in ("trust", "bytes_per_s", "flops", "wait_s")}
        return msgspec.structs.replace(self, **moved) == other


def standings(
    knowledge: KnowledgeMap, trust_floor: float, resting: Collection[NodeId], asker: Asker, now_ns: int
) -> dict[NodeId, Standing]:
    """How all nodes of the map stand now: O(N), a microsecond each."""
    found: dict[NodeId, Standing] = {}
    for facts in knowledge.nodes():
        node, trust = facts.descriptor.node, knowledge.trust(facts, now_ns)
        found[node] = Standing(
            facts.sequence,
            knowledge.usable(facts, now_ns),
            node in resting,
            trust >= trust_floor,
            trust < TRUST_LEAST,
            has_room(facts, asker),
            trust,
            facts.bytes_per_s,
            facts.flops,
            facts.wait_s(now_ns),
        )
    return found


class ViewAdapter:
    """See the module's docstring."""

    def __init__(self, updates: ViewUpdates | None = None) -> None:
        self._updates = updates or ViewUpdates()
        self.view: TrainingView | None = None
        self._validity: Validity | None = None
        self._ranges: dict[tuple[DataSetId | str, str], list[FactRange]] = {}
        self._standings: Mapping[NodeId, Standing] = {}
        self._basis: object = None

    # --- for whoever planned ----------------------------------------------------------------------------------------

    def follow(self, view: TrainingView, validity: Validity | None) -> None:
        """From now on for this view, on which a decision with this validity was made; None: everything matters."""
        self.view, self._validity = view, validity
        self._ranges = {}
        for one in validity.ranges if validity is not None else ():
            self._ranges.setdefault((one.dataset, one.thing), []).append(one)

    def compare(self, now: TrainingView) -> ViewDelta | None:
        """What the holder has to be told now that the map says this; None while its decision stands, or nothing
        changed. What is returned counts as told. O(S)."""
        if self.view is None or not self.moved(now):
            return None
        delta = delta_between(self.view, now)
        if delta is not None:
            self.view = apply_delta(self.view, delta)
        return delta

    def moved(self, now: TrainingView) -> str:
        """Because of what the decision may be another on this view, in words; empty while it stands. O(S)."""
        if self.view is None:
            return ""
        if self._updates.by == "periodic":
            due = ns_to_seconds(now.made_at_ns - self.view.made_at_ns) >= self._updates.period_s
            return f"{self._updates.period_s:g} s have passed" if due else ""
        if self._validity is None:
            return "nothing is known of what the decision stands on"
        before = {(one.dataset, one.compute_node): one.timed for one in self._validity.pairs}
        for one in now.candidates:
            timed = before.pop((one.dataset, one.compute_node), None)
            if timed is None:
                return f"{one.dataset} at {one.compute_node} is a candidate now"
            if timed != (one.batch_s is not None):
                return f"a batch of {one.dataset} at {one.compute_node} has {'' if not timed else 'not '}been timed"
            if (left := self._left(one)) != "":
                return left
        return "".join(f"{dataset} at {node} is no candidate any more" for dataset, node in list(before)[:1])

    def _left(self, candidate: Candidate) -> str:
        """Which fact of a candidate has left its range."""
        for one in self._ranges.get((candidate.dataset, candidate.compute_node), []):
            if not one.holds(value := getattr(candidate, one.fact)):
                where = f"{candidate.dataset} at {candidate.compute_node}"
                return f"{one.fact} of {where} is {value:.3g}, not within {one.low:.3g} and {one.high:.3g}"
        return ""

    # --- for the next choice ----------------------------------------------------------------------------------------

    def made(self, view: TrainingView, found: Mapping[NodeId, Standing], basis: object) -> None:
        """A view was made of nodes that stood like this, and of `basis`: whatever else went into it."""
        self.view, self._standings, self._basis = view, found, basis

    def refresh(
        self,
        found: Mapping[NodeId, Standing],
        basis: object,
        batch_s: Mapping[PairKey, float],
        version: int,
        now_ns: int,
    ) -> TrainingView | None:
        """The view as it would be made now, where only facts have moved; None where it has to be made. `batch_s`:
        seconds per batch as the job has measured them. O(N + S)."""
        view = self.view
        if view is None or basis != self._basis:
            return None
        periodic = self._updates.by == "periodic"
        age_s = ns_to_seconds(now_ns - view.made_at_ns)
        if not 0 <= age_s <= (self._updates.period_s if periodic else AGE_MOST_S):
            return None
        if periodic:
            return self._usable(view, found)
        if found.keys() != self._standings.keys():
            return None
        if not all(one.same_kind(self._standings[node]) for node, one in found.items()):
            return None
        candidates = tuple(_moved(one, found, batch_s) for one in view.candidates)
        aggregators = tuple(
            one
            if one.bytes_per_s == found[one.node].bytes_per_s
            else msgspec.structs.replace(one, bytes_per_s=found[one.node].bytes_per_s)
            for one in view.aggregators
        )
        verifiers = tuple(
            one
            if (one.bytes_per_s, one.flops) == ((now := found[one.node]).bytes_per_s, now.flops)
            else msgspec.structs.replace(one, bytes_per_s=now.bytes_per_s, flops=now.flops)
            for one in view.verifiers
        )
        refreshed = msgspec.structs.replace(
            view, version=version, candidates=candidates, aggregators=aggregators, verifiers=verifiers
        )
        self.view = refreshed
        return refreshed

    def _usable(self, view: TrainingView, found: Mapping[NodeId, Standing]) -> TrainingView | None:
        """A view of the last period without nodes whose consent has run out since, or that are not reachable; None
        where nothing is left of it."""

        def usable(node: NodeId) -> bool:
            return node in found and found[node].usable

        left = tuple(one for one in view.candidates if usable(one.data_node) and usable(one.compute_node))
        verifiers = tuple(one for one in view.verifiers if usable(one.node))
        aggregators = tuple(one for one in view.aggregators if usable(one.node))
        if (left, verifiers, aggregators) != (view.candidates, view.verifiers, view.aggregators):
            view = msgspec.structs.replace(view, candidates=left, verifiers=verifiers, aggregators=aggregators)
        return view if left else None


def _moved(candidate: Candidate, found: Mapping[NodeId, Standing], batch_s: Mapping[PairKey, float]) -> Candidate:
    data, compute = found[candidate.data_node], found[candidate.compute_node]
    trust = min(data.trust, compute.trust)
    timed = batch_s.get((candidate.dataset, candidate.compute_node))
    moved = {"trust": trust, "batch_s": timed, "bytes_per_s": compute.bytes_per_s, "flops": compute.flops}
    moved["wait_s"] = compute.wait_s
    if candidate.split:
        moved |= {"data_flops": data.flops, "wait_s": max(data.wait_s, compute.wait_s)}
    if all(getattr(candidate, name) == value for name, value in moved.items()):
        return candidate
    return msgspec.structs.replace(candidate, **moved)

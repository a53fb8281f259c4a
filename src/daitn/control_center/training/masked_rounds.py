"""Masked rounds at the centre: who is asked for what, stage by stage, until a sum is opened or too few are left.

Secure aggregation (K. Bonawitz et al., CCS 2017) as visits, so that leases, fences, retries and proofs are those of all
work:

    agree (keys) → seal (shares of seeds) → train (masked updates) → sum → unmask (shares for that sum) → open

Each stage goes on with those that did the one before; more than two thirds of those that agreed must be left. A site
that is lost while it trains costs nothing: the others' shares take its masks off. The sum is made before anybody is
asked to unmask it, so that what is opened is what is there. The centre carries keys and shares, and reads none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from daitn.base.ids import ArtifactId, NodeId
from daitn.control_center.training.job_desk import WAIT_S, JobDesk
from daitn.control_center.training.records import MaskedRoundLost
from daitn.control_center.turn import Turn
from daitn.decision.rounds.stragglers import paced
from daitn.descriptors.masked import (
    MEMBERS_LEAST,
    MEMBERS_MOST,
    AgreeWork,
    FixedPoint,
    Masking,
    MaskMember,
    SealWork,
    Unmasking,
    UnmaskWork,
)
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import AggregateWork, TrainWork, UpdateRef

RECORDS_HEADROOM: Final = 2.0
"""Counts of records are published with noise: a site may have this many times what the largest one says before its
weight stops growing."""

WorkAt = Callable[[Stop], TrainWork | None]
"""The training to be done at a stop; None where its records have to stream there first, which is then ordered."""


class MaskedRounds:
    """See the module's docstring. `averaging`: what is to be made of a round's updates by the job's plan."""

    def __init__(self, desk: JobDesk, averaging: Callable[[tuple[UpdateRef, ...]], AggregateWork]) -> None:
        self._desk = desk
        self._state = desk.state
        self._book = desk.state.masks
        self._averaging = averaging

    def begin(self, turn: Turn, stops: list[Stop], work_at: WorkAt) -> None:
        """Ask the sites of a round for keys: one data set at each node, in turn where it has several."""
        state = self._state
        by_node: dict[NodeId, list[Stop]] = {}
        for stop in stops:
            by_node.setdefault(stop.compute_node, []).append(stop)
        chosen = [found[state.rounds % len(found)] for found in by_node.values()][:MEMBERS_MOST]
        works = [work_at(stop) for stop in chosen]
        if None in works:
            return  # records stream first
        if len(chosen) < MEMBERS_LEAST:
            turn.wake_in(f"job {state.job}", WAIT_S)
            return
        name = f"{state.job}/{state.fence + 1}"
        for stop in chosen:
            work = AgreeWork(round=name, dataset=stop.dataset)
            self._desk.order(turn, "agree", stop.compute_node, work, f"{stop.why}, masked: keys")

    def spent(self) -> str:
        """Why the budget pays for no further round; empty while it does, and without secure aggregation."""
        state, budget = self._state, self._state.request.budget.visits
        if state.plan is None or state.plan.secure is None or budget is None or budget - state.visits >= MEMBERS_LEAST:
            return ""
        return f"{budget - state.visits} of {budget} visits are left, and sites hide among {MEMBERS_LEAST} at least"

    def go_on(self, turn: Turn, view: Callable[[], TrainingView], work_at: WorkAt) -> None:
        """Begin the next stage when everything of the one before has ended, or give the round up."""
        if self._state.under_way():
            return
        self._next_stage(turn, view(), work_at)
        if not self._state.under_way():
            turn.wake_in(f"job {self._state.job}", WAIT_S)

    def _next_stage(self, turn: Turn, view: TrainingView, work_at: WorkAt) -> None:
        match self._book.stage:
            case "agree":
                self._seal(turn)
            case "seal":
                self._train(turn, view, work_at)
            case "train":
                self._sum(turn, view)
            case "sum":
                self._unmask(turn, view)
            case "unmask" | "open":
                self._open(turn, view)
            case _:
                pass

    def _seal(self, turn: Turn) -> None:
        members: list[MaskMember] = []
        for dataset, (node, keys) in self._book.keys.items():
            facts = self._desk.knowledge.node(node)
            if facts is not None:
                signer = facts.descriptor.public_key
                members.append(MaskMember(node=node, dataset=dataset, signer=signer, keys=keys))
        if len(members) < MEMBERS_LEAST:
            self._give_up(turn, f"{len(members)} sites made keys, {MEMBERS_LEAST} are the least to hide in")
            return
        for member in members:
            work = SealWork(round=self._book.round, dataset=member.dataset, members=tuple(members))
            self._desk.order(turn, "seal", member.node, work, f"seeds shared among {len(members)}")

    def _train(self, turn: Turn, view: TrainingView, work_at: WorkAt) -> None:
        book, plan = self._book, self._state.plan
        assert plan is not None
        assert plan.secure is not None
        records = max((candidate.records for candidate in view.candidates), default=1.0)
        fixed = FixedPoint(
            norm_most=plan.secure.update_norm_most,
            records_most=max(1.0, RECORDS_HEADROOM * records),
            members=len(book.members),
        )
        there = {(candidate.dataset, candidate.compute_node) for candidate in view.candidates}
        count = len(book.members)
        members = {book.members[rank].dataset: rank for rank in sorted(book.sealed)}
        stops = [
            Stop(dataset=member.dataset, compute_node=member.node, why="")
            for member in (book.members[rank] for rank in members.values())
            if (member.dataset, member.node) in there
        ]
        works: list[tuple[NodeId, TrainWork]] = []
        for stop in paced(stops, self._state.round_book.whole_s(plan.training.batches)):
            rank = members[stop.dataset]
            sealed = tuple(book.sealed[one][rank] if one in book.sealed else b"" for one in range(count))
            masking = Masking(round=book.round, rank=rank, sealed=sealed, fixed=fixed)
            if (work := work_at(stop)) is not None:
                works.append((stop.compute_node, msgspec.structs.replace(work, masking=masking)))
        if self._too_few(turn, len(works), "shared their seeds and are there"):
            return
        for node, work in works:
            why = f"round {self._state.rounds + 1}, masked: member {work.masking.rank + 1 if work.masking else 0}"
            self._desk.order(turn, "train", node, work, f"{why} of {count}")

    def _sum(self, turn: Turn, view: TrainingView) -> None:
        """Add up what came. Updates whose sites do not come back in a while are left out."""
        updates = tuple(self._state.updates)
        here = tuple(update for update in updates if self._desk.reachable(update.model))
        if any(not self._desk.gone(turn, update.model) for update in updates if update not in here):
            return
        if self._too_few(turn, len(here), "handed in an update"):
            return
        if (node := self._desk.aggregator(turn, view)) is not None:
            work = AggregateWork(updates=here, masked=True)
            self._desk.order(turn, "aggregate", node, work, f"the sum of {len(here)} masked updates")

    def _unmask(self, turn: Turn, view: TrainingView) -> None:
        book = self._book
        if book.sum is None:
            self._sum(turn, view)
            return
        ranks = book.summed_ranks
        if self._too_few(turn, len(ranks), "are in the sum"):
            return
        for rank in ranks:
            member = book.members[rank]
            work = UnmaskWork(round=book.round, dataset=member.dataset, members=len(book.members), summed=ranks)
            self._desk.order(turn, "unmask", member.node, work, f"shares that open the sum of {len(ranks)}")

    def _open(self, turn: Turn, view: TrainingView) -> None:
        book, state = self._book, self._state
        assert book.sum is not None
        assert book.fixed is not None
        if self._too_few(turn, len(book.answers), "told their shares"):
            return
        if not self._desk.reachable(book.sum):
            if self._desk.gone(turn, book.sum):
                self._give_up(turn, "nobody who has the sum came back")
            return
        weight = sum(book.fixed.share_of(update.weight) for update in book.summed)
        ranks = sorted(book.answers)[: book.threshold]
        unmasking = Unmasking(
            round=book.round,
            mask_keys=tuple(member.keys.mask for member in book.members),
            sealed=tuple(sorted(book.sealed)),
            summed=book.summed_ranks,
            threshold=book.threshold,
            answers=tuple(book.answers[rank] for rank in ranks),
            fixed=book.fixed,
            weight=weight,
        )
        planned = self._averaging((UpdateRef(model=book.sum, weight=weight),))
        work = msgspec.structs.replace(planned, base=state.head, unmasking=unmasking)
        if (node := self._desk.aggregator(turn, view, self._holders(book.sum))) is not None:
            self._desk.order(turn, "aggregate", node, work, f"the mean of {len(book.summed)} sites' updates")

    def _holders(self, artifact: ArtifactId) -> tuple[NodeId, ...]:
        return tuple(self._state.holders.get(artifact, ()))

    def _too_few(self, turn: Turn, count: int, did: str) -> bool:
        """Whether the round has to be given up, because no more than two thirds of its members are left."""
        if count >= self._book.threshold:
            return False
        members = len(self._book.members)
        self._give_up(
            turn, f"{count} of {members} sites {did}, {self._book.threshold} are needed to take the masks off"
        )
        return True

    def _give_up(self, turn: Turn, why: str) -> None:
        turn.record(MaskedRoundLost(job=self._state.job, at_ns=turn.now_ns, round=self._book.round, why=why))

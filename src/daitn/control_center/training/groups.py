"""Groups at the centre: visits that exchange within each step are ordered together and stand or fall together.

A round of a group has one outcome: all members made the same model and it becomes the head, or nothing does. So the
first loss ends the round for all; results that came before it are kept as visits made, and lead nowhere. A member that
blames a partner is believed as far as not being blamed itself and the partner being left out of the next round, and no
further: what one site says about another is no evidence.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from daitn.base.errors import BugError
from daitn.base.ids import NodeId, VisitId
from daitn.base.units import seconds_to_ns, show_bytes
from daitn.control_center.training.job_desk import REST_PATIENCES, JobDesk
from daitn.control_center.training.records import GroupAgreed, GroupLost, SiteBarred, VisitLost, VisitOrdered
from daitn.control_center.turn import Turn
from daitn.decision.cutting import choose_cut
from daitn.descriptors.plan import Stop
from daitn.descriptors.splitting import Split
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import Group, Member, TrainWork
from daitn.wire.center_tools import VisitCancel

DIFFERS_MOST: Final = 2
"""Rounds in which one member's model may differ from that of all others before its data set is left out for good."""


class Groups:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk
        self._state = desk.state

    def order(
        self, turn: Turn, works: list[tuple[NodeId, TrainWork]], why: str, split: Split | None = None
    ) -> None:  # fmt: skip
        """Order a group, in one record after another of the same turn: a crash leaves all of it or nothing. `split`:
        how the model is cut between its two members."""
        state = self._state
        members = tuple(
            Member(visit=VisitId(f"{state.job}/{state.fence + place}"), node=node, dataset=work.dataset)
            for place, (node, work) in enumerate(works, start=1)
        )
        for rank, (node, work) in enumerate(works):
            mine = msgspec.structs.replace(work, group=Group(members=members, rank=rank), split=split)
            self._desk.order(turn, "train", node, mine, f"{why}, rank {rank} of {len(members)}")

    def order_stop(self, turn: Turn, view: TrainingView, stop: Stop, work: TrainWork) -> None:
        """Order what is to be done at one stop: a visit there, or two between which the model is cut."""
        place = next(
            one for one in view.candidates if (one.dataset, one.compute_node) == (stop.dataset, stop.compute_node)
        )
        if not place.split:
            self._desk.order(turn, "train", stop.compute_node, work, stop.why)
            return
        found, size = self._state.preflight, work.training.batch_size
        cuts = () if found is None or found.cuts is None else found.cuts
        chosen = None if found is None else choose_cut(cuts, place, size, found.batch_seconds, found.unit_flops)
        if chosen is None:
            raise BugError(f"job {self._state.job} was admitted to split a model that has no cut")
        partner = self._desk.knowledge.node(stop.compute_node)
        operator = partner.descriptor.operator if partner is not None else ""
        cut = chosen.cut
        said = f"{cut.middle_frac:.0%} of the computing at {self._desk.name_of(stop.compute_node)}"
        why = f"{stop.why}; cut at nodes {cut.begin} and {cut.end}: {said}, {show_bytes(cut.record_bytes)} a record"
        split = Split(begin=cut.begin, end=cut.end, operator=operator)
        self.order(turn, [(place.data_node, work), (stop.compute_node, work)], why, split)

    def accepted(self, turn: Turn, group: Group) -> bool:
        """A member's result was accepted; whether it was the last one, and all agree."""
        state = self._state
        visits = tuple(member.visit for member in group.members)
        if set(visits) - set(state.group):
            return False
        models = [state.group[visit][1].model for visit in visits]
        if len(set(models)) == 1:
            turn.record(GroupAgreed(job=state.job, at_ns=turn.now_ns, visits=visits, model=models[0]))
            return True
        counts = Counter(models)
        most, count = counts.most_common(1)[0]
        odd = [member for member, model in zip(group.members, models, strict=True) if model != most]
        alone = odd[0] if len(odd) == 1 and count > 1 else None
        said = ", ".join(
            f"{self._desk.name_of(member.node)}: {model[:16]}"
            for member, model in zip(group.members, models, strict=True)
        )
        why = f"{len(counts)} different models came of one round in lock step ({said})"
        self._end(turn, visits, why, alone, differs=True)
        return False

    def lost(self, turn: Turn, ordered: VisitOrdered, why: str, blame: str, partner: NodeId | None) -> None:
        """A member was lost: so is the round. The others are told to stop."""
        state = self._state
        if not isinstance(ordered.work, TrainWork) or (group := ordered.work.group) is None:
            return
        culprit: Member | None = next(one for one in group.members if one.visit == ordered.visit)
        if blame == "partner":
            culprit = next((one for _, one in _others(group, ordered.visit) if one.node == partner), None)
            if ordered.work.split is not None and culprit is not None and not ordered.work.is_middle:
                # Others that could compute the middle are asked first, for a while.
                rest_ns = turn.now_ns + seconds_to_ns(REST_PATIENCES * self._desk.config.patience_s)
                self._desk.knowledge.rest(culprit.node, rest_ns)
        for _, member in _others(group, ordered.visit):
            opened = state.open.get(member.visit)
            if opened is not None:
                turn.send(member.node, VisitCancel(visit=member.visit, fence=opened.ordered.fence))
                over = f"visit {ordered.visit} of its group was lost"
                turn.record(VisitLost(job=state.job, at_ns=turn.now_ns, visit=member.visit, why=over, blame="over"))
        if ordered.work.split is not None:
            culprit = None  # its members have one data set between them
        self._end(turn, tuple(member.visit for member in group.members), why, culprit, differs=False)

    def _end(self, turn: Turn, visits: tuple[VisitId, ...], why: str, culprit: Member | None, *, differs: bool) -> None:
        state = self._state
        left_out = culprit.dataset if culprit is not None else None
        turn.record(
            GroupLost(job=state.job, at_ns=turn.now_ns, visits=visits, why=why, left_out=left_out, differs=differs)
        )
        if differs and left_out is not None and state.harm.get(left_out, 0) >= DIFFERS_MOST:
            turn.record(SiteBarred(job=state.job, at_ns=turn.now_ns, dataset=left_out, why=why))


def _others(group: Group, visit: VisitId) -> list[tuple[int, Member]]:
    return [(rank, member) for rank, member in enumerate(group.members) if member.visit != visit]

"""Orders: from a step of a method to the message a terminal gets, with inputs, holders and grants.

Built anew at each sending, so that holders are those reachable now and grants are fresh.
"""

from __future__ import annotations

from typing import Final

from daitn.artifacts.itineraries import RouteTree
from daitn.base import limits
from daitn.base.ids import CENTER, ArtifactId, GrantId, JobId, NodeId
from daitn.base.units import NS_PER_S
from daitn.control_center.config import CenterConfig, CenterTools
from daitn.control_center.training.job_state import JobState
from daitn.control_center.training.records import VisitOrdered
from daitn.descriptors.grant import GRANT_S, Grant, Holder
from daitn.descriptors.itinerary import Itinerary, Passage
from daitn.descriptors.origin import Origin
from daitn.descriptors.work import AggregateWork, EvaluateWork, ShareWork, TrainWork, Work
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.wire.center_tools import InputRef, PartnerRef, VisitOrder, Warrant

WALL_FACTOR: Final = 20.0
"""A visit may take this many times what was expected before its site ends it."""

WALL_LEAST_S: Final = 60.0


class OrderDesk:
    """Makes orders and input references for one centre."""

    def __init__(self, config: CenterConfig, tools: CenterTools, knowledge: KnowledgeMap) -> None:
        self._config = config
        self._tools = tools
        self._knowledge = knowledge

    def holders(self, state: JobState, artifact: ArtifactId, extra: NodeId | None = None) -> tuple[Holder, ...]:
        """Reachable nodes that hold an artifact, the newest holder first and those whose bytes cost last, as many as an
        order may name."""
        nodes = list(reversed(state.holders.get(artifact, [])))
        if extra is not None and extra not in nodes:
            nodes.append(extra)
        found: list[Holder] = []
        metered: list[Holder] = []
        for node in nodes:
            if node == CENTER:
                found.append(Holder(node=CENTER, direct=self._config.direct))
                continue
            facts = self._knowledge.node(node)
            if facts is not None and facts.reachable:
                costs = facts.descriptor.access.metered
                (metered if costs else found).append(Holder(node=node, direct=facts.descriptor.direct))
        return tuple((found + metered)[: limits.HOLDERS])

    def input_ref(
        self,
        state: JobState,
        artifact: ArtifactId,
        requester: NodeId,
        now_ns: int,
        *,
        holder: NodeId | None = None,
        parts_only: bool = False,
        compared: bool = False,
    ) -> InputRef:
        """An artifact as an input of a visit at `requester`, with a grant for exactly that. `compared`: whether the
        receiver is told what it has to be, where another visit made it."""
        grant = Grant(
            id=GrantId(f"{state.job}:{artifact[:16]}:{requester}"),
            domain=self._config.domain,
            artifact=artifact,
            requester=requester,
            job=state.job,
            expires_unix_s=now_ns // NS_PER_S + GRANT_S,
        )
        return InputRef(
            artifact=artifact,
            holders=self.holders(state, artifact, holder),
            grant=self._tools.issue(grant),
            origin=_origin(state, artifact) if compared else None,
            parts_only=parts_only,
        )

    def warrant(self, state: JobState) -> Warrant:
        """On whose behalf this job's visits are made."""
        return Warrant(
            owner=state.owner,
            purpose=state.request.purpose,
            method=state.plan.method if state.plan is not None else state.request.method or "*",
            signer=state.package.signer,
            epsilon=state.request.epsilon,
        )

    def order(self, state: JobState, ordered: VisitOrdered, now_ns: int, route: Passage) -> VisitOrder:
        """The message for a visit, which is a segment of a signed route."""
        inputs: list[InputRef] = []
        node = ordered.node
        match ordered.work:
            case TrainWork(records=records, dataset=dataset) as train:
                for model in train.models_in():
                    inputs.append(self.input_ref(state, model, node, now_ns, compared=model == train.model))
                if records is not None:
                    holder = state.records[(dataset, node)][1]
                    inputs.append(self.input_ref(state, records, node, now_ns, holder=holder))
            case EvaluateWork(model=model, samples=samples):
                inputs.append(self.input_ref(state, model, node, now_ns, compared=True))
                for sample in samples:
                    inputs.append(self.input_ref(state, sample.artifact, node, now_ns, holder=sample.holder))
            case AggregateWork() as work:
                inputs += [self.input_ref(state, model, node, now_ns) for model in work.models_in()]
            case ShareWork(contract=contract):
                inputs.append(self.input_ref(state, contract, node, now_ns, parts_only=True))
        partners = self._partners(state, ordered, now_ns)
        expected = state.plan.expected.seconds if state.plan is not None else 0.0
        return VisitOrder(
            visit=ordered.visit,
            job=state.job,
            fence=ordered.fence,
            lease_s=self._knowledge.patience_with(node, self._config.lease_s),
            wall_s=max(WALL_LEAST_S, WALL_FACTOR * expected) + _trial_seconds(ordered.work),
            package=state.request.package,
            work=ordered.work,
            inputs=tuple(inputs),
            warrant=self.warrant(state),
            partners=partners,
            route=route,
        )

    def sign_route(self, job: JobId, version: int, tree: RouteTree) -> str:
        """The token of a version of a job's route."""
        return self._tools.sign_route(
            Itinerary(domain=self._config.domain, job=job, version=version, segments=len(tree.segments), root=tree.root)
        )

    def _partners(self, state: JobState, ordered: VisitOrdered, now_ns: int) -> tuple[PartnerRef, ...]:
        """Where a visit finds the other members of its group, each under a grant for exactly that exchange."""
        group = ordered.work.group if isinstance(ordered.work, TrainWork) else None
        if group is None:
            return ()
        found: list[PartnerRef] = []
        for _, member in group.others():
            facts = self._knowledge.node(member.node)
            grant = Grant(
                id=GrantId(f"{ordered.visit}:{member.visit}"),
                domain=self._config.domain,
                artifact=ArtifactId(""),
                requester=ordered.node,
                job=state.job,
                expires_unix_s=now_ns // NS_PER_S + GRANT_S,
                visit=member.visit,
                by=ordered.visit,
            )
            direct = facts.descriptor.direct if facts is not None else ()
            holder = Holder(node=member.node, direct=direct)
            found.append(PartnerRef(visit=member.visit, holder=holder, grant=self._tools.issue(grant)))
        return tuple(found)


def _origin(state: JobState, artifact: ArtifactId) -> Origin | None:
    """What a model of this job has to be; None for one that its owner submitted."""
    made = state.made.of(artifact)
    if made is None:
        return None
    return Origin(visit=made.visit, kind=state.package.kind, shapes=state.package.shapes, weights=made.weights)


def _trial_seconds(work: Work) -> float:
    """Seconds of trials, which a measurement may take beyond what it takes anyway."""
    if not isinstance(work, EvaluateWork):
        return 0.0
    return (work.trial_s if work.trial is not None else 0.0) + (work.tries.seconds if work.tries is not None else 0.0)

"""Answer checks: a host whose answers are others than those of the other hosts of a model serves it no more.

Gateways ask a query of a second host now and then and count, for each pair of hosts, whether both answered alike
(`node.serving.comparing`); `decision.answers_compared` says who is odd. Its replica is taken away as one that failed,
so that another host gets it and this one does not until the model is deployed anew; its trust falls, with the reason;
the operator is told. Where nobody can say who is wrong, both are named, and a verification unit computes the model,
too, until it can be said (`refereeing`).
"""

from __future__ import annotations

from collections.abc import Mapping

from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.base.metrics import Counters
from daitn.control_center.alarms import CenterAlarms
from daitn.control_center.inference.deployed import Deployed
from daitn.control_center.inference.live_book import LiveBook
from daitn.control_center.inference.records import ReplicaTaken
from daitn.control_center.inference.refereeing import Refereeing
from daitn.control_center.turn import Turn
from daitn.decision.answers_compared import Pair, odd_hosts
from daitn.descriptors.trust import Evidence
from daitn.topology.knowledge_map import KnowledgeMap


class AnswerChecks:
    """See the module's docstring."""

    def __init__(
        self,
        models: Mapping[ModelName, Deployed],
        book: LiveBook,
        knowledge: KnowledgeMap,
        counters: Counters,
        alarms: CenterAlarms,
        referees: Refereeing,
    ) -> None:
        self._referees = referees
        self._models, self._book, self._knowledge = models, book, knowledge
        self._counters, self._alarms = counters, alarms
        self._undecided: set[tuple[ArtifactId, NodeId, NodeId, NodeId | None]] = set()
        """Pairs that the operator was told of, each with who was to tell which of them is wrong."""

    def look(self, turn: Turn) -> set[ModelName]:
        """Take replicas from hosts that are odd; names of models that lost one, or whose referee is another now."""
        changed: set[ModelName] = set()
        served = {model.artifact for model in self._models.values()}
        self._undecided = {one for one in self._undecided if one[0] in served}
        self._referees.forget(served)
        for name, model in list(self._models.items()):
            pairs = self._book.pairs(model.artifact)
            found = odd_hosts(pairs)
            before = model.referee
            differ = [pair for pair in found.undecided if all(host in model.placed for host in pair)]
            if (gone := self._referees.look(name, differ, pairs, turn.now_ns)) is not None:
                self._book.forget_host(model.artifact, gone)
            for node, others in found.odd.items():
                if node in model.placed:
                    self._take(turn, name, node, self._why(pairs, node, others))
                    changed.add(name)
                self._book.forget_host(model.artifact, node)
            for one, other in differ:
                self._tell(turn, name, model, one, other, pairs[one, other])
            if model.referee != before:
                changed.add(name)
        return changed

    def _take(self, turn: Turn, name: ModelName, node: NodeId, why: str) -> None:
        self._counters.count("hosts_odd")
        turn.record(ReplicaTaken(model=name, at_ns=turn.now_ns, node=node, why=why, failed=True))
        turn.record_if(self._knowledge.found(node, Evidence.HARMED, turn.now_ns, why=f"model {name}: {why}"))
        self._alarms.sound(turn, f"odd host {node} {name}"[:64], f"model {name}: {self._name(node)}: {why}")

    def _tell(self, turn: Turn, name: ModelName, model: Deployed, one: NodeId, other: NodeId, pair: Pair) -> None:
        told = (model.artifact, one, other, model.referee)
        if told in self._undecided:
            return
        self._undecided.add(told)
        todo = "deploy the model with three replicas or more, or join a verification unit of another operator"
        if model.referee is not None:
            todo = f"{self._name(model.referee)} computes queries that are compared again, to tell"
        what = (
            f"model {name}: {self._name(one)} and {self._name(other)} answered {pair.differing} of "
            f"{pair.same + pair.differing} queries unlike each other, and no larger group of hosts tells which of them "
            f"is wrong: {todo}"
        )
        self._alarms.sound(turn, f"hosts {one} {other} {name}"[:64], what)

    def _why(self, pairs: Mapping[tuple[NodeId, NodeId], Pair], node: NodeId, others: tuple[NodeId, ...]) -> str:
        found = [pairs[min(node, other), max(node, other)] for other in others]
        differing, rows = sum(one.differing for one in found), sum(sum(one) for one in found)
        names = " and ".join(map(self._name, others[:4]))
        return f"{differing} of {rows} queries it answered otherwise than {names}, who agree"

    def _name(self, node: NodeId) -> str:
        facts = self._knowledge.node(node)
        return str(node) if facts is None else facts.descriptor.name

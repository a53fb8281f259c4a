"""What a method may ask of a running job: the next stop, the stops of a round, and those of a group (MTRCE)."""

from __future__ import annotations

from collections.abc import Callable

from daitn.base import limits
from daitn.base.ids import DataSetId, NodeId
from daitn.control_center.training.job_desk import JobDesk
from daitn.control_center.training.route_desk import RouteDesk
from daitn.control_center.training.spending import Spending
from daitn.control_center.turn import Turn
from daitn.decision.rounds import ROUND_RULES
from daitn.decision.rounds.contract import Rounds
from daitn.decision.rounds.gossip import draw_groups
from daitn.decision.rounds.stragglers import paced
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import best_compute, datasets
from daitn.descriptors.plan import Stop
from daitn.descriptors.view import TrainingView
from daitn.learning.methods import METHODS
from daitn.learning.methods.contract import Choosers


class Choosing:
    """See the module's docstring."""

    def __init__(self, desk: JobDesk, routes: RouteDesk, spending: Spending) -> None:
        self._desk = desk
        self._routes = routes
        self._spending = spending

    def choosers(self, turn: Turn, view: Callable[[], TrainingView]) -> Choosers:
        """`view` is made only when a choice is due: it costs O(sites), and a round of N sites would make it N times."""
        state = self._desk.state
        assert state.plan is not None
        training, method = state.plan.training, METHODS[state.plan.method]

        def next_stop(rule: str) -> Stop | None:
            return self._routes.next_stop(turn, RULES[rule], view(), training.batches * training.batch_size)

        def all_stops() -> tuple[Stop, ...]:
            """Those the method's rule takes, of as many as one order to an aggregator may name and the budget pays."""
            left = (state.request.budget.visits or limits.VISITS_PER_JOB) - state.visits
            most = max(0, min(limits.SITES_PER_ORDER, left - len(state.training_meanwhile())))
            rounds = Rounds(
                reports=tuple(state.round_book.reports),
                round=state.rounds + state.gossip.rounds,
                lost=state.lost + state.round_book.cut_so_far,
                seed=state.request.seed,
            )
            stops = ROUND_RULES[method.rounds].choose(view(), rounds, most)
            if not training.control_variates:  # its corrections stand for equally many steps of all
                stops = paced(stops, state.round_book.whole_s(training.batches))
            return self._spending.together(view(), stops)

        def group_stops() -> tuple[Stop, ...]:
            """As many sites as a group may have, each at a node of its own, beginning with another one each round;
            without those because of which the last round was lost, while there are others."""
            names = datasets(view())
            names = tuple(name for name in names if name not in state.left_out) or names
            most = (state.request.budget.visits or limits.VISITS_PER_JOB) - state.visits
            first = state.rounds % max(1, len(names)) if len(names) > limits.GROUP_MEMBERS else 0
            stops: dict[NodeId, Stop] = {}
            for name in names[first:] + names[:first]:
                node = best_compute(view(), name).compute_node
                stops.setdefault(node, Stop(dataset=name, compute_node=node, why=f"round {state.rounds + 1}"))
            return self._spending.together(view(), tuple(stops.values()))[: max(1, min(most, limits.GROUP_MEMBERS))]

        def groups(names: tuple[DataSetId, ...]) -> tuple[tuple[DataSetId, ...], ...]:
            """Drawn anew each round. The fence counts on for ever, so no two rounds draw alike."""
            return draw_groups(names, state.fence, state.request.seed)

        return Choosers(next_stop=next_stop, all_stops=all_stops, group_stops=group_stops, groups=groups)

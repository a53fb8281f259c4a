"""What a gateway keeps of one model: its hosts as a choice reads them, what is leased of them, and what was learnt.

Paper II-B, QIRCE. What was learnt of a host that stays is kept when routes change; a replica that measured itself anew
is another one. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from daitn.decision.query_route.answer_length import KNOWN, AnswerLengths
from daitn.decision.query_route.ejection import Ejector
from daitn.decision.query_route.replicas import ReplicaFacts, ReplicaTable
from daitn.decision.query_route.service_time import ServicePrior
from daitn.decision.query_route.slots import SlotPurse
from daitn.descriptors.serving import ReplicaMeasured, Route, ServedModel
from daitn.descriptors.texts import TextTask

PATH_S: Final = 0.002
"""Round trip to a host before one was measured: within a site it is less, between sites more."""

MEASURED_DOUBT: Final = 0.3
"""Deviation of what a host measured of itself while warming up, as a share of it."""

LEASED_LEAST: Final = 8
"""Slots that are asked for at first: a burst of queries finds some."""

PROMPT_SHARE: Final = 0.01
"""Of the time of a token of an answer that one of the prompt takes, before that was learnt."""

LEARN_SAVED: Final = 0.1
"""Weight of the newest answer in what is known of how much is saved."""

READING_LEAST_S: Final = 0.005
"""Prompts that are read sooner tell nothing of that."""

PROBE: Final = 8
"""Of a model whose answers' lengths are not known yet, every so many queries that only their length speaks against are
let in all the same: who refuses and learns nothing would refuse forever."""

UNPRICED: Final = 1e12
"""Stands for a price that nobody stated: above whatever may be asked for."""


class KeptModel:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.table = ReplicaTable()
        self.ejector = Ejector()
        self.routes: dict[str, Route] = {}
        self.purses: dict[str, SlotPurse] = {}
        self.asked_s: dict[str, float] = {}
        """Hosts that were asked for slots, and when."""
        self.shares: dict[str, float] = {}
        self.looked_s = self.forgave_s = -1e9
        self.engines = 0
        self.lengths = AnswerLengths()
        self.saved_frac = 0.0
        """How much of the time to read a prompt a host saves that had its beginning before."""
        self.too_long = 0
        """Queries that nothing but the length of their answers spoke against."""

    def follow(
        self, model: ServedModel, now_s: float, region_of: Callable[[str], int], operator_of: Callable[[str], int]
    ) -> None:
        """These are its routes now. `region_of`, `operator_of`: numbers of names."""
        told = {str(route.host.node): route for route in model.routes}
        for name in [name for name, route in self.routes.items() if not _same(told.get(name), route)]:
            self.table.remove(name)
            self.ejector.forget(name)
            for held in (self.routes, self.purses, self.asked_s, self.shares):
                held.pop(name, None)
        for name, route in told.items():
            price, price_unit = route.prices or (UNPRICED, 0.0)
            if name not in self.routes:
                path_s = PATH_S if route.path_s is None else route.path_s
                facts = ReplicaFacts(
                    region=region_of(route.region),
                    zone=operator_of(route.operator),
                    slots=route.concurrency,
                    path_s=path_s,
                    path_dev_s=path_s,
                    service=_prior(route.measured, tells=TextTask.GENERATE in model.tasks),
                )
                self.table.add(name, facts)
                # It says that it serves: nothing is known to wait there.
                self.table.reported(name, 0, 0.0, now_s)
                self.purses[name] = SlotPurse(least=LEASED_LEAST)
                self.shares[name] = 1.0
            self.table.set_price(name, price, price_unit)
            self.routes[name] = route
        self.engines = sum(route.concurrency for route in self.routes.values())

    def saved_s(self, host: str, size: float, first_s: float, *, holds: bool) -> float:
        """What a host saved on a text's first piece by having had its beginning before; learns how much that is."""
        reading_s = self.table.reading_s(host, size)
        if not holds or reading_s < READING_LEAST_S:
            return 0.0
        seen = (self.table.expected_s(host, size) - first_s) / reading_s
        self.saved_frac += LEARN_SAVED * (min(max(seen, 0.0), 1.0) - self.saved_frac)
        return self.saved_frac * reading_s

    def is_probe(self, *, fits: bool) -> bool:
        """Whether a query is let in although its answer is predicted to take too long; `fits`: its first piece would
        come in time."""
        if not fits or self.lengths.known >= KNOWN:
            return False
        self.too_long += 1
        return self.too_long % PROBE == 0


def _prior(measured: ReplicaMeasured, *, tells: bool) -> ServicePrior:
    """What a host measured of itself: base and each row; where it `tells` texts, its first piece and each token."""
    each_s = max(0.0, measured.batch_s - measured.row_s) / max(1, measured.batch_rows - 1)
    if tells:
        base_s = max(1e-6, measured.row_s)
        return ServicePrior(base_s, each_s * PROMPT_SHARE, MEASURED_DOUBT, MEASURED_DOUBT, each_s)
    return ServicePrior(max(1e-6, measured.row_s - each_s), each_s, MEASURED_DOUBT, MEASURED_DOUBT)


def _same(told: Route | None, known: Route) -> bool:
    """Whether a route is still the replica that was learnt of: not one that measured itself anew."""
    return told is not None and (told.region, told.operator, told.concurrency, told.measured) == (
        known.region,
        known.operator,
        known.concurrency,
        known.measured,
    )

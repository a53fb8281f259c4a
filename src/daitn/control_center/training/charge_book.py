"""What the visits of a job came to, by the tariffs they were ordered under. Part of a job's state, made of records."""

from __future__ import annotations

from daitn.control_center.training.records import VisitOrdered
from daitn.descriptors.work import TrainOutcome


class ChargeBook:
    """`price`: in the domain's unit of account; `energy_joules`: drawn. Of sites that state them."""

    def __init__(self) -> None:
        self.price = 0.0
        self.energy_joules = 0.0

    def accepted(self, ordered: VisitOrdered, outcome: TrainOutcome, at_ns: int) -> None:
        """A training visit was accepted: it is charged for what its site says, and no longer than it can have taken."""
        if ordered.tariff is None:
            return
        seconds = min(outcome.seconds, max(0.0, (at_ns - ordered.at_ns) / 1e9))
        self.price += ordered.tariff.price_of(seconds, outcome.fetched_bytes + outcome.exchanged_bytes) or 0.0
        self.energy_joules += ordered.tariff.joules_of(seconds) or 0.0

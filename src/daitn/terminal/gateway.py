"""Gateway, its control side (paper II-B): a terminal role that knows where models are and which keys open the door.

A core: routes and keys come in whole, each under a sequence; what it knows is told back on change and every `TELL_S`,
so that a lost message is made good by the next. Queries are not here: they are answered by `node.serving.gateway`, on
what this core was told last. It goes on with that while the centre is away. What it was asked it tells every two
seconds, and at once where a model has no host (`DemandTold`). Parts of quotas are asked of the centre and given by it;
how much is wanted, and what is done with it, is `node.serving.quota_keeper`'s.
"""

from __future__ import annotations

from typing import Final

from daitn.base.effects import Delivered, Effect, Event, Record, Send, SetTimer, Started, TimerFired
from daitn.base.ids import CENTER
from daitn.base.metrics import Counters
from daitn.base.units import seconds_to_ns
from daitn.descriptors.grant import Holder
from daitn.descriptors.live import ModelOutcomes
from daitn.descriptors.serving import ApiKey, ServedModel
from daitn.wire.center_serving import (
    DemandTold,
    KeysGiven,
    OutcomesTold,
    QueriesOf,
    QuotasAsked,
    QuotasGiven,
    RoutesGiven,
    RoutesHeld,
)

TIMER: Final = "gateway tell"
TELL_S: Final = 2.0
"""How often a gateway tells what it knows unasked."""


ZEROS: Final = 15
"""How often it tells that it is asked nothing any more: demand that ended is seen to fade."""


class QueriesCounted(Event, frozen=True, kw_only=True):
    """What this gateway was asked in the last seconds; empty where there was nothing."""

    seconds: float
    counts: tuple[QueriesOf, ...] = ()


class OutcomesCounted(Event, frozen=True, kw_only=True):
    """What became of this gateway's queries since its process began."""

    since: int
    outcomes: tuple[ModelOutcomes, ...]


class QuotasWanted(Event, frozen=True, kw_only=True):
    """What was spent of keys with quotas, and what is wanted of the centre: `QuotasAsked`."""

    asked: QuotasAsked


class TakeQuotas(Effect, frozen=True, kw_only=True):
    """So much may be spent of keys with quotas."""

    given: QuotasGiven


class TakeRoutes(Effect, frozen=True, kw_only=True):
    """These models may be asked from now on, and no others; answers may be handed to these gateways."""

    models: tuple[ServedModel, ...]
    gateways: tuple[Holder, ...] = ()


class TakeKeys(Effect, frozen=True, kw_only=True):
    """These keys open the door from now on, and no others."""

    keys: tuple[ApiKey, ...]


class Gateway:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._routes = 0
        self._keys = 0
        self._zeros_left = 0

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case Delivered(sender=sender, message=RoutesGiven() | KeysGiven() | QuotasGiven()) if sender != CENTER:
                self.counters.count("messages_not_from_center")
                return []
            case Delivered(message=RoutesGiven(sequence=sequence, models=models, gateways=gateways)):
                effects: list[Effect] = []
                if sequence > self._routes:
                    self._routes = sequence
                    effects.append(TakeRoutes(models=models, gateways=gateways))
                return [*effects, self._tell()]
            case Delivered(message=KeysGiven(sequence=sequence, keys=keys)):
                effects = []
                if sequence > self._keys:
                    self._keys = sequence
                    effects.append(TakeKeys(keys=keys))
                return [*effects, self._tell()]
            case Delivered(message=QuotasGiven() as given):
                return [TakeQuotas(given=given)]
            case QuotasWanted(asked=asked):
                return [Send(receiver=CENTER, message=asked)]
            case QueriesCounted(seconds=seconds, counts=counts):
                self._zeros_left = ZEROS if counts else self._zeros_left - 1
                if self._zeros_left < 0:
                    return []
                return [Send(receiver=CENTER, message=DemandTold(seconds=max(seconds, 1e-3), counts=counts))]
            case OutcomesCounted(since=since, outcomes=outcomes):
                return [Send(receiver=CENTER, message=OutcomesTold(since=since, outcomes=outcomes))]
            case Started() | TimerFired(name="gateway tell"):
                return [self._tell(), SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(TELL_S))]
            case _:
                return []

    def apply(self, record: Record) -> None:
        """Nothing of this core is journalled."""

    def check_invariants(self) -> None:
        """It has none beyond its types."""

    def _tell(self) -> Effect:
        return Send(receiver=CENTER, message=RoutesHeld(routes=self._routes, keys=self._keys))

"""A turn: what one event makes the control centre record and do.

Facts change the state at once and go into one `Append`, ahead of every message of the turn, so that a turn costs one
durable write and nobody is told what a crash could undo.
"""

from __future__ import annotations

from collections.abc import Callable

from daitn.base.effects import Append, Compute, Effect, Problem, Record, Send, SetTimer
from daitn.base.ids import NodeId
from daitn.base.units import seconds_to_ns
from daitn.wire.codec import AnyMessage


class Turn:
    """See the module's docstring. `apply` changes the state by one record."""

    def __init__(self, now_ns: int, apply: Callable[[Record], None]) -> None:
        self.now_ns = now_ns
        self._apply = apply
        self._records: list[Record] = []
        self._effects: list[Effect] = []
        self._closing: list[Callable[[], None]] = []

    def record(self, record: Record) -> None:
        """Change the state by a fact, and keep it."""
        self._apply(record)
        self._records.append(record)

    def record_if(self, record: Record | None) -> None:
        """Keep a fact, if there is one."""
        if record is not None:
            self.record(record)

    def send(self, receiver: NodeId, message: AnyMessage) -> None:
        """Say something, once the turn's facts are durable."""
        self._effects.append(Send(receiver=receiver, message=message))

    def timer(self, name: str, at_ns: int) -> None:
        """Wake up at a moment."""
        self._effects.append(SetTimer(name=name, at_ns=at_ns))

    def wake_in(self, name: str, seconds: float) -> None:
        """Wake up after some seconds."""
        self.timer(name, self.now_ns + seconds_to_ns(seconds))

    def compute(self, key: str, problem: Problem, basis: int) -> None:
        """Have something worked out beside the turn, from what stood at version `basis`; the answer is an event."""
        self._effects.append(Compute(key=key, basis=basis, problem=problem))

    def perform(self, effect: Effect) -> None:
        """Any other effect."""
        self._effects.append(effect)

    def at_end(self, finish: Callable[[], None]) -> None:
        """Once all else in this turn is decided: for what speaks of the whole turn. It may record and send."""
        self._closing.append(finish)

    def effects(self) -> list[Effect]:
        """All that shall happen, the durable write first."""
        while self._closing:
            self._closing.pop(0)()
        return ([Append(records=tuple(self._records))] if self._records else []) + self._effects

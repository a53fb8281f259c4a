"""State tables: a machine is a table `(state, event) → next states`; a missing pair is an error and no change.

The documentation's diagrams are drawn from these tables (`render_mermaid`), so they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from daitn.base.errors import BugError

S = TypeVar("S", bound=StrEnum)


class StateTable(Generic[S]):
    """Which transitions are allowed: `allowed[state][event name] = next state`."""

    def __init__(self, name: str, allowed: Mapping[S, Mapping[str, S]]) -> None:
        self.name = name
        self._allowed = {state: dict(row) for state, row in allowed.items()}

    def next(self, state: S, event: str, subject: str) -> S:
        """The state after `event`; BugError naming `subject` where the table has no entry."""
        try:
            return self._allowed[state][event]
        except KeyError:
            raise BugError(f"{self.name} {subject} is {state.value}: no transition for {event!r}") from None

    def permits(self, state: S, event: str) -> bool:
        """Whether the table has an entry."""
        return event in self._allowed.get(state, {})

    def is_final(self, state: S) -> bool:
        """Whether nothing leads out of `state`."""
        return not self._allowed.get(state)

    def render_mermaid(self) -> str:
        """The table as a Mermaid state diagram."""
        lines = ["stateDiagram-v2"]
        for state, row in self._allowed.items():
            lines += [f"    {state.value} --> {target.value}: {event}" for event, target in row.items()]
        return "\n".join(lines)

"""Events and effects: how a core without I/O speaks with the world that runs it.

A core is anything with a timer, a peer or a retry. It has one entry, `handle(event, now_ns) -> list[Effect]`, and
neither clock, socket, thread, disk nor randomness of its own. Events are what happened (past tense), effects what shall
happen (imperative). The world performs the effects of one `handle` in order: an `Append` is durable before the next
effect is begun, so a message never speaks of a fact that a crash could undo. A lost result is an event too: the core
sets a timer for everything it waits for.

Cores add their own work effects (train, fetch, …) by subclassing `Effect`, and their results by subclassing `Event`.
What takes longer than a millisecond is never done in `handle`: it is a `Problem`, handed out by `Compute`, and comes
back as `Computed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from daitn.base.errors import BugError, DaitnError
from daitn.base.ids import NodeId


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened."""


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Something that shall happen."""


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="record"):
    """A fact worth keeping: what a journal holds, and what a core's state is rebuilt from."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="message"):
    """What one node says to another; concrete messages are in `wire`, one module per link."""


class Delivered(Event, frozen=True, kw_only=True):
    """A message arrived. `sender` was proven by the fabric (certificate and key prefix), never taken from the body."""

    sender: NodeId
    message: Message


class SendFailed(Event, frozen=True, kw_only=True):
    """A message could not be handed to its receiver: nobody there, or no link. It may still have arrived."""

    receiver: NodeId
    message: Message


class TimerFired(Event, frozen=True, kw_only=True):
    """The time asked for with `SetTimer` has come."""

    name: str


class PeerAppeared(Event, frozen=True, kw_only=True):
    """A node's presence was seen by the fabric."""

    node: NodeId


class PeerVanished(Event, frozen=True, kw_only=True):
    """A node's presence is gone: it died, left, or its link is cut; from here that cannot be told apart."""

    node: NodeId


class LinkBroken(Event, frozen=True, kw_only=True):
    """This node's own link to the router is lost: what is not heard from now on says nothing of others."""


class Started(Event, frozen=True, kw_only=True):
    """The world has replayed the journal into the core and runs it now; the core takes up what was in flight."""


class Send(Effect, frozen=True, kw_only=True):
    """Hand a message to a node: at most once, unordered, may be lost. Repeating is the core's business."""

    receiver: NodeId
    message: Message


class SetTimer(Effect, frozen=True, kw_only=True):
    """Fire `TimerFired(name)` at `at_ns`; replaces an earlier timer of that name."""

    name: str
    at_ns: int


class CancelTimer(Effect, frozen=True, kw_only=True):
    """Forget the timer of that name, if there is one."""

    name: str


class Append(Effect, frozen=True, kw_only=True):
    """Make records durable before anything that follows is performed."""

    records: tuple[Record, ...]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something to be worked out that takes longer than a turn may.

    All it depends on lies in its fields, frozen or copied, since it is solved beside the core, while the core goes on;
    where a copy would cost more than the work (columns of a million rows), it sees to it itself that what it read held
    together.
    """

    def solve(self) -> Solution:
        """A pure function of the fields; limits are counted in iterations, never in seconds, so that a replay finds the
        same. DaitnError where there is none."""
        raise BugError(f"{type(self).__name__} does not say how it is solved")


class Solution(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of a problem."""


class Compute(Effect, frozen=True, kw_only=True):
    """Solve a problem beside the core, and answer with `Computed`.

    Of several with one key only the newest is answered, so a core has at most one answer of each key to expect. It is
    not durable: a core that needs it asks again when it is `Started`.
    """

    key: str
    """Who asks and what for: words with a space between, as names of timers are."""
    basis: int
    """Version of what the problem was made from; comes back, so that the core can see what has changed since."""
    problem: Problem


class Computed(Event, frozen=True, kw_only=True):
    """A problem was solved; `solution` is None where it has none, and `fault` says why."""

    key: str
    basis: int
    solution: Solution | None
    fault: str = ""


def computed(effect: Compute) -> Computed:
    """Solve a problem here and now: what each world does, wherever and whenever it does it."""
    solution, fault = None, ""
    try:
        solution = effect.problem.solve()
    except BugError:
        raise
    except DaitnError as error:
        fault = str(error)
    return Computed(key=effect.key, basis=effect.basis, solution=solution, fault=fault)


class Core(Protocol):
    """A role with state: events in, effects out."""

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """Take one event; return what shall happen. Never blocks, never raises for what a peer sent."""
        ...

    def apply(self, record: Record) -> None:
        """Change the state by one fact; called by `handle` for new facts and by the world when replaying."""
        ...

    def check_invariants(self) -> None:
        """BugError if the state contradicts itself; run after each event in tests and simulation."""
        ...


def replay(core: Core, records: Sequence[Record]) -> None:
    """Rebuild `core` from its journal: O(records)."""
    for record in records:
        core.apply(record)

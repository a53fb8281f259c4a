"""The outbox of a terminal: facts that the centre must have in the end, kept until it says so.

It has no store of its own: its entries follow from the facts that the node's journal holds anyway (`VisitClosed`,
`AlarmNoted`), so a fact and its report cannot come apart in a crash, and a replay makes the same numbers again. One
message is under way at a time, repeated with growing pauses, and at once when the link is back. Alarms are told at
once; visits that are over are told together, those of a second: each message costs both ends a commit.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice
from typing import Final

from daitn.base.effects import (
    Append,
    CancelTimer,
    Delivered,
    Effect,
    Event,
    Record,
    Send,
    SetTimer,
    Started,
    TimerFired,
)
from daitn.base.errors import BugError
from daitn.base.ids import CENTER, VisitId
from daitn.base.metrics import Counters
from daitn.base.units import seconds_to_ns
from daitn.terminal.reporter import Linked
from daitn.terminal.visit_records import VisitClosed, VisitTaken
from daitn.wire.oam_records import RECORDS_MOST, Alarm, Entry, RecordsKept, RecordsReported, VisitOver

TIMER: Final = "records"

REPEAT_FIRST_S: Final = 0.5
"""First repetition of an unacknowledged message; doubles up to `REPEAT_MOST_S`."""

REPEAT_MOST_S: Final = 8.0

GATHER_S: Final = 1.0
"""How long a visit that is over waits for others to be told with; nothing waits for it at the centre."""

ALARMS_MOST: Final = 1000
"""Alarms that wait. Visits need no bound of their own: each was ordered by the centre, which is who takes them."""


class AlarmNoticed(Event, frozen=True, kw_only=True):
    """Something at this node needs its operator: `text` says what and what to do."""

    name: str
    text: str


class AlarmNoted(Record, frozen=True, kw_only=True, tag="alarm_noted"):
    """An alarm was raised."""

    name: str
    text: str
    at_ns: int


class RecordsAcknowledged(Record, frozen=True, kw_only=True, tag="records_acknowledged"):
    """The centre has all entries up to this number."""

    up_to: int


OUTBOX_RECORDS: Final = (AlarmNoted, RecordsAcknowledged)


class RecordOutbox:
    """See the module's docstring. `apply` takes every fact of the node's journal, in order."""

    def __init__(self) -> None:
        self.since_ns = 0
        """When the first entry was made: names the series."""
        self.kept = 0
        """Entries the centre has."""
        self.counters = Counters()
        self._waiting: deque[Entry] = deque()
        self._taken: OrderedDict[VisitId, VisitTaken] = OrderedDict()
        self._alarms: dict[str, str] = {}
        self._repeat_s = REPEAT_FIRST_S
        self._under_way = 0
        """Last number of the message under way; 0: none is."""
        self._gathering = False
        """Whether entries wait for others to be told with."""

    @property
    def waiting(self) -> int:
        """Entries that the centre is not known to have."""
        return len(self._waiting)

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event."""
        match event:
            case Started() | Linked() | TimerFired(name="records"):
                self._under_way = 0
                return self.speak(now_ns)
            case Delivered(sender=sender, message=RecordsKept() as kept):
                return self._acknowledged(kept, now_ns) if sender == CENTER else []
            case AlarmNoticed(name=name, text=text):
                return self._noticed(name, text, now_ns)
            case _:
                return []

    def apply(self, record: Record) -> None:
        """One fact: what concerns the centre becomes an entry."""
        match record:
            case VisitTaken(visit=visit):
                self._taken[visit] = record
            case VisitClosed(visit=visit, why=why, at_ns=at_ns):
                taken = self._taken.pop(visit, None)
                if taken is not None and why in ("acknowledged", "fenced", "cancelled", "lapsed"):
                    self._put(
                        VisitOver(
                            visit=visit,
                            job=taken.job,
                            fence=taken.fence,
                            dataset=taken.dataset,
                            taken_ns=taken.at_ns,
                            over_ns=at_ns,
                            how=why,  # type: ignore[arg-type]
                        ),
                        at_ns,
                    )
            case AlarmNoted(name=name, text=text, at_ns=at_ns):
                self._alarms[name] = text
                self._put(Alarm(name=name, text=text, raised_ns=at_ns), at_ns)
            case RecordsAcknowledged(up_to=up_to):
                for _ in range(up_to - self.kept):
                    self._waiting.popleft()
                self.kept = up_to
            case _:
                pass

    def check_invariants(self) -> None:
        """BugError if more is under way than waits."""
        if self._under_way > self.kept + len(self._waiting):
            raise BugError(f"record {self._under_way} is under way, there are {self.kept + len(self._waiting)}")

    def speak(self, now_ns: int) -> list[Effect]:
        """Send what waits, unless a message is under way."""
        if self._under_way or not self._waiting:
            return []
        self._gathering = False
        entries = tuple(islice(self._waiting, RECORDS_MOST))
        self._under_way = self.kept + len(entries)
        message = RecordsReported(since_ns=self.since_ns, first=self.kept + 1, entries=entries)
        again = SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(self._repeat_s))
        self._repeat_s = min(REPEAT_MOST_S, 2 * self._repeat_s)
        return [Send(receiver=CENTER, message=message), again]

    def gather(self, now_ns: int) -> list[Effect]:
        """Send what waits once there may be more of it, or as much as fits into a message."""
        if len(self._waiting) >= RECORDS_MOST:
            return self.speak(now_ns)
        if self._under_way or self._gathering or not self._waiting:
            return []
        self._gathering = True
        return [SetTimer(name=TIMER, at_ns=now_ns + seconds_to_ns(GATHER_S))]

    def _put(self, entry: Entry, at_ns: int) -> None:
        self.since_ns = self.since_ns or max(1, at_ns)
        self._waiting.append(entry)

    def _acknowledged(self, kept: RecordsKept, now_ns: int) -> list[Effect]:
        if kept.since_ns != self.since_ns or not self.kept < kept.up_to <= self.kept + len(self._waiting):
            return []
        full = kept.up_to - self.kept >= RECORDS_MOST
        record = RecordsAcknowledged(up_to=kept.up_to)
        self.apply(record)
        self._under_way, self._repeat_s, self._gathering = 0, REPEAT_FIRST_S, False
        more = self.speak(now_ns) if full else self.gather(now_ns)
        return [Append(records=(record,)), CancelTimer(name=TIMER), *more]

    def _noticed(self, name: str, text: str, now_ns: int) -> list[Effect]:
        """The same alarm again is no news; beyond the bound, alarms are counted and dropped."""
        if self._alarms.get(name) == text:
            return []
        if len(self._waiting) >= ALARMS_MOST:
            self.counters.count("alarms_dropped")
            return []
        record = AlarmNoted(name=name[:64], text=text[:2048], at_ns=now_ns)
        self.apply(record)
        return [Append(records=(record,)), *self.speak(now_ns)]

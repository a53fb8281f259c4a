"""The visit keeper: takes orders, keeps leases, reports, and lets go; the core under every role of a terminal.

Paper II-A, terminal layer; design: leases on the site's own clock, results repeated until acknowledged, fenced.

    order ──judge──▶ fetching ──▶ waiting ──▶ working ──▶ done ──acknowledged──▶ closed
                        └────────────┴─────────┴── lease lapsed, cancelled, fenced ──▶ closed

An order is taken only as a segment of the signed route that it comes with (`route_guard`).
A visit is taken durably before anything is fetched, so that after a crash the site can say at once that the work was
lost instead of letting the centre wait for the lease. A result is durable before it is reported, and kept until the
centre says that it has it (`ResultAccepted`) or does not want it (`ResultFenced`). Nothing here trusts the centre's
clock: leases count from when their message arrived.

What it does not do: choose, or know of any other terminal.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from daitn.base.effects import (
    Append,
    CancelTimer,
    Delivered,
    Effect,
    Event,
    Message,
    Record,
    Send,
    SetTimer,
    Started,
    TimerFired,
)
from daitn.base.errors import BugError
from daitn.base.ids import CENTER, VisitId
from daitn.base.metrics import BLAMES, Counters
from daitn.base.units import seconds_to_ns
from daitn.descriptors.work import (
    AggregateOutcome,
    EvaluateOutcome,
    EvaluateWork,
    Outcome,
    TrainOutcome,
)
from daitn.terminal.kept_visits import TABLE as TABLE
from daitn.terminal.kept_visits import KeptVisit, SlotTimes
from daitn.terminal.kept_visits import State as State
from daitn.terminal.roles import Roles, refused_by
from daitn.terminal.route_guard import CheckOrder, RouteGuard
from daitn.terminal.visit_records import EvaluationCounted, VisitClosed, VisitEnded, VisitTaken, taken_by
from daitn.terminal.work import (
    AbandonVisit,
    BeginWork,
    DropArtifacts,
    FetchInputs,
    InputsArrived,
    InputsFailed,
    PoliciesChanged,
    WarmChild,
    WorkFailed,
    WorkFinished,
    WorkProgressed,
)
from daitn.wire.center_tools import (
    LeaseRenewed,
    ReleaseArtifacts,
    ResultAccepted,
    ResultFenced,
    VisitCancel,
    VisitFailed,
    VisitOrder,
    VisitPhase,
    VisitPrepare,
    VisitProgress,
    VisitRefused,
    VisitReport,
    VisitResult,
    encode_report,
)

CLOSED_REMEMBERED: Final = 4096
"""Closed visits whose ids are remembered, so that a late duplicate of an order does not start them again."""

OPEN_VISITS: Final = 1024
"""Visits open at one node at a time; a further order is refused as busy. Far above any number of slots."""

REPORT_MOST_S: Final = 4.0


class KeeperConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a terminal keeps its visits."""

    slots: int = 1
    """Visits that work at the same time; more wait their turn."""
    progress_s: float = 1.0
    """Between two progress messages; must be well below any lease."""


class VisitKeeper:
    """See the module's docstring. `sign` makes the Ed25519 signature (hex) of a report's bytes; `check`: an order's
    route."""

    def __init__(self, config: KeeperConfig, roles: Roles, sign: Callable[[bytes], str], check: CheckOrder) -> None:
        self.config = config
        self.roles = roles
        self.counters = Counters()
        self._sign = sign
        self._guard = RouteGuard(check, self.counters)
        self._open: OrderedDict[VisitId, KeptVisit] = OrderedDict()
        self._closed: OrderedDict[VisitId, None] = OrderedDict()
        self._times = SlotTimes(config.slots)

    # --- the world's view -------------------------------------------------------------------------------------------

    def busy_slots(self) -> int:
        """Visits that work now."""
        return sum(visit.state is State.WORKING for visit in self._open.values())

    def wait_s(self, now_ns: int) -> float:
        """Seconds that a visit ordered now would wait for a slot."""
        return self._times.wait_s(self._open.values(), now_ns)

    def snapshot(self) -> tuple[tuple[VisitId, State], ...]:
        """Open visits and their states, oldest first."""
        return tuple((name, visit.state) for name, visit in self._open.items())

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """One event; unknown ones are nobody's here and ignored by name, never by accident (see `assembly`)."""
        match event:
            case Started():
                return self._started(now_ns)
            case Delivered(sender=sender, message=message):
                if sender != CENTER:
                    return self._count("messages_not_from_center")
                return self._delivered(message, now_ns)
            case TimerFired(name=name):
                return self._timer(name, now_ns)
            case InputsArrived():
                return self._arrived(event, now_ns)
            case InputsFailed() | WorkFailed():
                return self._failed(event, now_ns)
            case WorkProgressed(visit=name, done=done, of=of, loss=loss):
                visit = self._open.get(name)
                if visit is not None and visit.state is State.WORKING:
                    visit.done, visit.of, visit.loss = done, of, loss
                return []
            case WorkFinished(visit=name, outcome=outcome):
                return self._finished(name, outcome, now_ns)
            case PoliciesChanged(policies=policies):
                if self.roles.data is not None:
                    self.roles.data.policies = dict(policies)
                return self._recheck(now_ns)
            case _:
                return []

    def apply(self, record: Record) -> None:
        """One fact: see the records above."""
        match record:
            case VisitTaken(visit=name, job=job, fence=fence, route=version):
                self._note_use(record)
                self._guard.note(job, version)
                self._open.setdefault(name, KeptVisit(job, fence, None))
            case VisitEnded(visit=name, owed=owed):
                visit = self._open[name]
                visit.owed, visit.state = owed, State.DONE
            case VisitClosed(visit=name):
                self._open.pop(name, None)
                self._closed[name] = None
                while len(self._closed) > CLOSED_REMEMBERED:
                    self._closed.popitem(last=False)
            case EvaluationCounted(job=job):
                if self.roles.verification is not None:
                    self.roles.verification.count(job)
            case _:
                pass

    def check_invariants(self) -> None:
        """BugError unless slots, states and debts agree."""
        if self.busy_slots() > self.config.slots:
            raise BugError(f"{self.busy_slots()} visits work in {self.config.slots} slots")
        for name, visit in self._open.items():
            if (visit.state is State.DONE) != (visit.owed is not None):
                raise BugError(f"visit {name} is {visit.state} and owes {visit.owed}")
            if name in self._closed:
                raise BugError(f"visit {name} is open and closed")

    # --- messages ---------------------------------------------------------------------------------------------------

    def _delivered(self, message: Message, now_ns: int) -> list[Effect]:
        match message:
            case VisitOrder():
                return self._ordered(message, now_ns)
            case LeaseRenewed(visit=name, fence=fence, lease_s=lease_s):
                visit = self._open.get(name)
                if visit is None or visit.fence != fence or visit.state is State.DONE:
                    return []
                return [self._lease(name, lease_s, now_ns)]
            case ResultAccepted(visit=name, fence=fence):
                return self._acknowledged(name, fence, now_ns)
            case ResultFenced(visit=name, fence=fence):
                return self._drop(name, fence, "fenced", now_ns)
            case VisitCancel(visit=name, fence=fence):
                return self._drop(name, fence, "cancelled", now_ns)
            case VisitPrepare():
                return self._prepare(message)
            case ReleaseArtifacts(job=job, artifacts=artifacts, job_ended=ended):
                return [DropArtifacts(job=job, artifacts=artifacts, job_ended=ended)]
            case _:
                return self._count("messages_for_another_role")

    def _ordered(self, order: VisitOrder, now_ns: int) -> list[Effect]:
        known = self._open.get(order.visit)
        if known is not None:
            if known.owed is not None:
                return [Send(receiver=CENTER, message=known.owed)]
            return [self._lease(order.visit, order.lease_s, now_ns), self._progress(order.visit, known)]
        if order.visit in self._closed:
            self._count("orders_after_close")
            reason = "this visit was closed here earlier (its lease lapsed, or it was cancelled)"
            failed = VisitFailed(visit=order.visit, fence=order.fence, reason=reason, blame="unavailable")
            return [Send(receiver=CENTER, message=failed)]
        version = self._guard.judge(order)
        if isinstance(version, VisitRefused):
            return [Send(receiver=CENTER, message=version)]
        faults = self.roles.judge(order, now_ns)
        if faults or len(self._open) >= OPEN_VISITS:
            self._count("visits_refused", refused_by(faults))
            reason = "" if faults else f"{OPEN_VISITS} visits are open here"
            refusal = VisitRefused(visit=order.visit, fence=order.fence, faults=faults, reason=reason)
            return [Send(receiver=CENTER, message=refusal)]
        taken = taken_by(order, version, now_ns)
        self._note_use(taken)
        self._guard.note(order.job, version)
        visit = KeptVisit(order.job, order.fence, order)
        self._open[order.visit] = visit
        return [
            Append(records=(taken,)),
            FetchInputs(order=order),
            self._lease(order.visit, order.lease_s, now_ns),
            self._progress(order.visit, visit),
            self._next_progress(order.visit, now_ns),
        ]

    def _prepare(self, prepare: VisitPrepare) -> list[Effect]:
        """Only for what would be allowed: a child warmed on data is a use of it."""
        return [WarmChild(prepare=prepare)] if self.roles.allow(prepare) else self._count("prepares_refused")

    def _acknowledged(self, name: VisitId, fence: int, now_ns: int) -> list[Effect]:
        visit = self._open.get(name)
        if visit is None or visit.fence != fence or visit.state is not State.DONE:
            return []
        return self._close(name, "acknowledged", now_ns)

    def _drop(self, name: VisitId, fence: int, why: str, now_ns: int) -> list[Effect]:
        """The centre does not want this visit (any more)."""
        visit = self._open.get(name)
        if visit is None or visit.fence != fence:
            return []
        abandoned = AbandonVisit(visit=name)
        return [*self._close(name, why, now_ns), abandoned, *self._fill_slots(now_ns)]

    # --- time -------------------------------------------------------------------------------------------------------

    def _timer(self, timer: str, now_ns: int) -> list[Effect]:
        kind, _, rest = timer.partition(" ")
        name = VisitId(rest)
        visit = self._open.get(name)
        if visit is None:
            return []
        if kind == "lease" and visit.state is not State.DONE:
            self._count("leases_lapsed")
            return self._drop(name, visit.fence, "lapsed", now_ns)
        if kind == "progress" and visit.state is not State.DONE:
            return [self._progress(name, visit), self._next_progress(name, now_ns)]
        if kind == "report" and visit.owed is not None:
            return self._report(name, visit, now_ns)
        return []

    def _lease(self, name: VisitId, lease_s: float, now_ns: int) -> Effect:
        return SetTimer(name=f"lease {name}", at_ns=now_ns + seconds_to_ns(lease_s))

    def _next_progress(self, name: VisitId, now_ns: int) -> Effect:
        return SetTimer(name=f"progress {name}", at_ns=now_ns + seconds_to_ns(self.config.progress_s))

    def _progress(self, name: VisitId, visit: KeptVisit) -> Effect:
        progress = VisitProgress(
            visit=name,
            fence=visit.fence,
            phase=VisitPhase(visit.state.value),
            done=visit.done,
            of=visit.of,
            loss=visit.loss,
        )
        return Send(receiver=CENTER, message=progress)

    def _report(self, name: VisitId, visit: KeptVisit, now_ns: int) -> list[Effect]:
        assert visit.owed is not None
        again = SetTimer(name=f"report {name}", at_ns=now_ns + seconds_to_ns(visit.repeat_s))
        visit.repeat_s = min(visit.repeat_s * 2, REPORT_MOST_S)
        return [Send(receiver=CENTER, message=visit.owed), again]

    # --- work -------------------------------------------------------------------------------------------------------

    def _started(self, now_ns: int) -> list[Effect]:
        """After a restart: what was in work is lost and said so; what was owed is reported again."""
        effects: list[Effect] = []
        for name, visit in list(self._open.items()):
            if visit.owed is None:
                what = "the node restarted while it worked on this visit"
                effects += self._failed(WorkFailed(visit=name, what=what, blame="unavailable"), now_ns)
            else:
                effects += self._report(name, visit, now_ns)
        return effects

    def _arrived(self, event: InputsArrived, now_ns: int) -> list[Effect]:
        visit = self._open.get(event.visit)
        if visit is None or visit.state is not State.FETCHING:
            return []
        visit.state = TABLE.next(visit.state, "arrived", event.visit)
        visit.fetched_bytes, visit.fetch_s = event.fetched_bytes, event.seconds
        return self._fill_slots(now_ns)

    def _fill_slots(self, now_ns: int) -> list[Effect]:
        """Begin waiting visits, oldest first, while slots are free."""
        effects: list[Effect] = []
        free = self.config.slots - self.busy_slots()
        for name, visit in self._open.items():
            if free <= 0:
                break
            if visit.state is State.WAITING and visit.order is not None:
                visit.state, visit.begun_ns = TABLE.next(visit.state, "begun", name), now_ns
                effects.append(BeginWork(order=visit.order))
                free -= 1
        return effects

    def _finished(self, name: VisitId, outcome: Outcome, now_ns: int) -> list[Effect]:
        visit = self._open.get(name)
        if visit is None or visit.state is not State.WORKING or visit.order is None:
            return [AbandonVisit(visit=name)]
        self._times.finished(visit, now_ns)
        records: list[Record] = []
        if isinstance(visit.order.work, EvaluateWork):
            records.append(EvaluationCounted(job=visit.job))
            if isinstance(outcome, EvaluateOutcome) and self.roles.verification is not None:
                left = max(0, self.roles.verification.left(visit.job) - 1)
                outcome = msgspec.structs.replace(outcome, evaluations_left=left)
        if isinstance(outcome, TrainOutcome):
            outcome = msgspec.structs.replace(outcome, fetch_s=visit.fetch_s)
        if isinstance(outcome, TrainOutcome | EvaluateOutcome | AggregateOutcome):
            outcome = msgspec.structs.replace(outcome, fetched_bytes=visit.fetched_bytes)
        report = VisitReport(visit=name, fence=visit.fence, work=visit.order.work, outcome=outcome)
        owed = VisitResult(report=report, signature=self._sign(encode_report(report)))
        return self._end(name, visit, owed, records, now_ns)

    def _failed(self, failed: InputsFailed | WorkFailed, now_ns: int) -> list[Effect]:
        name, blame = failed.visit, failed.blame
        visit = self._open.get(name)
        if visit is None or visit.owed is not None:
            return []
        self._count("visits_failed", blame if blame in BLAMES else "bug")
        owed = VisitFailed(visit=name, fence=visit.fence, reason=failed.what[:4096], blame=blame, unfit=failed.unfit)
        if isinstance(failed, InputsFailed):
            owed = msgspec.structs.replace(owed, lacking=failed.lacking)
        else:
            owed = msgspec.structs.replace(owed, partner=failed.partner)
        return [*self._end(name, visit, owed, [], now_ns), AbandonVisit(visit=name)]

    def _end(
        self, name: VisitId, visit: KeptVisit, owed: VisitResult | VisitFailed, records: list[Record], now_ns: int
    ) -> list[Effect]:
        records = [*records, VisitEnded(visit=name, owed=owed)]
        for record in records:
            self.apply(record)
        timers: list[Effect] = [CancelTimer(name=f"lease {name}"), CancelTimer(name=f"progress {name}")]
        return [
            Append(records=tuple(records)),
            *self._report(name, visit, now_ns),
            *timers,
            *self._fill_slots(now_ns),
        ]

    def _close(self, name: VisitId, why: str, now_ns: int) -> list[Effect]:
        record = VisitClosed(visit=name, why=why, at_ns=now_ns)
        self.apply(record)
        timers: list[Effect] = [CancelTimer(name=f"{kind} {name}") for kind in ("lease", "progress", "report")]
        return [Append(records=(record,)), *timers]

    def _recheck(self, now_ns: int) -> list[Effect]:
        """A policy changed: visits it no longer allows end at once."""
        effects: list[Effect] = []
        for name, visit in list(self._open.items()):
            if visit.order is None or visit.owed is not None:
                continue
            faults = self.roles.judge(visit.order)
            if faults:
                what = f"the data owner withdrew consent: {', '.join(fault.rule for fault in faults)}"
                effects += self._failed(WorkFailed(visit=name, what=what, blame="policy"), now_ns)
        return effects

    def _note_use(self, taken: VisitTaken) -> None:
        if self.roles.data is not None and taken.dataset is not None:
            self.roles.data.note_visit(taken.dataset, taken.at_ns)

    def _count(self, name: str, value: str = "") -> list[Effect]:
        self.counters.count(name, value)
        return []

"""Releases of statistics: drawn when due, charged before they are measured, kept, and served again until the next.

    releases/<key>.json noisy integers, drawn once
    ledger.jsonl        privacy budget spent, one record a line, appended and made durable before anything is measured,
                        visits of private training too

A release is due `period_days / releases_per_period` after the last one of the same kind, and only if the data (or what
a frozen base made of it) has changed since; until then the last one is served, whatever was appended. One of another
kind (another contract, other descriptions asked for by the policy) is drawn at once where the budget allows. The budget
holds in every window of one period, whatever the schedule.

A crash between charge and release costs budget and reveals nothing: what was drawn had not left, and is drawn, and
charged, anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError, PolicyError
from daitn.base.ids import JobId, VisitId
from daitn.base.units import NS_PER_S, show_seconds
from daitn.describe import statistics
from daitn.describe.accountant import Mechanism
from daitn.describe.column_map import ColumnMap
from daitn.describe.family.contract import VectorsOf
from daitn.describe.ledger import BudgetRefusal, EpsilonSpent, PrivacyLedger, TrainedWith
from daitn.describe.mechanisms import Noise, load_opendp
from daitn.describe.record_age import newest_day
from daitn.describe.report import FitReport
from daitn.describe.statistics import Release
from daitn.describe.table import MappedTable, sync
from daitn.descriptors.contract import DataContract
from daitn.descriptors.policy import Policy
from daitn.descriptors.privacy import PrivateSteps

_DAY_NS: Final = 86_400 * NS_PER_S
_ROUNDING: Final = 1e-9


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """What a source looked like when it was added. `listing` covers names, sizes and times; `content` the bytes."""

    files: int
    size_bytes: int
    listing: str
    content: str


class ShelfEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One data set on the shelf."""

    name: str
    path: str
    contract: DataContract
    policy: Policy
    column_map: ColumnMap
    version: str
    source: SourceState
    report: FitReport
    added_ns: int


class _Dated(msgspec.Struct, frozen=True, kw_only=True):
    """A release and when it was charged."""

    release: Release
    at_ns: int


class ReleaseBook:
    """Releases and ledger of one shelf; see the module. Two processes may use it: changes hold a lock."""

    def __init__(self, folder: Path, clock: Callable[[], int], noise: Noise | None) -> None:
        self._folder, self._clock, self._noise = folder, clock, noise
        (folder / "releases").mkdir(parents=True, exist_ok=True, mode=0o700)

    def release(self, entry: ShelfEntry, table: MappedTable, vectors: VectorsOf) -> Release:
        """The statistics to publish now: the last ones, or new ones where they are due.

        PolicyError where the budget of the period is spent and no earlier statistics can stand in.
        """
        with locked(self._folder, "ledger"):
            key = statistics.release_key(table, entry.contract, entry.policy, vectors)
            last = self._last(entry)
            if last is not None and not _stale(entry, last, vectors):
                return last.release
            now_ns = self._clock()
            if last is not None and now_ns < _due_ns(entry, last):
                return last.release
            return self._kept(key) or self._draw(entry, table, vectors, key, now_ns, last)

    def renewal_ns(self, entry: ShelfEntry, vectors: VectorsOf) -> int | None:
        """When what is published of a data set may be drawn anew, wall time; None where it speaks of the data as it
        is, or nothing was published."""
        last = self._last(entry)
        if last is None or not _stale(entry, last, vectors):
            return None
        return _due_ns(entry, last)

    def charge(self, entry: ShelfEntry, job: JobId, visit: VisitId, private: PrivateSteps, steps: int) -> float:
        """Book a visit of private training before it begins; what its job then cost this data set, ε at its delta.

        PolicyError where the job would cost more than it may, or training more than the policy allows in a period.
        """
        policy, dataset = entry.policy, entry.name
        mechanism = Mechanism(
            sampling_rate=private.sampling_rate, noise_multiplier=private.noise_multiplier, steps=steps
        )
        trained = TrainedWith(job=job, mechanism=mechanism, delta=private.delta)
        allowed = private.epsilon if policy.epsilon_per_job is None else min(private.epsilon, policy.epsilon_per_job)
        with locked(self._folder, "ledger"):
            ledger = self.ledger()
            total = ledger.spent_by_job(dataset, job, private.delta, mechanism)
            if total > allowed * (1 + _ROUNDING):
                raise PolicyError(
                    f"epsilon_per_job: with this visit the job costs data set {dataset!r} ε = {total:.4g}, "
                    f"it may cost {allowed:g}",
                    todo="train elsewhere, with more noise, or with fewer steps",
                    ids={"dataset": dataset},
                )
            now_ns = self._clock()
            bound = policy.training_epsilon_per_period
            answer = ledger.spend_on_training(
                dataset,
                trained,
                now_ns,
                visit=visit,
                budget=math.inf if bound is None else bound,
                period_ns=policy.period_days * _DAY_NS,
            )
            if isinstance(answer, BudgetRefusal):
                when = "never"
                if answer.retry_at_ns is not None:
                    when = f"in {show_seconds((answer.retry_at_ns - now_ns) / NS_PER_S)}"
                raise PolicyError(
                    f"training_epsilon_per_period: a visit to data set {dataset!r} costs ε = {answer.required:.4g}, "
                    f"this period has {answer.available:.4g} left",
                    todo=f"enough is left again {when}",
                    ids={"dataset": dataset},
                )
            self._append(answer)
        return total

    def ledger(self) -> PrivacyLedger:
        """The privacy ledger as it stands; a copy."""
        ledger = PrivacyLedger()
        with contextlib.suppress(FileNotFoundError):
            lines = (self._folder / "ledger.jsonl").read_bytes().split(b"\n")
            # A last line without an end was never made durable: nothing was measured on its account.
            for number, line in enumerate(lines[:-1], 1):
                try:
                    ledger.apply(msgspec.json.decode(line, type=EpsilonSpent))
                except UNDECODABLE as error:
                    raise InputError(
                        f"the privacy ledger is damaged in line {number}: {error}",
                        todo=f"restore {self._folder / 'ledger.jsonl'}: without it nobody knows what was spent",
                    ) from None
        return ledger

    def _draw(
        self, entry: ShelfEntry, table: MappedTable, vectors: VectorsOf, key: str, now_ns: int, last: _Dated | None
    ) -> Release:
        """Charge, make that durable, measure, keep."""
        if self._noise is None:
            load_opendp()
        counts = statistics.count_records(table, entry.contract, entry.policy)
        source = statistics.measurable(table, entry.contract, entry.policy, vectors)
        answer = self.ledger().spend(
            entry.name,
            statistics.release_epsilon(entry.policy),
            now_ns,
            release=key,
            budget=entry.policy.epsilon_per_period,
            period_ns=entry.policy.period_days * _DAY_NS,
        )
        if isinstance(answer, BudgetRefusal):
            return self._stand_in(entry, counts, answer, now_ns, last)
        self._append(answer)
        release = statistics.draw_release(
            key,
            counts,
            entry.contract,
            entry.policy,
            answer.epsilon,
            self._noise,
            source=source,
            bases=vectors,
            shares_of_faults=statistics.quality(entry.report, entry.policy),
            newest_day=newest_day(table, entry.contract, entry.policy),
        )
        write_whole(self._path(key), msgspec.json.encode(release))
        return release

    def _stand_in(
        self,
        entry: ShelfEntry,
        counts: statistics.Counts,
        refusal: BudgetRefusal,
        now_ns: int,
        last: _Dated | None,
    ) -> Release:
        """The newest release of this data set that counts the same things; using it again reveals nothing new."""
        if last is not None:
            return last.release
        for record in reversed(self.ledger().records()):
            release = self._kept_by(record, entry)
            if release and list(release.labels) == list(counts.labels) and list(release.fields) == list(counts.fields):
                return release
        wait = show_seconds(((refusal.retry_at_ns or now_ns) - now_ns) / NS_PER_S)
        raise PolicyError(
            f"statistics of {entry.name!r} cost ε = {refusal.required:g}, this period has {refusal.available:g} left",
            todo=f"try again in {wait}, or raise epsilon_per_period in its policy",
            ids={"dataset": entry.name},
        )

    def _last(self, entry: ShelfEntry) -> _Dated | None:
        """The newest release of the kind that the entry asks for."""
        kind = statistics.release_kind(entry.contract, entry.policy)
        for record in reversed(self.ledger().records()):
            release = self._kept_by(record, entry)
            if release is not None and release.kind == kind:
                return _Dated(release=release, at_ns=record.at_ns)
        return None

    def _kept_by(self, record: EpsilonSpent, entry: ShelfEntry) -> Release | None:
        """The statistics that a charge was for, where it was for this data set's."""
        of_entry = record.dataset == entry.name and record.training is None
        return self._kept(record.release) if of_entry else None

    def _kept(self, key: str) -> Release | None:
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=Release)
        except FileNotFoundError:
            return None
        except UNDECODABLE as error:
            raise InputError(
                f"the published statistics {key[:16]} are damaged: {error}",
                todo=f"restore {self._path(key)}, or remove it: they are then drawn, and paid for, again",
            ) from None

    def _path(self, key: str) -> Path:
        return self._folder / "releases" / f"{key}.json"

    def _append(self, record: EpsilonSpent) -> None:
        path = self._folder / "ledger.jsonl"
        known = path.read_bytes() if path.exists() else b""
        whole = known[: known.rfind(b"\n") + 1]
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(len(whole))
            file.seek(len(whole))
            file.write(msgspec.json.encode(record) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync(self._folder)


def _stale(entry: ShelfEntry, last: _Dated, vectors: VectorsOf) -> bool:
    """Whether a new release would say something that the last one could not."""
    return last.release.version != entry.version or not set(vectors) <= set(last.release.bases)


def _due_ns(entry: ShelfEntry, last: _Dated) -> int:
    return last.at_ns + int(statistics.release_interval_days(entry.policy) * _DAY_NS)


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a lock of the shelf, against other processes too."""
    with (folder / f"{what}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_whole(path: Path, data: bytes) -> None:
    """Write beside and rename: a reader sees the old bytes or the new, also after a crash."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with beside.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    sync(path.parent)

"""The reporting rule: which facts are worth telling now, within the bytes a site may take.

Paper V-A: building the topology must not overburden the network, and stay in step with the terminals. A group of facts
is told when one of them moved by more than its threshold since it was last told, or when the telling is older than its
greatest age. What has moved is told alone; all facts of the group are told for their age. One site tells for all its
terminals. Thresholds and ages come from the map's orchestrator (`Tuning`); what the site may take in bytes is kept
here, by a token bucket, whatever the thresholds let through: what does not fit waits, the most urgent first, and what
has moved back meanwhile is not told at all. Where bytes are few, facts of the kinds that decisions depend on
are told at intervals, of all things together, where they have changed at all (`describe.sweeping`).

Yes-or-no facts that fall too often are told as *no* until they have been steady (`describe.damping`): nobody should
plan with them, and nobody should hear of each fall.

No clock, no I/O: readings in, what to tell out. Legend: T things × groups. Cost: O(facts of the group) for a reading,
O(due · log T) for a telling.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from daitn.base.errors import BugError, InputError
from daitn.base.units import ns_to_seconds, seconds_to_ns
from daitn.describe.damping import DampingConfig, FlapDamper
from daitn.describe.sweeping import Sweeps
from daitn.descriptors.fact_kinds import Form
from daitn.descriptors.facts import group_named
from daitn.descriptors.reporting import EVERY, GroupTuning, Reading, Tuning, amount_of
from daitn.wire.packed_facts import HEADER, PART_HEADER, part_dtype, parts_most, record_dtype, records_most

THINGS_MOST: Final = 65_536
"""Groups of things that one site keeps readings of: a thousand terminals of sixty groups. Beyond it readings of further
things are refused, and counted by the caller."""

UNTUNED_FRAC: Final = 0.05
"""Without a tuning, a change of this part of what was told is told."""

FAR_S: Final = 1e6
"""Longest wait for bytes that is worked out."""

UNTUNED_AGES: Final = 3.0
"""Without a tuning, a group is told this often before it would count as old."""


class GroupShape:
    """What a rule has to know of a group: its number, the names of its facts in order, which of them are yes-or-no,
    bytes of a record, and the age from which on it counts as old. `part_bytes`: of a record of some facts, as bits by
    place; None: they are told together only."""

    __slots__ = ("age_most_s", "facts", "flags", "number", "part_bytes", "record_bytes")

    def __init__(
        self,
        number: int,
        facts: tuple[str, ...],
        flags: frozenset[int],
        record_bytes: int,
        age_most_s: float,
        part_bytes: Callable[[int], int] | None = None,
    ) -> None:
        self.number = number
        self.facts = facts
        self.flags = flags
        self.record_bytes = record_bytes
        self.age_most_s = age_most_s
        self.part_bytes = part_bytes

    def bytes_of(self, part: int) -> int:
        """Bytes of a record of these facts; 0: of all."""
        return self.part_bytes(part) if part and self.part_bytes is not None else self.record_bytes


def registered_shape(group: str) -> GroupShape:
    """The shape of a group of the registry, as its reports are packed; InputError for a group that is not in it."""
    known = group_named(group)
    flags = frozenset(place for place, fact in enumerate(known.facts) if fact.form is Form.FLAG)
    names = tuple(fact.name for fact in known.facts)

    def part_bytes(part: int) -> int:
        return part_dtype(known, part).itemsize

    return GroupShape(known.number, names, flags, record_dtype(known).itemsize, known.age_most_s, part_bytes)


def report_bytes(readings: Iterable[Reading]) -> int:
    """Bytes of the messages that tell these readings of registered groups, as many of one group and the same facts as
    there are in each: O(readings)."""
    messages: Counter[tuple[str, int]] = Counter((one.group, one.part) for one in readings)
    total = 0
    for (name, part), count in messages.items():
        group = group_named(name)
        size = (part_dtype(group, part) if part else record_dtype(group)).itemsize
        most = parts_most(group, part) if part else records_most(group)
        total += count * size + -(-count // most) * (PART_HEADER if part else HEADER).itemsize
    return total


class _Told:
    """One group of one thing: the newest reading, what was last told of it, and how it flaps."""

    __slots__ = (
        *(
            "age_ns",
            "dampers",
            "moves",
            "newest",
            "said_ns",
            "shape",
            "shown",
            "stamp",
            "sweeping",
            "told",
            "told_ns",
            "varied",
            "wake_ns",
        ),
    )

    def __init__(self, shape: GroupShape, newest: Reading) -> None:
        self.shape = shape
        self.newest = newest
        self.shown = newest.values
        self.told: tuple[float, ...] | None = None
        self.told_ns = 0
        """When all of it was told last."""
        self.said_ns = 0
        """When anything of it was told last."""
        self.moves: tuple[float, ...] = ()
        self.age_ns = 0
        self.stamp = 0
        self.sweeping = False
        """Whether it is to be told with the sweep that is being collected."""
        self.varied = 0
        """Facts that were not the same whenever they were told, as bits by place."""
        self.wake_ns = 0
        self.dampers: dict[int, FlapDamper] = {}


class ReportingRule:
    """See the module's docstring. `shape_of` gives a group's shape (InputError for none); `overhead_bytes`: what a
    message takes besides its records."""

    def __init__(
        self,
        shape_of: Callable[[str], GroupShape],
        overhead_bytes: int,
        tuning: Tuning,
        damping: DampingConfig | None = None,
    ) -> None:
        self.tuning = tuning
        self._shape_of = shape_of
        self._overhead_bytes = overhead_bytes
        self._damping = damping or DampingConfig()
        self._by_key: dict[tuple[str, int], GroupTuning] = {}
        self._told: dict[tuple[str, str], _Told] = {}
        self._due: dict[tuple[str, str], None] = {}
        """What moved and was not told yet, oldest first."""
        self._heap: list[tuple[int, tuple[str, str], int]] = []
        """When a group comes of age, or is released from damping: (moment, key, stamp); a stale stamp is skipped."""
        self._tokens = float(tuning.burst_bytes)
        self._filled_ns: int | None = None
        self._sweeps = Sweeps()
        self._index()

    # --- what is to be told -----------------------------------------------------------------------------------------

    def tune(self, tuning: Tuning, now_ns: int) -> bool:
        """Another tuning; False where it is not newer than the one in force. What was saved up stays, up to its
        burst. O(T)."""
        if tuning.number <= self.tuning.number:
            return False
        self._fill(now_ns)
        self.tuning = tuning
        self._tokens = min(self._tokens, float(tuning.burst_bytes))
        self._index()
        for key, told in self._told.items():
            self._set(key, told)
            self._judge(key, told, now_ns)
        self._sweeps.tune(tuning, now_ns)
        self._sweeps.bytes = self._sweep_bytes()
        return True

    def take(self, reading: Reading, now_ns: int) -> bool:
        """A reading. False where nothing is known of its group, its values are not its facts', it is older than the one
        held, or the site reads of too many things."""
        key = (reading.thing, reading.group)
        told = self._told.get(key)
        if told is None:
            try:
                shape = self._shape_of(reading.group)
            except InputError:
                return False
            if len(self._told) >= THINGS_MOST:
                return False
            told = _Told(shape, reading)
            if len(reading.values) != len(shape.facts):
                return False
            self._told[key] = told
            self._set(key, told)
        elif len(reading.values) != len(told.shape.facts) or reading.measured_ns < told.newest.measured_ns:
            return False
        before, told.newest = told.newest.values, reading
        for fact in told.shape.flags:
            if before[fact] == 1.0 and reading.values[fact] == 0.0:
                told.dampers.setdefault(fact, FlapDamper(self._damping)).fell(now_ns)
        self._judge(key, told, now_ns)
        return True

    def forget(self, thing: str) -> None:
        """A thing is no more: nothing of it is told."""
        for key in [key for key in self._told if key[0] == thing]:
            del self._told[key]
            self._due.pop(key, None)

    def forget_all(self) -> None:
        """Begin anew, with the same tuning and what was saved up of its bytes."""
        self._told.clear()
        self._due.clear()
        self._heap.clear()

    def charge(self, more_bytes: int) -> None:
        """What was told took so many bytes more than it was taken for."""
        self._tokens -= more_bytes

    @property
    def owes(self) -> bool:
        """Whether something that was read has never been told since the last `repeat_all`."""
        return any(self._told[key].told is None for key in self._due)

    def repeat_all(self, now_ns: int) -> None:
        """The map may hold nothing of this site (restart, new link): everything is due. O(T)."""
        for key, told in self._told.items():
            told.told = None
            self._judge(key, told, now_ns)

    def collect(self, now_ns: int, records_most: int) -> tuple[Reading, ...]:
        """What to tell now in one message, as many as the bytes allow; it counts as told. Empty where nothing is due,
        or nothing affordable. O(T) when it is time to sweep."""
        self._come_of_age(now_ns)
        swept = self._sweep(now_ns)
        if not self._due:
            return ()
        self._fill(now_ns)
        left = self._tokens
        order: Iterable[tuple[str, str]] = self._due
        if sum(self._told[key].shape.record_bytes for key in self._due) > left:
            order = heapq.nsmallest(len(self._due), self._due, key=lambda key: self._wait_order(key, now_ns))
        chosen: list[Reading] = []
        messages: set[tuple[int, int]] = set()
        for key in list(order):
            told = self._told[key]
            part = self._part_of(told, now_ns)
            message = (told.shape.number, part)
            size = told.shape.bytes_of(part) + (0 if message in messages else self._header_bytes(part))
            if size > left - self._kept_from(told, now_ns) or len(chosen) >= records_most:
                break
            left -= size
            messages.add(message)
            chosen.append(self._tell(key, told, part, now_ns))
        if chosen:
            self._tokens = left
        for key in swept:
            if (told := self._told[key]).sweeping:  # the bytes did not reach: it comes first in the next sweep
                told.sweeping = False
                self._judge(key, told, now_ns)
        return tuple(chosen)

    def next_ns(self, now_ns: int) -> int | None:
        """When to collect next if nothing is read meanwhile; None: there is nothing to tell ever."""
        if self._due:
            self._fill(now_ns)
            first = self._told[min(self._due, key=lambda key: self._wait_order(key, now_ns))]
            part = self._part_of(first, now_ns)
            size = first.shape.bytes_of(part) + self._header_bytes(part) + self._kept_from(first, now_ns)
            rate = self.tuning.bytes_per_s - (0.0 if first.told is None else self._sweeps.rate(self.tuning))
            moments = [now_ns + max(1, seconds_to_ns(min(FAR_S, max(0.0, size - self._tokens) / rate)))]
        else:
            while self._heap and self._stale(self._heap[0]):
                heapq.heappop(self._heap)
            moments = [self._heap[0][0]] if self._heap else []
        if self._told and (sweeps_ns := self._sweeps.next_ns) is not None:
            moments.append(sweeps_ns)
        return max(now_ns, min(moments)) if moments else None

    def check_invariants(self) -> None:
        """BugError if more is saved up than may be, or something is due that is not held."""
        if self._tokens > self.tuning.burst_bytes:
            raise BugError(f"{self._tokens:.0f} bytes are saved up, the burst is {self.tuning.burst_bytes}")
        if astray := [key for key in self._due if key not in self._told]:
            raise BugError(f"readings are due that nobody made: {astray[:3]}")

    # --- inside -----------------------------------------------------------------------------------------------------

    def _header_bytes(self, part: int) -> int:
        return self._overhead_bytes + (PART_HEADER.itemsize - HEADER.itemsize if part else 0)

    def _part_of(self, told: _Told, now_ns: int) -> int:
        """Which facts are to be told now: those that moved, or all (0) where that was never done, or is due by age."""
        if told.shape.part_bytes is None or told.told is None or told.told_ns + told.age_ns <= now_ns:
            return 0
        moved = self._due_of(told, told.told)
        return moved % ((1 << len(told.shape.facts)) - 1)

    def _kept_from(self, told: _Told, now_ns: int) -> float:
        """Bytes that this may not take, since they are set aside for the next sweep; what the map lacks may."""
        return 0.0 if told.told is None else self._sweeps.set_aside(self.tuning, now_ns)

    def _sweep(self, now_ns: int) -> list[tuple[str, str]]:
        """When it is time, what is swept and is not as it was told becomes due. What that is: O(T)."""
        if not self._sweeps.begin(now_ns):
            return []
        self._sweeps.bytes = self._sweep_bytes()
        for key, told in self._told.items():
            told.sweeping = True
            self._judge(key, told, now_ns)
            told.sweeping = key in self._due
        return [key for key, told in self._told.items() if told.sweeping]

    def _sweep_bytes(self) -> int:
        """What a sweep takes in which all has changed that ever did."""
        total, messages = 0, set[tuple[int, int]]()
        for told in self._told.values():
            if part := self.tuning.swept.get(told.shape.number, 0) & told.varied:
                total += told.shape.bytes_of(part)
                messages.add((told.shape.number, part))
        return total + sum(self._header_bytes(part) for _, part in messages)

    def _due_of(self, told: _Told, before: tuple[float, ...]) -> int:
        """Facts that are due for their thresholds, or in the sweep, as bits by place."""
        moved = _moved(before, told.shown, told.moves)
        if told.sweeping:
            moved |= self.tuning.swept.get(told.shape.number, 0) & _moved(before, told.shown, (0.0,) * len(before))
        return moved

    def _index(self) -> None:
        self._by_key = {(one.thing, one.group): one for one in self.tuning.groups}

    def _set(self, key: tuple[str, str], told: _Told) -> None:
        """Thresholds in force for a group of a thing. Without a tuning, a twentieth of what was told, and a third of
        the age at which it counts as old: what the orchestrator needs to see to tune."""
        number = told.shape.number
        tuning = self._by_key.get((key[0], number)) or self._by_key.get((EVERY, number))
        if tuning is None:
            told.age_ns = seconds_to_ns(told.shape.age_most_s / UNTUNED_AGES)
            told.moves = tuple(UNTUNED_FRAC * abs(one) for one in told.told or ())
            return
        rest = math.inf if tuning.quiet else 0.0
        steps = (tuning.moves.get(place) for place in range(len(told.shape.facts)))
        # Yes and no are told whenever they change, which damping bounds.
        rests = (0.0 if place in told.shape.flags else rest for place in range(len(told.shape.facts)))
        told.moves = tuple(rest if step is None else amount_of(step) for step, rest in zip(steps, rests, strict=True))
        told.age_ns = seconds_to_ns(amount_of(tuning.age_step))

    def _judge(self, key: tuple[str, str], told: _Told, now_ns: int) -> None:
        """Whether a group is due, and when it will be if it does not move."""
        told.shown = self._damped(told, now_ns)
        if told.told is None or told.told_ns + told.age_ns <= now_ns or self._due_of(told, told.told):
            self._due.setdefault(key)
            told.wake_ns = 0
        else:
            self._due.pop(key, None)
            self._wake(key, told, now_ns)

    def _damped(self, told: _Told, now_ns: int) -> tuple[float, ...]:
        values = told.newest.values
        for fact, damper in list(told.dampers.items()):
            if damper.suppressed(now_ns):
                values = (*values[:fact], 0.0, *values[fact + 1 :])
            elif damper.forgotten(now_ns):
                del told.dampers[fact]
        return values

    def _wake(self, key: tuple[str, str], told: _Told, now_ns: int) -> None:
        at_ns = told.told_ns + told.age_ns
        for damper in told.dampers.values():
            released_ns = damper.released_ns(now_ns)
            at_ns = at_ns if released_ns is None else min(at_ns, released_ns)
        if at_ns == told.wake_ns:
            return
        told.wake_ns = at_ns
        told.stamp += 1
        heapq.heappush(self._heap, (at_ns, key, told.stamp))
        if len(self._heap) > 64 + 4 * len(self._told):
            self._heap = [entry for entry in self._heap if not self._stale(entry)]
            heapq.heapify(self._heap)

    def _stale(self, entry: tuple[int, tuple[str, str], int]) -> bool:
        told = self._told.get(entry[1])
        return told is None or told.stamp != entry[2] or entry[1] in self._due

    def _come_of_age(self, now_ns: int) -> None:
        while self._heap and self._heap[0][0] <= now_ns:
            entry = heapq.heappop(self._heap)
            if not self._stale(entry):
                told = self._told[entry[1]]
                told.wake_ns = 0
                self._judge(entry[1], told, now_ns)

    def _wait_order(self, key: tuple[str, str], now_ns: int) -> tuple[float, int, tuple[str, str]]:
        """Who is told first where not all can be: what is furthest beyond its threshold or its age, and never told
        before all else; of equals what was told longest ago, so that none starves."""
        told = self._told[key]
        if told.told is None:
            return -math.inf, told.said_ns, key
        over = max(float(told.sweeping), (now_ns - told.told_ns) / max(1, told.age_ns))
        for was, now, move in zip(told.told, told.shown, told.moves, strict=True):
            if was != now and math.isfinite(move):
                over = max(over, abs(now - was) / move if move > 0 else math.inf)
        return -over, told.said_ns, key

    def _tell(self, key: tuple[str, str], told: _Told, part: int, now_ns: int) -> Reading:
        self._due.pop(key, None)
        told.said_ns, told.sweeping = now_ns, False
        if told.told is not None:
            told.varied |= _moved(told.told, told.shown, (0.0,) * len(told.shown))
        if part and told.told is not None:
            pairs = enumerate(zip(told.told, told.shown, strict=True))
            told.told = tuple(now if part >> place & 1 else was for place, (was, now) in pairs)
        else:
            told.told, told.told_ns = told.shown, now_ns
        self._set(key, told)
        self._wake(key, told, now_ns)
        newest, values = told.newest, told.told
        return Reading(thing=newest.thing, group=newest.group, values=values, measured_ns=newest.measured_ns, part=part)

    def _fill(self, now_ns: int) -> None:
        if self._filled_ns is not None and now_ns > self._filled_ns:
            gained = ns_to_seconds(now_ns - self._filled_ns) * self.tuning.bytes_per_s
            self._tokens = min(float(self.tuning.burst_bytes), self._tokens + gained)
        self._filled_ns = max(now_ns, self._filled_ns or now_ns)


def _moved(told: tuple[float, ...], shown: tuple[float, ...], moves: tuple[float, ...]) -> int:
    """Which facts are further from what was told than their thresholds, as bits by place; from or to unknown (NaN)
    always is."""
    moved = 0
    for place, (was, now, move) in enumerate(zip(told, shown, moves, strict=True)):
        if was != now and not abs(now - was) <= move and not (math.isnan(was) and math.isnan(now)):
            moved |= 1 << place
    return moved

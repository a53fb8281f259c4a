"""Slots of a host, leased to gateways in batches, so that any number of gateways choose at once and none overfills it.

A gateway reserves at the moment of its choice and asks nobody: it spends a slot of its lease. A host leases out what it
has for `LEASE_S`; a lease that ends takes with it what was not spent, and a spent slot comes back when its query ends.
So what may still be sent and what is under way are together never above the host's slots, whatever is lost between
them: a lost lease is used by no one and ends.

Two halves: `SlotBook` at the host, `SlotPurse` at the gateway. Pure: moments are given, in seconds, of each side's own
clock; a gateway counts a lease from when it asked, so that it always ends there first.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from daitn.base.errors import InputError

LEASE_S: Final = 2.0
"""How long a batch may be spent. Longer: fewer messages; shorter: sooner free when a gateway is lost."""

GATEWAYS_MOST: Final = 1024


class SlotLease(NamedTuple):
    """A batch of slots of one host for one gateway."""

    lease: int
    slots: int
    lasts_s: float


class _Held(NamedTuple):
    gateway: str
    unspent: int
    until_s: float


class SlotBook:
    """A host's half: who may still send how much, and what is under way."""

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise InputError(f"a host with {slots} slots serves nothing")
        self.slots = slots
        self._leases: dict[int, _Held] = {}
        self._under_way: dict[str, int] = {}
        self._next = 0

    def free(self, now_s: float) -> int:
        """Slots that are neither leased out nor taken."""
        self._end(now_s)
        return self.slots - sum(held.unspent for held in self._leases.values()) - sum(self._under_way.values())

    def lease(self, gateway: str, wanted: int, now_s: float) -> SlotLease:
        """A batch for a gateway, in place of what it held unspent; 0 slots where nothing is free.

        Each gateway that holds a lease or has queries here has a claim to an equal part; what others leave is free to
        take, but for one slot for a newcomer.
        """
        free = self.free(now_s)
        for number in [number for number, held in self._leases.items() if held.gateway == gateway]:
            free += self._leases.pop(number).unspent
        others = {held.gateway for held in self._leases.values()} | set(self._under_way)
        others.discard(gateway)
        if len(others) >= GATEWAYS_MOST:
            return SlotLease(0, 0, 0.0)
        fair = self.slots // (len(others) + 1) - self._under_way.get(gateway, 0)
        granted = min(max(wanted, 0), max(fair, free // 2, 1), max(free, 0))
        if granted == 0:
            return SlotLease(0, 0, 0.0)
        self._next += 1
        self._leases[self._next] = _Held(gateway, granted, now_s + LEASE_S)
        return SlotLease(self._next, granted, LEASE_S)

    def began(self, gateway: str, lease: int, now_s: float) -> bool:
        """A query came on a lease; False where that is unknown, spent, ended, or another's: refuse it."""
        self._end(now_s)
        held = self._leases.get(lease)
        if held is None or held.gateway != gateway or held.unspent < 1:
            return False
        self._leases[lease] = held._replace(unspent=held.unspent - 1)
        self._under_way[gateway] = self._under_way.get(gateway, 0) + 1
        return True

    def took(self, gateway: str, now_s: float) -> bool:
        """A query came without a lease; False where every slot is taken or promised to somebody: refuse it."""
        if self.free(now_s) < 1:
            return False
        self._under_way[gateway] = self._under_way.get(gateway, 0) + 1
        return True

    def ended(self, gateway: str) -> None:
        """A query of a gateway is no longer worked on."""
        left = self._under_way.get(gateway, 0) - 1
        if left > 0:
            self._under_way[gateway] = left
        else:
            self._under_way.pop(gateway, None)

    def under_way(self) -> int:
        """Queries that are worked on."""
        return sum(self._under_way.values())

    def _end(self, now_s: float) -> None:
        over = [number for number, held in self._leases.items() if held.until_s <= now_s or held.unspent == 0]
        for number in over:
            del self._leases[number]


class SlotPurse:
    """A gateway's half, for one host: what it may spend, and when to ask for more."""

    def __init__(self, least: int = 1, most: int = 256) -> None:
        self._lease = SlotLease(0, 0, 0.0)
        self._until_s = -1.0
        self._spent = 0
        self._want = least
        self._least, self._most = least, most

    def left(self, now_s: float) -> int:
        """Slots that may be spent now."""
        return self._lease.slots - self._spent if now_s < self._until_s else 0

    def ended(self, now_s: float) -> bool:
        """Whether what was held can be spent no more, or nothing ever was."""
        return now_s >= self._until_s

    def wanted(self) -> int:
        """How many to ask for: twice what the last batch was spent of, within bounds."""
        return self._want

    def granted(self, lease: SlotLease, asked_at_s: float) -> None:
        """A batch came, asked for at this moment of the gateway's own clock. It takes the place of the last."""
        if self._lease.slots:
            self._want = min(max(2 * self._spent, self._least), self._most)
        self._lease, self._until_s, self._spent = lease, asked_at_s + lease.lasts_s, 0

    def spend(self, now_s: float) -> int | None:
        """Take a slot: the lease to name in the query; None where there is none."""
        if self.left(now_s) < 1:
            return None
        self._spent += 1
        return self._lease.lease

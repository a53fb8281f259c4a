"""Whose answers are the odd ones: from how often pairs of hosts answered the same query alike (paper II-B: faults).

Hosts of one package compute one function, so two that differ cannot both be right; which of them is wrong, a third one
tells. Hosts that answer alike are a group; where one group is larger than any other, and has two members at least,
whoever answers otherwise than two of its members is odd. Two hosts against two, or one against one, decide nothing.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from daitn.base.ids import NodeId
from daitn.decision.live_accuracy import CHANCE, wilson

COUNTED_LEAST: Final = 3
"""Comparisons of a pair that must have come out alike, or not, before it is said to be so."""

TOLERATED: Final = 0.02
"""Share of queries that honest hosts may answer unlike each other: ties that rounding breaks one way or the other."""

AGAINST_LEAST: Final = 2
"""Members of the larger group that an odd host has to differ from: another one's fault must not look like its own."""


class Pair(NamedTuple):
    """Comparisons of two hosts."""

    same: int
    differing: int


class Odd(NamedTuple):
    """What pairs say. `odd`: hosts with those of the larger group that they differ from; `undecided`: pairs that differ
    where nobody can tell who is wrong."""

    odd: dict[NodeId, tuple[NodeId, ...]]
    undecided: tuple[tuple[NodeId, NodeId], ...]


Pairs = Mapping[tuple[NodeId, NodeId], Pair]
"""By hosts, the lesser first."""


def unlike(pair: Pair) -> bool:
    """Whether two hosts differ in more than `TOLERATED` of the queries, beyond chance."""
    rows = pair.same + pair.differing
    return pair.differing >= COUNTED_LEAST and wilson(rows, pair.differing, CHANCE).low > TOLERATED


def odd_hosts(pairs: Pairs) -> Odd:
    """See the module's docstring. Cost: O(pairs)."""
    differing = {hosts for hosts, pair in pairs.items() if unlike(pair)}
    alike = [hosts for hosts, pair in pairs.items() if pair.same >= COUNTED_LEAST and hosts not in differing]
    groups = _groups(alike)
    odd: dict[NodeId, tuple[NodeId, ...]] = {}
    if groups and (len(groups) == 1 or len(groups[0]) > len(groups[1])):
        right = groups[0]
        against: dict[NodeId, list[NodeId]] = {}
        for one, other in sorted(differing):
            if (one in right) != (other in right):
                host, member = (other, one) if one in right else (one, other)
                against.setdefault(host, []).append(member)
        odd = {host: tuple(members) for host, members in against.items() if len(members) >= AGAINST_LEAST}
    undecided = tuple(hosts for hosts in sorted(differing) if not any(host in odd for host in hosts))
    return Odd(odd, undecided)


def _groups(alike: list[tuple[NodeId, NodeId]]) -> list[set[NodeId]]:
    """Hosts that answer alike, directly or through others, the largest group first."""
    groups: list[set[NodeId]] = []
    for hosts in alike:
        touched = [group for group in groups if not group.isdisjoint(hosts)]
        groups = [group for group in groups if group.isdisjoint(hosts)]
        groups.append(set(hosts).union(*touched))
    return sorted(groups, key=len, reverse=True)

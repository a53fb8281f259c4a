"""Who averages with whom in a round of gossip: small groups, drawn from what each member knows of the others.

S. Boyd et al., Randomized Gossip Algorithms (IEEE Transactions on Information Theory 52(6), 2006): where pairs are
drawn at random and each takes the mean of its two models, the spread of models falls per round, in the mean, by the
second largest eigenvalue of E[W], W being what a round does to the models; for perfect matchings of N members drawn
from all, that is (N - 2) / (2 N - 2): about a half, however many members there are. Their sum, weighted by records,
never changes, so what they come to is the weighted mean of all.

No member needs to know all others: each is given a partial view of `PARTIAL_VIEW` members drawn anew each round (as
peer sampling does: M. Jelasity et al., ACM Transactions on Computer Systems 25(3), 2007) and takes its partner from
there. Who finds nobody free joins a pair that it knows, so that an odd member is not left alone.

Pure: equal arguments give equal groups in any order of members. Cost: O(N²), 2 ms for a hundred members.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from daitn.base.ids import DataSetId

PARTIAL_VIEW: Final = 5
"""Members that one knows of in a round: with five, fewer than one in twenty finds nobody free (N = 100)."""

GROUP_MOST: Final = 3
"""Members of a group: a pair, or a pair and one that found nobody."""


def draw_groups(members: Iterable[DataSetId], round_number: int, seed: int) -> tuple[tuple[DataSetId, ...], ...]:
    """The groups of a round: each member in one of them, `GROUP_MOST` at most, alone only where it knows no pair."""
    names = sorted(set(members))
    rng = random.Random(f"{seed}/{round_number}")
    known = {name: rng.sample(others, min(PARTIAL_VIEW, len(others))) for name, others in _others(names)}
    order = rng.sample(names, len(names))
    group_of: dict[DataSetId, int] = {}
    groups: list[list[DataSetId]] = []
    left: list[DataSetId] = []
    for name in order:
        if name in group_of:
            continue
        partner = next((one for one in known[name] if one not in group_of), None)
        if partner is None:
            left.append(name)
            continue
        group_of[name] = group_of[partner] = len(groups)
        groups.append([name, partner])
    for name in left:
        if name in group_of:  # taken as a partner by one that came after it
            continue
        near = (group_of[one] for one in known[name] if one in group_of)
        joined = next((number for number in near if len(groups[number]) < GROUP_MOST), None)
        if joined is None:
            groups.append([name])
        else:
            groups[joined].append(name)
            group_of[name] = joined
    return tuple(tuple(sorted(group)) for group in sorted(groups, key=min))


def _others(names: list[DataSetId]) -> Iterable[tuple[DataSetId, list[DataSetId]]]:
    return ((name, [one for one in names if one != name]) for name in names)

"""Where to cut a model that is served in stages, and which host computes which: by memory, speed and bandwidth (II-B).

A stage takes its share of the computing at its host's speed, and the bytes that come in and go out at the rate measured
to that host, with the way there and back. Queries follow each other through the stages, so what bounds them is the
stage that takes longest: of all ways to give consecutive parts of the graph to hosts that have the memory for them, the
one whose longest stage is shortest is taken, and of several such ones the one that is through soonest. Each stage more
is another way for every query; so there are as few as fit, unless their number is asked for.

The longest stage is as short as it can be for these hosts and places, by a table over sets of hosts (M. Held, R. Karp
1962); among equals the sum is small, not proven least. O(2^H H P^2) for H hosts and P places, some tens of milliseconds
for the most there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from daitn.base.ids import NodeId
from daitn.descriptors.stages import STAGES_MOST, Activation, CutPlace, GraphProfile

HOSTS_MOST: Final = 7
"""Hosts that a cut is made for: those with the most memory, of equal ones the fastest."""

SPEED_FLOPS: Final = 1e10
"""Of a host that states none: a core. Where no host does, only the balance counts, and this cancels out."""

QUERY_ROWS: Final = 8
"""Rows of the query that times are told for."""


class StageHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host that may compute a stage."""

    node: NodeId
    memory_bytes: int
    """That it has left."""
    flops: float
    """Floating-point operations a second; 0: not known."""
    bytes_per_s: float
    """Measured, of what is moved to it."""
    way_s: float
    """Round trip between it and whoever asks it."""


class FoundStage(NamedTuple):
    """One stage: its host, its cuts (None: the model's ends), and the seconds that a query of `QUERY_ROWS` takes."""

    node: NodeId
    begin: Activation | None
    end: Activation | None
    weight_bytes: int
    seconds: float


class NoCut(NamedTuple):
    """Why a model cannot be served in stages by these hosts: what is required, and what there is."""

    required: str
    available: str


class _Matrices(NamedTuple):
    """By host H and two places P: seconds of the stage between them, infinite where it does not fit."""

    seconds_HPP: np.ndarray
    weights_PP: np.ndarray


def cut_stages(
    profile: GraphProfile, hosts: Sequence[StageHost], *, stages: int = 0, base_bytes: int = 0, copies: int = 1
) -> tuple[FoundStage, ...] | NoCut:
    """The best stages, or why there are none. `stages`: how many, 0 for as few as fit; a stage takes `base_bytes` of
    memory and `copies` times its tensors."""
    able = sorted(hosts, key=lambda one: (-one.memory_bytes, -one.flops, one.node))[:HOSTS_MOST]
    places = profile.places
    most = min(len(able), len(places) + 1, STAGES_MOST)
    wanted = range(stages, stages + 1) if stages else range(1, most + 1)
    if stages > most:
        return NoCut(f"{stages} stages", f"{len(able)} hosts and {len(places)} places to cut at")
    if not able:
        return NoCut("a host", "none may carry it")
    found = _matrices(profile, places, able, base_bytes, copies)
    reached = _reach(found.seconds_HPP)
    for count in wanted:
        best = _best(reached, found.seconds_HPP, count)
        if best is not None:
            return tuple(_stage(places, able, found, *one) for one in best)
    needed = base_bytes + copies * profile.weight_bytes
    left = ", ".join(str(one.memory_bytes) for one in able)
    each = f" and {base_bytes} for every stage but the first" if base_bytes else ""
    return NoCut(f"{needed} bytes of memory{each}, cut at {len(places)} places at most", f"{left} bytes at its hosts")


def _matrices(
    profile: GraphProfile, places: Sequence[CutPlace], hosts: Sequence[StageHost], base_bytes: int, copies: int
) -> _Matrices:
    frac_P = np.array([0.0, *(one.before_frac for one in places), 1.0])
    weight_P = np.array([0, *(one.before_bytes for one in places), profile.weight_bytes], dtype=np.int64)
    moved_P = np.array([0.0, *(one.row_bytes for one in places), 0.0]) * QUERY_ROWS
    computed_PP = np.maximum(frac_P[None, :] - frac_P[:, None], 0.0) * profile.row_flops * QUERY_ROWS
    weights_PP = weight_P[None, :] - weight_P[:, None]
    moved_PP = moved_P[:, None] + moved_P[None, :]
    forward_PP = np.triu(np.ones((len(frac_P), len(frac_P)), dtype=bool), 1)
    seconds = []
    for host in hosts:
        fits_PP = forward_PP & (base_bytes + copies * weights_PP <= host.memory_bytes)
        speed = host.flops if host.flops > 0 else SPEED_FLOPS
        each_PP = computed_PP / speed + moved_PP / max(host.bytes_per_s, 1.0) + host.way_s
        seconds.append(np.where(fits_PP, each_PP, np.inf))
    return _Matrices(np.array(seconds), weights_PP)


def _reach(seconds_HPP: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """By set of hosts: for each place the longest stage and the sum of all on the best way there with all of them."""
    hosts, places, _ = seconds_HPP.shape
    longest = [np.full(places, np.inf) for _ in range(1 << hosts)]
    total = [np.full(places, np.inf) for _ in range(1 << hosts)]
    longest[0][0] = total[0][0] = 0.0
    for used in range(1 << hosts):
        for host in range(hosts):
            if used >> host & 1:
                continue
            worst_PP = np.maximum(longest[used][:, None], seconds_HPP[host])
            sum_PP = total[used][:, None] + seconds_HPP[host]
            worst_P = worst_PP.min(axis=0)
            sum_P = np.where(worst_PP == worst_P[None, :], sum_PP, np.inf).min(axis=0)
            others = used | 1 << host
            better = (worst_P < longest[others]) | ((worst_P == longest[others]) & (sum_P < total[others]))
            longest[others] = np.where(better, worst_P, longest[others])
            total[others] = np.where(better, sum_P, total[others])
    return list(zip(longest, total, strict=True))


def _best(
    reached: list[tuple[np.ndarray, np.ndarray]], seconds_HPP: np.ndarray, count: int
) -> list[tuple[int, int, int]] | None:
    """Host, first and last place of each stage of the best way with so many; None where there is none."""
    hosts, places, _ = seconds_HPP.shape
    ends = [
        (float(worst[-1]), float(total[-1]), used)
        for used, (worst, total) in enumerate(reached)
        if used.bit_count() == count and np.isfinite(worst[-1])
    ]
    if not ends:
        return None
    _, _, used = min(ends)
    end, way = places - 1, list[tuple[int, int, int]]()
    while used:
        worst, total = reached[used][0][end], reached[used][1][end]
        steps = []
        for host in range(hosts):
            if not used >> host & 1:
                continue
            before = used & ~(1 << host)
            worst_P = np.maximum(reached[before][0], seconds_HPP[host][:, end])
            sum_P = reached[before][1] + seconds_HPP[host][:, end]
            steps += [(abs(float(sum_P[at] - total)), host, int(at)) for at in np.flatnonzero(worst_P == worst)]
        _, host, at = min(steps)
        way.append((host, at, end))
        used, end = used & ~(1 << host), at
    return way[::-1]


def _stage(
    places: Sequence[CutPlace],
    hosts: Sequence[StageHost],
    found: _Matrices,
    host: int,
    begin: int,
    end: int,
) -> FoundStage:
    return FoundStage(
        node=hosts[host].node,
        begin=places[begin - 1].activation if begin else None,
        end=places[end - 1].activation if end <= len(places) else None,
        weight_bytes=int(found.weights_PP[begin, end]),
        seconds=float(found.seconds_HPP[host, begin, end]),
    )

"""The points of the matrix: how a play waits until a job is where the fault is to hit it.

Each is found by what the processes say and move, never by waiting a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from benchmarks.faults.sites import BATCHES
from benchmarks.faults.waiting import wait_for
from benchmarks.faults.world import World
from daitn.sdk.jobs import Job

SLOW_BYTES_PER_S: Final = 2_500_000.0
LONG_BATCHES: Final = 6000
"""Batches of a visit that takes five seconds, more than twice the lease."""

PART_BYTES: Final = 1_000_000
"""A quarter of what changes in the big model: when so much has passed, its transfer is under way for one and a half
seconds more."""

Point = Callable[[World, Job], str]
"""Waits until a job is at some point; the visit that is there, if it is one visit's."""


def at_training(node: str) -> Point:
    """A visit at a node has made its first step."""
    return lambda world, _: world.at_training(node)


def at_long_training(node: str) -> Point:
    """A visit that takes longer than a lease has made its first step at a node; those after it are short again."""

    def point(world: World, job: Job) -> str:
        wanted = f" {LONG_BATCHES} batches of "
        world.set_batches(job, LONG_BATCHES)
        try:
            while True:
                visit = world.at_training(node)
                order = next(e for e in world.log(job) if e.visit == visit and e.kind == "ordered")
                if wanted in order.text:
                    return visit
        finally:
            world.set_batches(job, BATCHES["small"])

    return point


def at_measuring(node: str) -> Point:
    """A measurement at a node has made its first step; it takes most of a second."""
    return at_training(node)


def at_averaging(node: str) -> Point:
    """An aggregator has begun to average; that takes some hundredths of a second."""
    return at_training(node)


def at_accepted(node: str) -> Point:
    """A visit at a node has been accepted: it holds the newest model, and for a moment alone."""
    return lambda world, job: world.at_accepted(job, node)


def at_transfer(node: str, way: str, *, stays_slow: bool = False) -> Point:
    """A quarter of what changes in the big model has come to (`down`) or left (`up`) a node, on a slow link; the link
    stays slow where that takes a fault that is not brought about at once."""

    def point(world: World, _: Job) -> str:
        world.at_training("south" if way == "down" else "north")
        world.at_part(node, way, PART_BYTES, SLOW_BYTES_PER_S, stays_slow=stays_slow)
        return ""

    return point


def at_receiving(node: str) -> Point:
    """The same of the model that a node was ordered to train, on a link that stays slow; that visit."""

    def point(world: World, job: Job) -> str:
        world.at_training("south" if node == "north" else "north")
        world.at_part(node, "down", PART_BYTES, SLOW_BYTES_PER_S, stays_slow=True)
        return wait_for(lambda: world.open_visit(job, node), f"an open visit at {node}")

    return point


def at_node_fetching(node: str, *, stays_slow: bool = False) -> Point:
    """A quarter of what changes in the big model has come to a node that fetches only now and then."""

    def point(world: World, _: Job) -> str:
        world.at_part(node, "down", PART_BYTES, SLOW_BYTES_PER_S, stays_slow=stays_slow)
        return ""

    return point


def at_slow_fetching(node: str) -> Point:
    """The same, on a link that stays slow."""
    return at_node_fetching(node, stays_slow=True)

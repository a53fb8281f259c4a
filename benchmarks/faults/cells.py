"""The cells of the matrix: each fault at each point of a job, with its bound and what it has to show.

Those in a row of one kind of job are played on one job.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.faults.ends import (
    center_dies_at_goal,
    center_dies_delivering,
    center_dies_handing_out,
    owner_dies_fetching,
    owner_dies_submitting,
    owner_dies_uploading,
)
from benchmarks.faults.matrix import DOER, Case, Cell, Whole
from benchmarks.faults.plays import (
    LONG_S,
    Play,
    child_dies,
    clock_moves,
    clock_wrong_at_start,
    cut,
    cut_for,
    disk_full,
    disk_of_center_full,
    doer_cut,
    doer_killed,
    doer_stopped,
    kill_and_restart,
    kill_for_good,
    owner_fails,
    slow,
    stop_for_a_lease,
    stop_for_long,
    stop_until_accepted,
    store_lost,
)
from benchmarks.faults.points import (
    at_accepted,
    at_averaging,
    at_long_training,
    at_measuring,
    at_node_fetching,
    at_receiving,
    at_slow_fetching,
    at_training,
    at_transfer,
)
from benchmarks.faults.world import PATIENCE_S
from daitn.node.processes import CENTER, ROUTER

KILL_BOUND_S: Final = 5.0
CUT_BOUND_S: Final = PATIENCE_S + 5.0
"""The lease, and as long as after a kill."""

HALF_S: Final = 0.5
TRAINED, MEASURED, AVERAGED = ("trained",), ("measured",), ("averaged",)


def _ended(point: str, kind: str, job: str, run: Play, **knobs: Any) -> Case:
    """Something ended, or goes on as before: the bound of a kill."""
    return Case(point, kind, job, KILL_BOUND_S, run, **knobs)


def _silent(point: str, kind: str, job: str, run: Play, **knobs: Any) -> Case:
    """Something fell silent: the bound of a cut or a stop. The centre gives longer leases to nodes whose signs of life
    come slowly, as on a loaded machine: a lease that ran out and was longer counts as long as it was."""
    return Case(point, kind, job, CUT_BOUND_S, run, leased=True, **knobs)


def _killed(point: str, job: str, name: str, at: Any, **knobs: Any) -> list[Cell]:
    """Killed and started again, and killed for good."""
    return [
        _ended(point, "kill", job, kill_and_restart(name, at), **knobs),
        _ended(point, "kill, not restarted", job, kill_for_good(name, at), **knobs),
    ]


def _doer_killed(point: str, job: str, step: str, at: Any, **knobs: Any) -> list[Cell]:
    """The same of who makes a job's steps of a kind."""
    knobs |= {"steps": (step,)}
    return [
        _ended(point, "kill", job, doer_killed(step, at, restarts=True), **knobs),
        _ended(point, "kill, not restarted", job, doer_killed(step, at, restarts=False), **knobs),
    ]


_NORTH_TRAINS = at_training("north")

_SMALL: Final[Sequence[Cell]] = (
    *_killed("site, training", "small", "north", _NORTH_TRAINS),
    _silent("site, training", "stop", "small", stop_until_accepted("north", _NORTH_TRAINS), late="north"),
    *_killed("site, after acknowledgement", "small", "north", at_accepted("north"), steps=TRAINED),
    _silent(
        "site, after acknowledgement",
        "stop",
        "small",
        stop_until_accepted("north", at_accepted("north")),
        steps=TRAINED,
    ),
    _ended("child", "kill", "small", child_dies("north", _NORTH_TRAINS, signal.SIGKILL)),
    _silent("child", "stop", "small", child_dies("north", _NORTH_TRAINS, signal.SIGSTOP)),
    _ended("centre", "kill", "small", kill_and_restart(CENTER, _NORTH_TRAINS)),
    _silent("centre", "stop", "small", stop_for_a_lease(CENTER, _NORTH_TRAINS)),
    _silent("centre", "stop for 10 s", "small", stop_for_long(CENTER, _NORTH_TRAINS)),
    _ended("router", "kill", "small", kill_and_restart(ROUTER, _NORTH_TRAINS)),
    _silent("router", "stop", "small", stop_for_a_lease(ROUTER, _NORTH_TRAINS)),
    _silent("router", "stop for 10 s", "small", stop_for_long(ROUTER, _NORTH_TRAINS)),
    _ended("owner's client", "kill", "small", owner_fails(signal.SIGKILL)),
    _silent("owner's client", "stop", "small", owner_fails(signal.SIGSTOP)),
    _silent(
        *("link of the site", "cut both ways", "small"),
        cut("north", _NORTH_TRAINS, "up", "down"),
        late="north",
        steps=TRAINED,
    ),
    _silent(
        *("link of the site", "cut towards the router", "small"),
        cut("north", _NORTH_TRAINS, "up"),
        late="north",
        steps=TRAINED,
    ),
    _silent(
        *("link of the site", "cut from the router", "small"),
        cut("north", at_long_training("north"), "down"),
        late="north",
        steps=TRAINED,
    ),
    _silent("link of the centre", "cut both ways", "small", cut_for(CENTER, PATIENCE_S + HALF_S, _NORTH_TRAINS)),
    _silent("link of the centre", "cut for 10 s", "small", cut_for(CENTER, LONG_S, _NORTH_TRAINS, from_mending=True)),
    _silent("link of the site", "delayed by 200 ms", "small", slow("north", delay_s=0.2), steps=TRAINED),
    _ended("clock of the site", "moved forward 2 h", "small", clock_moves("north", 7200.0)),
    _ended("clock of the site", "moved back 2 h", "small", clock_moves("north", -7200.0)),
    _ended("clock of the centre", "moved forward 2 h", "small", clock_moves(CENTER, 7200.0)),
    _ended("clock of the centre", "moved back 2 h", "small", clock_moves(CENTER, -7200.0)),
    _ended("clock of the site, at its start", "ahead by 2 h", "small", clock_wrong_at_start("north", 7200.0)),
    _ended("clock of the site, at its start", "late by 2 h", "small", clock_wrong_at_start("north", -7200.0)),
    _ended("clock of the centre, at its start", "late by 2 h", "small", clock_wrong_at_start(CENTER, -7200.0)),
    _ended("disk of the site", "full", "small", disk_full, steps=TRAINED),
    _ended("disk of the centre", "full, then room", "small", disk_of_center_full),
)

_BIG: Final[Sequence[Cell]] = (
    *_killed("site, receiving", "big", "north", at_transfer("north", "down")),
    _silent("site, receiving", "stop", "big", stop_until_accepted("north", at_transfer("north", "down"))),
    *_killed("site, sending", "big", "north", at_transfer("north", "up")),
    _silent("site, sending", "stop", "big", stop_until_accepted("north", at_transfer("north", "up"))),
    _silent(
        *("link of the site, receiving", "cut both ways", "big"),
        cut("north", at_receiving("north"), "up", "down"),
        late="north",
        steps=TRAINED,
    ),
    _silent(
        *("link of the site, sending", "cut both ways", "big"),
        cut("north", at_transfer("north", "up", stays_slow=True), "up", "down"),
        steps=TRAINED,
    ),
    _ended(
        *("store of the site", "lost, process killed", "big"),
        store_lost("north", at_transfer("north", "up"), restarts=True),
        steps=TRAINED,
    ),
    _ended(
        *("store of the site", "lost under its process", "big"),
        store_lost("north", at_transfer("north", "up"), restarts=False),
        steps=TRAINED,
        tells="holder-dropped",
    ),
    _ended("router, in a transfer", "kill", "big", kill_and_restart(ROUTER, at_transfer("north", "down"))),
    _silent("router, in a transfer", "stop", "big", stop_for_a_lease(ROUTER, at_transfer("north", "down"))),
    _silent("link of the site", "throttled to 5 MB/s", "big", slow("north", rate=5e6), steps=TRAINED),
    *_doer_killed("verification unit", "big", "measured", at_node_fetching),
    _silent(
        *("verification unit", "stop", "big"), doer_stopped("measured", at_node_fetching), late=DOER, steps=MEASURED
    ),
    *_doer_killed("verification unit, measuring", "big", "measured", at_measuring, tells="lost"),
    _silent(
        *("verification unit, measuring", "stop", "big"),
        doer_stopped("measured", at_measuring),
        late=DOER,
        steps=MEASURED,
    ),
    _silent(
        *("link of the verification unit", "cut both ways", "big"),
        doer_cut("measured", at_slow_fetching),
        late=DOER,
        steps=MEASURED,
    ),
    _silent(
        *("link of the verification unit, measuring", "cut both ways", "big"),
        doer_cut("measured", at_measuring),
        late=DOER,
        steps=MEASURED,
    ),
)

_AVERAGE: Final[Sequence[Cell]] = (
    *_doer_killed("aggregator", "average", "averaged", at_node_fetching),
    _silent("aggregator", "stop", "average", doer_stopped("averaged", at_node_fetching), late=DOER, steps=AVERAGED),
    *_doer_killed("aggregator, averaging", "average", "averaged", at_averaging, tells="lost"),
    _silent(
        *("aggregator, averaging", "stop", "average"), doer_stopped("averaged", at_averaging), late=DOER, steps=AVERAGED
    ),
    _silent(
        *("link of the aggregator", "cut both ways", "average"),
        doer_cut("averaged", at_slow_fetching),
        late=DOER,
        steps=AVERAGED,
    ),
)

END_BOUND_S: Final = 10.0
"""From a kill to the verdict on a submission that is given again, or to the model: most of it is the start of Python,
the assessment and the transfer."""

_ENDS: Final[Sequence[Cell]] = (
    Whole("centre, last measurement", "kill", KILL_BOUND_S, center_dies_at_goal),
    Whole("centre, fetching the best model", "kill", KILL_BOUND_S, center_dies_delivering),
    Whole("centre, handing out the result", "kill", END_BOUND_S, center_dies_handing_out),
    Whole("owner's client, fetching the result", "kill", END_BOUND_S, owner_dies_fetching),
    Whole("owner's client, uploading", "kill", END_BOUND_S, owner_dies_uploading),
    Whole("owner's client, submitting", "kill", END_BOUND_S, owner_dies_submitting),
)

CASES: Final[tuple[Cell, ...]] = (*_SMALL, *_BIG, *_AVERAGE, *_ENDS)

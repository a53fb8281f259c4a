"""Where to cut a model for split learning: the cut whose steps take least, by measured computing and bandwidth.

A step takes what the site with the records computes, what its partner computes, four times the way between them, and
the activations and gradients that cross. Computing is the preflight's, scaled by speed, as for any visit
(`decision.costs`); how it is spread over the graph and what crosses were measured in the preflight, too
(`learning.graphs.profile`). A fast partner behind a narrow link so gets a cut at which little crosses, even if much of
the model stays at the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from daitn.descriptors.splitting import CutCost
from daitn.descriptors.view import Candidate

CROSSINGS: Final = 4
"""Exchanges of a step: activations there and back, gradients there and back."""

CROSSING_S: Final = 0.002
"""Seconds of an exchange besides moving bytes and the way: through two rooms and a stream on one machine."""

SPEED_MOST: Final = 100.0
"""How much faster or slower than the unit a site is taken to be at most: a speed that was stated wrongly should not
decide everything."""


class Chosen(NamedTuple):
    """A cut and the seconds of a step with it."""

    cut: CutCost
    step_s: float


def choose_cut(
    cuts: Sequence[CutCost], candidate: Candidate, batch_size: int, batch_s: float, unit_flops: float
) -> Chosen | None:
    """The cut with the shortest step between a candidate's two sites; None where there is none. Ties: the first.

    `batch_s`: seconds per batch of the whole model at a unit of `unit_flops`. O(cuts).
    """
    home_s = batch_s * _slower(unit_flops, candidate.data_flops)
    away_s = batch_s * _slower(unit_flops, candidate.flops)
    found: Chosen | None = None
    for cut in cuts:
        computing_s = home_s * (1 - cut.middle_frac) + away_s * cut.middle_frac
        moving_s = batch_size * cut.record_bytes / candidate.bytes_per_s
        step_s = computing_s + moving_s + CROSSINGS * (CROSSING_S + candidate.latency_s / 2)
        if found is None or step_s < found.step_s:
            found = Chosen(cut, step_s)
    return found


def _slower(unit_flops: float, flops: float) -> float:
    ratio = unit_flops / flops if flops > 0 and unit_flops > 0 else 1.0
    return min(SPEED_MOST, max(1 / SPEED_MOST, ratio))

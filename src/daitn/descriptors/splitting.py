"""Cuts of a model for split learning: what one would cost, and the one that a visit is ordered with."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

CUTS_MOST: Final = 72
"""Cuts that a preflight may tell of: those between twelve places of a graph."""

GraphPlace = Annotated[int, msgspec.Meta(ge=0, le=200_000)]
"""A place in a graph's list of nodes."""


class CutCost(msgspec.Struct, frozen=True, kw_only=True):
    """A way to cut a graph for split learning, and what it would cost. See `learning.graphs.cutting`."""

    begin: GraphPlace
    """The middle's first node."""
    end: GraphPlace
    """The back's first node."""
    middle_frac: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """Share of the computing that is the middle's."""
    up_bytes: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    """Activations that the middle is given for a record; their gradients come back, as many."""
    down_bytes: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    """Activations that it gives back for a record, and gradients that it is given for them."""

    @property
    def record_bytes(self) -> float:
        """All that crosses for a record in one step."""
        return 2 * (self.up_bytes + self.down_bytes)


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model is cut between the two members of a group: rank 0 has the records, rank 1 computes the middle."""

    begin: GraphPlace
    end: GraphPlace
    operator: Annotated[str, msgspec.Meta(max_length=256)]
    """Who operates the node that computes the middle: the data owner's policy says whether activations may go there."""

"""Exchanging tensors within a step: what numerics ask of whatever carries it, and how a partner's failure is told.

The members of a group meet in lock step: each gives tensors under a tag and gets those that every member gave under the
same tag, in the order of ranks. What carries them (a sandboxed child's room and its node's streams, or plain memory in
tests) is not this module's matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from daitn.base.errors import DaitnError

Array = NDArray[Any]
Tensors = Mapping[str, Array]


class PartnerError(DaitnError):
    """Another member of the group was lost, or sent what cannot be used; `rank` says which."""

    kind = "partner"

    def __init__(self, rank: int, what: str) -> None:
        self.rank = rank
        super().__init__(what, todo="the round is lost and will be ordered again")


class Exchange(Protocol):
    """A place in a group."""

    @property
    def rank(self) -> int:
        """This member's place."""
        ...

    @property
    def members(self) -> int:
        """How many there are."""
        ...

    def exchange(self, tag: str, tensors: Tensors, *, alike: bool = False) -> tuple[Tensors, ...]:
        """Give `tensors`, get everyone's by rank; arrays from partners are valid until the next call.

        `alike`: every member must give the same names, types and shapes; looked at before memory is taken for them.
        PartnerError where a partner is lost, is at another tag, or sends what does not decode.
        """
        ...

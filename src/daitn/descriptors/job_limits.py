"""What a domain's operator allows its model owners: how many jobs run, of how many of one owner, and how urgent.

Paper II-A, DCC: many owners share one network. Whose turn it is follows from priority, a fair share and age
(`control_center.training.queueing`); these are the bounds of it. An owner's word of urgency displaces other owners'
jobs, so the operator says how far it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from daitn.base.errors import InputError, PolicyError
from daitn.base.ids import OwnerId
from daitn.base.names import check_name

PRIORITY: Final = 5
"""Of a request that names none, and the most that an owner may ask for of whom the operator said nothing."""

OWNERS_MOST: Final = 10_000
"""Owners with a word of their own; as many as have a token, ten times over."""

Priority = Annotated[int, msgspec.Meta(ge=0, le=9)]


class JobLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One domain's, in `domain.json` under `jobs`; set by `daitn limits`."""

    running: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64
    """Jobs that run at the same time; more are queued, by priority, fair share and age."""
    running_per_owner: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 32
    """Jobs of one owner that run at the same time; more of them are queued, while others' run. Half of all by default:
    nobody fills a domain alone."""
    per_owner: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256
    """Jobs of one owner that have not ended; a further submission is refused."""
    priority_most: Priority = PRIORITY
    """The highest priority that an owner may give a job."""
    priorities: Annotated[dict[OwnerId, Priority], msgspec.Meta(max_length=OWNERS_MOST)] = {}
    """The same for single owners, in place of `priority_most`."""

    def most_of(self, owner: OwnerId) -> int:
        """The highest priority that this owner may give a job."""
        return self.priorities.get(owner, self.priority_most)

    def check_priority(self, owner: OwnerId, priority: int) -> None:
        """PolicyError where an owner asks for more than it may."""
        if priority > (most := self.most_of(owner)):
            raise PolicyError(
                f"priority {priority} is more than {owner} may give a job, {most}",
                todo=f"give at most {most}, or ask the operator for more (daitn limits --priority {owner}={priority})",
            )

    def check_count(self, owner: OwnerId, alive: int) -> None:
        """PolicyError where an owner who has `alive` jobs that have not ended may submit no further one."""
        if alive >= self.per_owner:
            raise PolicyError(
                f"{owner} has {alive} jobs that have not ended, the limit is {self.per_owner}",
                todo="cancel or await some, or ask the operator for more (daitn limits --per-owner)",
            )


UNSAID: Final = JobLimits()
"""Of a domain whose operator said nothing."""


def parse_priorities(texts: Sequence[str]) -> dict[OwnerId, int]:
    """What `OWNER=N` says of each owner; InputError naming the first that cannot be read."""
    said: dict[OwnerId, int] = {}
    for text in texts:
        owner, _, digit = text.partition("=")
        if len(digit) != 1 or digit not in "0123456789":
            raise InputError(f"{text[:80]!r} is no owner's priority", todo="write OWNER=N with N from 0 to 9")
        said[OwnerId(check_name("owner", owner))] = int(digit)
    return said

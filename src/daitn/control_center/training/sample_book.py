"""A job's samples: who was given what, what could not be had, and on which of them models are compared.

Evaluations are counted over all units together, since they are asked about the same records. Each unit counts for
itself and tells with each result how many it will still answer; what others were asked is taken off that: as many as
their own counts fell by, with the first.
"""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.base.ids import ArtifactId, DataSetId, NodeId
from daitn.descriptors.work import EvaluateOutcome, EvaluateWork, SampleRef, ShareWork

SAMPLE_TRIES: Final = 3
"""Times a data set's sample may be lost to a site that is away before the job is assessed with those of others."""

Wanted = tuple[NodeId, DataSetId]
"""A unit, and a data set of which it is to have a sample."""


class SampleBook(msgspec.Struct, kw_only=True):
    """See the module's docstring."""

    given: dict[Wanted, SampleRef] = msgspec.field(default_factory=dict)
    faults: dict[Wanted, str] = msgspec.field(default_factory=dict)
    """Why a sample is not to be had."""
    tries: dict[Wanted, int] = msgspec.field(default_factory=dict)
    test_set: tuple[SampleRef, ...] = ()
    """The samples that models are compared on: those of the preflight, until it has to change."""
    unit: NodeId | None = None
    """The unit that measured last."""
    told: dict[NodeId, tuple[int, int]] = msgspec.field(default_factory=dict)
    """Units that have measured, and so hold their samples: evaluations left that each told first and last."""

    def has(self, unit: NodeId, dataset: DataSetId, *, without: bool) -> bool:
        """Whether a data set is not asked for its sample (again): given, refused, or done `without` after tries."""
        wanted = (unit, dataset)
        tired = without and self.tries.get(wanted, 0) >= SAMPLE_TRIES
        return wanted in self.given or wanted in self.faults or tired

    def of(self, unit: NodeId) -> tuple[SampleRef, ...]:
        """What a unit was given, by data set."""
        found = [sample for (node, _), sample in self.given.items() if node == unit]
        return tuple(sorted(found, key=lambda sample: sample.dataset))

    def lost(self, work: ShareWork, blame: str, why: str) -> None:
        """A sample was not made; for good where its site would not, or could never."""
        wanted = (work.receiver, work.dataset)
        self.tries[wanted] = self.tries.get(wanted, 0) + 1
        if blame not in ("unavailable", "no-room", "not-held"):
            self.faults[wanted] = why

    def drop(self, artifact: ArtifactId, holder: NodeId) -> None:
        """A holder has a sample no more: it is asked for again for units that have not fetched it yet."""
        gone = [key for key, one in self.given.items() if (one.artifact, one.holder) == (artifact, holder)]
        for key in gone:
            if key[0] not in self.told:
                del self.given[key]
                self.tries[key] = self.tries.get(key, 0) + 1

    def measured(self, unit: NodeId, work: EvaluateWork, outcome: EvaluateOutcome) -> int:
        """A unit has measured and says how many evaluations it has left; those left over all units."""
        left = outcome.evaluations_left
        self.unit, self.test_set = unit, self.test_set or work.samples
        self.told[unit] = (self.told.get(unit, (left, left))[0], left)
        elsewhere = sum(max(0, first - last) + 1 for node, (first, last) in self.told.items() if node != unit)
        return max(0, left - elsewhere)

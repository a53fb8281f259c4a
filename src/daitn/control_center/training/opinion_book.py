"""What each verification unit found of the models that matter now, and which units a job does not believe: part of its
state, so made of records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import msgspec

from daitn.base.ids import ArtifactId, NodeId
from daitn.control_center.training.records import UnitsCompared
from daitn.decision.second_opinion import COMPARE_EVERY
from daitn.descriptors.work import Measurement

OPINION_TRIES = 2
"""Times a unit may lose a second look before the job goes on without its opinion."""


class OpinionBook(msgspec.Struct, kw_only=True):
    """See the module's docstring."""

    found: dict[ArtifactId, dict[NodeId, tuple[Measurement, ...]]] = msgspec.field(default_factory=dict)
    since: int = COMPARE_EVERY
    """Models measured since one was compared; the first is compared at once."""
    lost: Counter[NodeId] = msgspec.field(default_factory=Counter)
    """Second looks that a unit did not bring to an end."""
    disputed: ArtifactId | None = None
    """The model of which units say what cannot both be so, while it is not known who is right."""
    rather: NodeId | None = None
    """Who measures meanwhile: the one that thinks less of that model."""
    barred: set[NodeId] = msgspec.field(default_factory=set)
    """Units that two others agree against."""

    def heard(self, model: ArtifactId, unit: NodeId, figures: tuple[Measurement, ...]) -> None:
        """A unit has measured a model."""
        self.found.setdefault(model, {})[unit] = figures

    def of(self, model: ArtifactId, without: Collection[NodeId] = ()) -> dict[NodeId, tuple[Measurement, ...]]:
        """What units that are believed found of a model."""
        found = self.found.get(model, {})
        return {unit: figures for unit, figures in found.items() if unit not in self.barred and unit not in without}

    def models(self) -> set[ArtifactId]:
        """What has to stay where it is."""
        return set() if self.disputed is None else {self.disputed}

    def keep(self, models: Collection[ArtifactId]) -> None:
        """Nothing else matters any more."""
        self.found = {model: found for model, found in self.found.items() if model in models}

    def compared(self, record: UnitsCompared) -> None:
        """Two units have looked at one model."""
        self.since = 0
        if record.odd is not None:
            self.barred.add(record.odd)
            self.disputed = self.rather = None
        elif record.difference:
            self.disputed, self.rather = record.model, record.lower

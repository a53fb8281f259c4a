"""Which data sets a job does without, because it gains nothing with them: part of its state, so made of records alone.

`decision.clearing` says why; `training.clearing` decides.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from daitn.base.ids import ArtifactId, DataSetId
from daitn.control_center.training.records import SitesSetAside
from daitn.descriptors.work import Measurement

BLAME_NOISES: Final = 2.0
"""How far beyond noise a model must gain without some data sets before that is held against them: in one of twenty runs
as much comes by chance, and by then all of them together had gained nothing at all."""


class Mark(NamedTuple):
    """A model that brought a gain: what it was measured at, and how many visits it comes from."""

    model: ArtifactId
    measurements: tuple[Measurement, ...]
    seen: int


class ClearBook(msgspec.Struct, kw_only=True):
    """See the module's docstring."""

    aside: tuple[DataSetId, ...] = ()
    """Data sets that are not asked now, while others are there."""
    stay: tuple[DataSetId, ...] = ()
    """Those without which the job gained after it had not with them."""
    left: tuple[tuple[DataSetId, ...], ...] = ()
    """What is set aside in the tries that are still to come."""
    trying: bool = False
    begun: int = 0
    """Measured models when the try began."""
    gained: bool = False
    """Whether the job has gained anything since it began."""
    given_up: bool = False
    """Whether all tries since the last gain were in vain."""
    series: int = 0
    fertile: Mark | None = None
    """The model that the last gain came from, and which therefore can still learn; None: the submitted one."""
    newest: Mark | None = None
    """The model of the last gain. It may itself be spoilt: nothing came of it yet."""
    base_score: float = 0.0
    """Score of the model that the tries start from."""
    blamed: bool = False
    """Whether what is aside was blamed for what the job did not gain with it."""

    def took(self, record: SitesSetAside, verifications: int, base_score: float) -> None:
        """Another try, or the end of them (`record.model` None)."""
        if record.model is None:
            self.trying, self.given_up = False, True
        else:
            self.series += not self.trying
            self.trying, self.begun, self.base_score = True, verifications, base_score
        self.aside, self.left = record.aside, record.left

    def models(self) -> set[ArtifactId]:
        """What has to stay where it is."""
        return {mark.model for mark in (self.fertile, self.newest) if mark is not None}

    def kept(self, mark: Mark, score: float, noise: float, *, gain: bool) -> None:
        """A model was kept: a gain beyond noise, and what is aside now stays there; more, and it is to blame."""
        if gain:
            self.fertile, self.newest = self.newest, mark
            self.gained, self.given_up = True, False
            self.stay, self.trying, self.left = self.aside, False, ()
        self.blamed = self.blamed or (self.stay != () and score > self.base_score + BLAME_NOISES * noise)

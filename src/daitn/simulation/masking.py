"""Masked rounds in a simulated world: the real keys, shares and masks, around updates of a few numbers.

What a site would train is a lineage (`simulation.learner`); beside it goes an update of four numbers drawn from the
trained model's name, which is masked, added up and opened by the same code as in real nodes. A sum that does not come
out is a fault of the centre, and found here, under all that is lost on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daitn.base.errors import BugError
from daitn.base.ids import ArtifactId, JobId, NodeId
from daitn.descriptors.masked import (
    AgreeOutcome,
    AgreeWork,
    Masking,
    MaskWork,
    SealOutcome,
    SealWork,
    Unmasking,
    UnmaskOutcome,
    UnmaskWork,
)
from daitn.descriptors.work import UpdateRef
from daitn.learning.masking.opening import unmask
from daitn.learning.masking.ring import Ring
from daitn.learning.masking.site import SiteMasks


class SimulatedMasks:
    """See the module's docstring. `signing`: what all sites sign with."""

    def __init__(self, signing: Ed25519PrivateKey) -> None:
        self._signing = signing
        self._sites: dict[NodeId, SiteMasks] = {}
        self._hidden: dict[ArtifactId, tuple[ArtifactId, Ring]] = {}
        """Masked updates: the model each stands for, and its numbers."""
        self._sums: dict[ArtifactId, tuple[tuple[UpdateRef, ...], Ring]] = {}
        self.opened = 0
        """Sums that came out right."""

    def restarted(self, node: NodeId) -> None:
        """A site's secrets are gone."""
        self._sites.pop(node, None)

    def answer(self, node: NodeId, job: JobId, work: MaskWork) -> AgreeOutcome | SealOutcome | UnmaskOutcome:
        """As a node does."""
        site = self._site(node)
        match work:
            case AgreeWork(round=name):
                return AgreeOutcome(keys=site.agree(name, job))
            case SealWork(round=name, members=members):
                return SealOutcome(sealed=site.seal(name, members))
            case UnmaskWork(round=name, summed=summed):
                return UnmaskOutcome(shares=site.unmask(name, summed))

    def mask(self, node: NodeId, masking: Masking, trained: ArtifactId) -> ArtifactId:
        """The masked update of a model that was trained at a node."""
        numbers = _numbers_of(trained)
        self._site(node).mask(masking, numbers)
        hidden = ArtifactId(blake3(f"masked {masking.round} {trained}".encode()).hexdigest())
        self._hidden[hidden] = (trained, numbers)
        return hidden

    def add(self, updates: Sequence[UpdateRef]) -> ArtifactId:
        """The sum of masked updates."""
        total = np.zeros(4, dtype=np.uint32)
        for update in updates:
            total += self._hidden[update.model][1]
        made = ArtifactId(blake3(" ".join(["sum", *(update.model for update in updates)]).encode()).hexdigest())
        real = tuple(UpdateRef(model=self._hidden[one.model][0], weight=one.weight) for one in updates)
        self._sums[made] = (real, total)
        return made

    def open(self, summed: ArtifactId, opening: Unmasking) -> tuple[UpdateRef, ...]:
        """The models that a sum is made of. BugError where its masks do not come off."""
        updates, total = self._sums[summed]
        total = total.copy()
        unmask(total, opening)
        expected = np.zeros(4, dtype=np.uint32)
        for update in updates:
            expected += _numbers_of(update.model)
        if not np.array_equal(total, expected):
            raise BugError(f"the sum {summed[:12]} of round {opening.round} came out wrong")
        self.opened += 1
        return updates

    def _site(self, node: NodeId) -> SiteMasks:
        return self._sites.setdefault(node, SiteMasks(node, self._signing))


def _numbers_of(model: ArtifactId) -> Ring:
    return np.array([int(model[place : place + 8], 16) for place in range(0, 32, 8)], dtype=np.uint32)

"""What a job knows of a stretch of gossip: each member's own model, the groups of the round, and the means that become
one when all meet. Part of a job's state, made from its records alone."""

from __future__ import annotations

import msgspec

from daitn.base.ids import ArtifactId, DataSetId
from daitn.descriptors.work import AggregateOutcome, AggregateWork, UpdateRef
from daitn.learning.methods.contract import Mixing


class GossipBook:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """There is one model of all again: a new head, or an older one."""
        self._own: dict[DataSetId, UpdateRef] = {}
        self._trained: dict[DataSetId, UpdateRef] = {}
        self._groups: tuple[tuple[DataSetId, ...], ...] = ()
        self._pieces: list[UpdateRef] = []
        self._rounds = 0
        self._made = False

    @property
    def handed_in(self) -> int:
        """Members that have handed in and not averaged."""
        return len(self._trained)

    @property
    def begun(self) -> bool:
        """Whether any member has a model of its own."""
        return bool(self._own or self._trained)

    @property
    def rounds(self) -> int:
        """Made since there was one model of all."""
        return self._rounds + self._made

    def mixing(self) -> Mixing:
        """As the method sees it."""
        return Mixing(
            own={name: one.model for name, one in (self._own | self._trained).items()},
            groups=self._groups,
            trained=dict(self._trained),
            rounds=self.rounds,
            pieces=tuple(self._pieces),
        )

    def drew(self, groups: tuple[tuple[DataSetId, ...], ...]) -> None:
        """Another round begins."""
        self._settle()
        self._groups = groups

    def met(self) -> tuple[UpdateRef, ...]:
        """All meet: what is to become one model, members of which have the same one counted together."""
        self._settle()
        self._groups = ()
        self._pieces = list(self.apart())
        if not self._pieces:  # all that members had is gone
            self.clear()
        return tuple(self._pieces)

    def apart(self) -> tuple[UpdateRef, ...]:
        """The models that members have, each with the weight of all that have it."""
        found: dict[ArtifactId, UpdateRef] = {}
        for _, one in sorted((self._own | self._trained).items()):
            known = found.get(one.model)
            weight, members = (one.weight, 1) if known is None else (one.weight + known.weight, known.members + 1)
            found[one.model] = UpdateRef(model=one.model, weight=weight, members=members)
        return tuple(found.values())

    def _settle(self) -> None:
        """Who has averaged with nobody goes on with what it made."""
        self._own |= self._trained
        self._trained.clear()
        self._rounds += self._made
        self._made = False

    def trained(self, dataset: DataSetId, update: UpdateRef) -> None:
        """A member has handed in."""
        self._trained[dataset] = update
        self._made = True

    def averaged(self, work: AggregateWork, outcome: AggregateOutcome) -> None:
        """A mean of some stands for them: it is their members' model, or one of fewer that are to become one."""
        within = {one.model for one in work.updates}
        if self._pieces:
            taken = [one for one in self._pieces if one.model in within and one.model not in outcome.left_out]
            weight, members = sum(one.weight for one in taken), sum(one.members for one in taken)
            mean = UpdateRef(model=outcome.model, weight=weight, members=max(1, members))
            self._pieces = [mean, *(one for one in self._pieces if one.model not in within)]
            return
        for name, one in list(self._trained.items()):
            if one.model in within:
                del self._trained[name]
                if one.model not in outcome.left_out:
                    self._own[name] = msgspec.structs.replace(one, model=outcome.model)

    def gone(self, model: ArtifactId) -> None:
        """A model that nobody has any more: its members go on from the head."""
        self._own = {name: one for name, one in self._own.items() if one.model != model}
        self._trained = {name: one for name, one in self._trained.items() if one.model != model}
        self._pieces = [one for one in self._pieces if one.model != model]

    def models(self) -> set[ArtifactId]:
        """All that is still needed."""
        return {one.model for one in (*self._own.values(), *self._trained.values(), *self._pieces)}

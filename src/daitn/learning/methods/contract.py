"""The contract of methods: from what a run has so far to the steps that come next.

A method has no state of its own. The run (the job machine) keeps what happened; the method is asked `next_steps` after
each event and answers with steps that are not yet under way. So a method survives every restart for free, and what it
decides can be replayed. Numbers are made elsewhere (`learning.numerics`), at terminals.

Laws, tested over all members: no step while one that it depends on is under way; every model that is trained on was
accepted before; after `verify_every` rounds a verification comes before the next training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from daitn.base.ids import ArtifactId, DataSetId
from daitn.descriptors.plan import Stop
from daitn.descriptors.work import ServerStep, UpdateRef


class Train(msgspec.Struct, frozen=True, kw_only=True):
    """Train `model` at a stop."""

    model: ArtifactId
    stop: Stop


class TrainGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Train `model` at all stops in lock step, as one group: its visits begin together, and end with one model."""

    model: ArtifactId
    stops: tuple[Stop, ...]


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """Average these updates."""

    updates: tuple[UpdateRef, ...]


class AggregateShares(msgspec.Struct, frozen=True, kw_only=True):
    """Average these updates in shares, at several aggregators; where there is one, all of them there."""

    updates: tuple[UpdateRef, ...]


class TrainAmong(msgspec.Struct, frozen=True, kw_only=True):
    """Gossip: a round of visits, each from a model of its site's own, and who averages with whom afterwards."""

    visits: tuple[Train, ...]
    groups: tuple[tuple[DataSetId, ...], ...]


class AverageAmong(msgspec.Struct, frozen=True, kw_only=True):
    """Gossip: average these updates at one of the sites that they are of. `last`: it is the mean of all."""

    updates: tuple[UpdateRef, ...]
    last: bool = False


class Meet(msgspec.Struct, frozen=True, kw_only=True):
    """Gossip: from here on, make one model of all members'."""


class Verify(msgspec.Struct, frozen=True, kw_only=True):
    """Measure `model`."""

    model: ArtifactId


Step = Train | TrainGroup | Aggregate | AggregateShares | TrainAmong | AverageAmong | Meet | Verify


class Mixing(msgspec.Struct, frozen=True, kw_only=True):
    """Gossip: what members have of their own since a model was last verified."""

    own: dict[DataSetId, ArtifactId] = {}
    """What a member's next visit begins from; one that is not here begins from the head."""
    groups: tuple[tuple[DataSetId, ...], ...] = ()
    """Who averages with whom in this round."""
    trained: dict[DataSetId, UpdateRef] = {}
    """What members have made in this round and not averaged."""
    rounds: int = 0
    """Made since then, the present one included once somebody has handed in."""
    pieces: tuple[UpdateRef, ...] = ()
    """Once all meet: means of members that are to become one."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has so far."""

    head: ArtifactId
    """The newest accepted model (after aggregation, for parallel methods)."""
    verified: ArtifactId
    """The newest model that was measured and kept; the submitted one at first."""
    rounds_since_verified: int
    verify_every: int
    under_way: int
    """Steps ordered and not yet ended."""
    training: frozenset[DataSetId] = frozenset()
    """Buffered methods: data sets whose visits are among those under way. Nothing depends on when they end."""
    handed_in: frozenset[DataSetId] = frozenset()
    """Buffered methods: data sets that have trained from `head`."""
    updates: tuple[UpdateRef, ...] = ()
    """Models trained from `head` in this round and not yet averaged (parallel methods)."""
    round_begun: bool = False
    mixing: Mixing = Mixing()


def _all_together(names: tuple[DataSetId, ...]) -> tuple[tuple[DataSetId, ...], ...]:
    return (names,)


class Choosers(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions the method asks for: the next stop by a named rule, all stops of a round, and those of one group, each
    at a node of its own."""

    next_stop: Callable[[str], Stop | None]
    all_stops: Callable[[], tuple[Stop, ...]]
    group_stops: Callable[[], tuple[Stop, ...]]
    groups: Callable[[tuple[DataSetId, ...]], tuple[tuple[DataSetId, ...], ...]] = _all_together
    """Gossip: who averages with whom, of these."""


class Preferences(msgspec.Struct, frozen=True, kw_only=True):
    """What a method wants of the hyper-parameters that the owner leaves open."""

    server: ServerStep | None = None
    """The step an aggregator takes along the mean of a round; None: the mean is the next model."""
    proximal: float = 0.0
    """How strongly local training is held to the model as it arrived."""
    elastic: float = 0.0
    """How strongly weights that mattered for earlier visits are held."""
    distillation: float = 0.0
    """How strongly answers are held to those of the model as it arrived."""
    replay: float = 0.0
    """Share of each batch that is taken from earlier records, where a site keeps any."""
    control_variates: bool = False
    """Whether gradients are corrected for how a site differs from all (SCAFFOLD)."""
    optimizer: Literal["sgd", "momentum", "adamw"] = "momentum"
    epochs: float = 0.0
    """Passes over a typical site per visit; 0: as usual."""
    batches_most: int = 0
    """Batches of a visit at most; 0: as usual."""


class Method(Protocol):
    """See the module's docstring."""

    @property
    def name(self) -> str:
        """Its name in requests, policies and logs."""
        ...

    @property
    def parallel(self) -> bool:
        """Whether several sites train at the same time."""
        ...

    @property
    def aggregates(self) -> bool:
        """Whether an aggregator averages what the sites have trained."""
        ...

    @property
    def buffered(self) -> bool:
        """Whether it goes on to new heads while sites are still training from older ones."""
        ...

    @property
    def in_shares(self) -> bool:
        """Whether several aggregators may average shares of a round before one averages these."""
        ...

    @property
    def exchanges(self) -> bool:
        """Whether sites exchange tensors with one another within each step, as members of a group."""
        ...

    @property
    def gossips(self) -> bool:
        """Whether sites have models of their own, and average with one another instead of at an aggregator."""
        ...

    @property
    def steady(self) -> bool:
        """Whether sites hand on averaged weights and correct their loss for their labels, where these lie apart."""
        ...

    @property
    def rounds(self) -> str:
        """The rule that says which sites a round has (`decision.rounds`), for parallel methods."""
        ...

    @property
    def prefers(self) -> Preferences:
        """What it wants of the hyper-parameters."""
        ...

    def next_steps(self, run: Run, choosers: Choosers) -> tuple[Step, ...]:
        """Steps to order now; empty while the run must wait for something under way or for a site to come back."""
        ...

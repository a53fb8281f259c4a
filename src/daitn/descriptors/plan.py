"""Plans: method, hyper-parameters and route together, with what they promise and why they were chosen."""

from __future__ import annotations

import msgspec

from daitn.base.ids import DataSetId, NodeId
from daitn.descriptors.outcome import Expectation
from daitn.descriptors.work import ServerStep, Training


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One decision, for the log: what was chosen, why, and what was not."""

    what: str
    chosen: str
    why: str
    rejected: tuple[str, ...] = ()


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """One planned visit."""

    dataset: DataSetId
    compute_node: NodeId
    why: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the network intends to do for a job; the route beyond the next stop may change after every visit."""

    method: str
    training: Training
    verify_every: int
    """Visits (rounds, for parallel methods) between two verifications."""
    verifier: NodeId | None
    aggregator: NodeId | None
    route: tuple[Stop, ...]
    expected: Expectation
    choices: tuple[Choice, ...]
    view_version: int
    server: ServerStep | None = None
    """The step that follows the mean of a round; None: the mean is the next model."""

"""Link center–tools, control plane, for inference: what hosts shall serve, what they do serve, where gateways send
queries (paper, II-B: the model host's and the query side's control plane).

Both ways carry the whole state under a sequence, and are said again every few seconds by the terminal: a lost message
is made good by the next, and a centre or terminal that was restarted is told all of it. Nothing is counted or fenced;
what counts is what was said last.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from daitn.base import limits
from daitn.base.effects import Message
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.descriptors.grant import Holder
from daitn.descriptors.latency import Took
from daitn.descriptors.live import ModelOutcomes
from daitn.descriptors.offers import OFFERS
from daitn.descriptors.serving import ApiKey, ModelNeeds, Replica, ServedModel
from daitn.wire.center_tools import InputRef

Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

GATEWAYS: int = 64
"""Gateways of one domain."""


class ServeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One model that a host shall serve: where its package is, and on whose behalf."""

    model: ModelName
    package: InputRef
    owner: OwnerId
    needs: ModelNeeds

    @property
    def artifact(self) -> ArtifactId:
        """The package."""
        return self.package.artifact


class ServeModels(Message, frozen=True, kw_only=True, tag="serve_models"):
    """Control centre → host: serve exactly these, for exactly these gateways; drop all others. Said when it changes,
    and in answer to a `ModelsServed` of an older sequence. A host that cannot serve one says so as its replica's
    phase."""

    sequence: Sequence
    orders: Annotated[tuple[ServeOrder, ...], msgspec.Meta(max_length=limits.MODELS_SERVED)] = ()
    gateways: Annotated[tuple[NodeId, ...], msgspec.Meta(max_length=GATEWAYS)] = ()


class ModelsServed(Message, frozen=True, kw_only=True, tag="models_served"):
    """Host → control centre: this is the state of all my models, by your order of that sequence. Said when it changes,
    and every two seconds. Answered by nothing where all is as it should be."""

    sequence: Sequence
    replicas: Annotated[tuple[Replica, ...], msgspec.Meta(max_length=limits.MODELS_SERVED)] = ()
    offered: Annotated[tuple[Replica, ...], msgspec.Meta(max_length=OFFERS)] = ()
    """Models that the host brings by itself."""


class RoutesGiven(Message, frozen=True, kw_only=True, tag="routes_given"):
    """Control centre → gateway: these models may be asked, at these hosts; answers may be handed to these gateways, and
    taken from them. Said when it changes, and in answer to a `RoutesHeld` of an older sequence."""

    sequence: Sequence
    models: Annotated[tuple[ServedModel, ...], msgspec.Meta(max_length=limits.MODELS_SERVED)] = ()
    gateways: Annotated[tuple[Holder, ...], msgspec.Meta(max_length=GATEWAYS)] = ()
    """That can be reached now, the receiver among them."""


class KeysGiven(Message, frozen=True, kw_only=True, tag="keys_given"):
    """Control centre → gateway: these keys open the door, and no others. As `RoutesGiven`."""

    sequence: Sequence
    keys: Annotated[tuple[ApiKey, ...], msgspec.Meta(max_length=limits.GATEWAY_KEYS)] = ()


class QueriesOf(msgspec.Struct, frozen=True, kw_only=True):
    """Queries of one model that a gateway was asked."""

    model: Annotated[ModelName, msgspec.Meta(max_length=64)]
    queries: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    bytes: Annotated[float, msgspec.Meta(ge=0, le=1e18)] = 0.0
    """Of all their tensors."""
    took: Took = {}
    """What ended in these seconds, by how long it took; what hosts lost, as what took longest."""


class DemandTold(Message, frozen=True, kw_only=True, tag="demand_told"):
    """Gateway → control centre: in these seconds I was asked this, since I told it last. Said every two seconds while
    there is any or there was some before, and at once where a model has no host. What is lost is not made good: the
    next says how it is then."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    counts: Annotated[tuple[QueriesOf, ...], msgspec.Meta(max_length=limits.MODELS_SERVED)] = ()


class OutcomesTold(Message, frozen=True, kw_only=True, tag="outcomes_told"):
    """Gateway → control centre: what became of queries since my process began (`since`), by model. Totals, so the next
    makes good what was lost. Said every two seconds where anything was counted; answered by nothing."""

    since: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    """Tells one process of a gateway from the next."""
    outcomes: Annotated[tuple[ModelOutcomes, ...], msgspec.Meta(max_length=limits.MODELS_SERVED)] = ()


class RoutesHeld(Message, frozen=True, kw_only=True, tag="routes_held"):
    """Gateway → control centre: I know the routes and keys of these sequences. Said when told, and every 2 s."""

    routes: Sequence
    keys: Sequence


QUOTA_KEYS: int = 1000
"""Keys of one message about quotas; the others are in the next."""

Total = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Wanted = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
KeyDigest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class QuotaUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway's process has spent of one key since it began, and would like to hold unspent from now on."""

    digest: KeyDigest
    queries: Total
    tokens: Total
    queries_wanted: Wanted = 0
    """0 of both: what it held it gives back."""
    tokens_wanted: Wanted = 0


class QuotasAsked(Message, frozen=True, kw_only=True, tag="quotas_asked"):
    """Gateway → control centre: so much was spent of these keys, and so much is wanted. Totals, so the next makes good
    what was lost. Said at once where a query waits for it, and every second while a key is used. Answered by
    `QuotasGiven`."""

    since: Sequence
    """Tells one process of a gateway from the next."""
    number: Sequence
    """Of this message; only the answer to the last one counts."""
    keys: Annotated[tuple[QuotaUse, ...], msgspec.Meta(max_length=QUOTA_KEYS)]


class QuotaShare(msgspec.Struct, frozen=True, kw_only=True):
    """Up to which totals a gateway may spend a key."""

    digest: KeyDigest
    queries_most: Total
    tokens_most: Total
    what: Annotated[str, msgspec.Meta(max_length=200)] = ""
    """Which quota is used up, if one is."""
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """When coming back helps."""


class QuotasGiven(Message, frozen=True, kw_only=True, tag="quotas_given"):
    """Control centre → gateway: what you may spend, from when you asked. Keys that have no quota, or are no keys any
    more, are left out."""

    since: Sequence
    number: Sequence
    """Of the message that this answers."""
    lease_s: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    gateways: Annotated[int, msgspec.Meta(ge=1, le=GATEWAYS)] = 1
    """How many there are: where I am silent, each lets in its part."""
    shares: Annotated[tuple[QuotaShare, ...], msgspec.Meta(max_length=QUOTA_KEYS)] = ()

"""Outcomes at a gateway: which queries were answered or lost, and which answers proved right (`descriptors.live`).

A client that will know later what was right asks with `x-daitn-feedback: 1`. The gateway then remembers, in memory, the
one output of the answer that has an entry for each class, and which key asked; `POST /v2/queries/QUERY/feedback` with
the right classes makes counts of both and lets the rows go. Each answer is judged once. What was remembered longest is
let go first. Without the header nothing of an answer is remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, ModelName, NodeId
from daitn.base.units import MIB
from daitn.descriptors.live import (
    FIELDS_MOST,
    PAIRS_MOST,
    TEMPERATURES,
    THRESHOLDS,
    FieldName,
    FieldOutcomes,
    HostsCompared,
    ModelOutcomes,
)
from daitn.descriptors.serving import NamedTensor, ServedModel
from daitn.node.http.problems import conflict, unknown
from daitn.serving.merging import SHARE_LEAST, shares_of
from daitn.serving.tensors import array_of

REMEMBERED: Final = 4096
REMEMBERED_BYTES: Final = 32 * MIB
"""Answers that may be judged yet, and their bytes."""

JUDGED: Final = 4096
"""Names of answers that were judged: so many cannot be judged again."""

SURPRISE_MOST: Final = 50.0
"""Nats of one row: a right answer that was given no share at all must not outweigh all others."""

FEEDBACK_BYTES: Final = 1 * MIB


class Feedback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What would have been right: of each row, the place of its class."""

    right: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, lt=2**31)], ...],
        msgspec.Meta(min_length=1, max_length=limits.QUERY_ROWS),
    ]
    field: FieldName = ""


class _Kept(NamedTuple):
    """An answer that may be judged."""

    key: str
    model: ModelName
    artifact: ArtifactId
    scores: NDArray[Any]
    """(R, C)."""


class _Judged(NamedTuple):
    """Of one model in one field: see `FieldOutcomes`."""

    rows: int = 0
    right: int = 0
    surprise: NDArray[np.float64] = np.zeros(len(TEMPERATURES))
    shared: NDArray[np.int64] = np.zeros(0, np.int64)


class _Counts:
    """Of one model."""

    def __init__(self) -> None:
        self.answered = self.lost = 0
        self.fields: dict[str, _Judged] = {}
        self.pairs: dict[tuple[NodeId, NodeId], tuple[int, int]] = {}
        """Of hosts: queries that both answered alike, and not."""


class OutcomeBook:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self._judged: OrderedDict[str, str] = OrderedDict()
        self._counts: dict[tuple[ModelName, ArtifactId], _Counts] = {}

    # --- what queries came to ---------------------------------------------------------------------------------------

    def ended(self, model: ServedModel, *, answered: bool) -> None:
        """A query was answered, or its work was lost."""
        counts = self._of(model.model, model.artifact)
        if answered:
            counts.answered += 1
        else:
            counts.lost += 1

    def compared(self, model: ServedModel, host: NodeId, other: NodeId, *, same: bool) -> None:
        """Two hosts were asked the same query."""
        pairs = self._of(model.model, model.artifact).pairs
        pair = (min(host, other), max(host, other))
        if pair in pairs or len(pairs) < PAIRS_MOST:
            alike, differing = pairs.get(pair, (0, 0))
            pairs[pair] = (alike + same, differing + (not same))

    def follow(self, models: Sequence[ServedModel]) -> None:
        """Only what is served is counted."""
        served = {(model.model, model.artifact) for model in models}
        self._counts = {key: counts for key, counts in self._counts.items() if key in served}

    def told(self) -> tuple[ModelOutcomes, ...]:
        """All counts since this process began."""
        return tuple(
            ModelOutcomes(
                model=model,
                artifact=artifact,
                answered=counts.answered,
                lost=counts.lost,
                judged=tuple(
                    FieldOutcomes(
                        field=field,
                        rows=one.rows,
                        right=one.right,
                        surprise=tuple(one.surprise.tolist()),
                        shared=tuple(one.shared.tolist()),
                    )
                    for field, one in counts.fields.items()
                ),
                compared=tuple(
                    HostsCompared(hosts=hosts, same=same, differing=differing)
                    for hosts, (same, differing) in counts.pairs.items()
                ),
            )
            for (model, artifact), counts in list(self._counts.items())[: limits.MODELS_SERVED]
        )

    # --- what proved right ------------------------------------------------------------------------------------------

    def remember(self, query: str, key: str, model: ServedModel, outputs: Sequence[NamedTensor]) -> str:
        """Keep of an answer what feedback is compared with; why that cannot be, empty where it can."""
        able = [one for one in outputs if len(one.shape) == 2 and one.shape[1] >= 2 and one.datatype[:2] == "FP"]
        if len(able) != 1:
            return f"{len(able)} of its outputs have floating-point entries for the classes of each row; one is wanted"
        scores = np.array(array_of(able[0]))
        if scores.nbytes > REMEMBERED_BYTES // 8:
            return f"it has {scores.nbytes} bytes, {REMEMBERED_BYTES // 8} are remembered"
        self._kept[query] = _Kept(key, model.model, model.artifact, scores)
        self._bytes += scores.nbytes
        while len(self._kept) > REMEMBERED or self._bytes > REMEMBERED_BYTES:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= gone.scores.nbytes
        return ""

    def judge(self, query: str, key: str, feedback: Feedback) -> tuple[int, int]:
        """Count what was right of an answer: its rows, and how many were. InputError where the feedback does not fit,
        HttpError where there is no such answer of this key, or it was judged."""
        if self._judged.get(query) == key:
            raise conflict("this answer was judged already")
        kept = self._kept.get(query)
        if kept is None or kept.key != key:
            raise unknown(
                "no such answer of this key is remembered at this gateway; ask with x-daitn-feedback: 1, and judge soon"
            )
        rows, classes = kept.scores.shape
        right = np.array(feedback.right)
        if len(right) != rows:
            raise InputError(f"{len(right)} right classes for an answer of {rows} rows")
        if right.max() >= classes:
            raise InputError(f"class {right.max()} of {classes}; the first is 0")
        hits = int((kept.scores.argmax(axis=1) == right).sum())
        self._add(
            kept, feedback.field, _Judged(rows, hits, surprise_of(kept.scores, right), shared_of(kept.scores, right))
        )
        del self._kept[query]
        self._bytes -= kept.scores.nbytes
        self._judged[query] = key
        if len(self._judged) > JUDGED:
            self._judged.popitem(last=False)
        return rows, hits

    def _add(self, kept: _Kept, field: str, now: _Judged) -> None:
        fields = self._of(kept.model, kept.artifact).fields
        name = field if field in fields or len(fields) < FIELDS_MOST else ""
        before = fields.get(name)
        if before is None:
            fields[name] = now
        else:
            shared = before.shared + now.shared if before.shared.shape == now.shared.shape else before.shared
            fields[name] = _Judged(
                before.rows + now.rows, before.right + now.right, before.surprise + now.surprise, shared
            )

    def _of(self, model: ModelName, artifact: ArtifactId) -> _Counts:
        return self._counts.setdefault((model, artifact), _Counts())


def surprise_of(scores: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """(T,) how surprising the right classes of (R, C) scores are, summed, at each of `TEMPERATURES`."""
    shares = shares_of(scores)
    logits = np.log(np.maximum(shares, SHARE_LEAST))
    rows = np.arange(len(right))
    found = []
    for temperature in TEMPERATURES:
        scaled = logits / temperature
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        lost = np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, right]
        found.append(float(np.minimum(lost, SURPRISE_MOST).sum()))
    return np.array(found)


def shared_of(scores: NDArray[Any], right: NDArray[Any]) -> NDArray[np.int64]:
    """Rows of (R, 2) scores by the right class and the second one's share, as `FieldOutcomes.shared`; of more classes
    nothing."""
    if scores.shape[1] != 2:
        return np.zeros(0, np.int64)
    parts = len(THRESHOLDS) + 1
    places = np.searchsorted(np.array(THRESHOLDS), shares_of(scores)[:, 1], side="right")
    counted: NDArray[np.int64] = np.bincount(right.astype(np.int64) * parts + places, minlength=2 * parts)
    return counted


def decode_feedback(body: bytes) -> Feedback:
    """What a client says was right; InputError with the place of the first fault."""
    if len(body) > FEEDBACK_BYTES:
        raise InputError(f"the feedback has {len(body)} bytes, {FEEDBACK_BYTES} are read", todo="judge fewer rows")
    try:
        return msgspec.json.decode(body, type=Feedback)
    except UNDECODABLE as error:
        raise InputError(
            f"the feedback does not decode: {str(error)[:200]}", todo='send {"right": [0, 2], "field": "cardiology"}'
        ) from None

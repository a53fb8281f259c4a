"""Trust: a score for each node from what was seen of it, fading with time, every change with its reason.

Paper II-A and III: the topology holds the terminals' trustworthiness scores, and routes are computed with them. A score
is the mean of a Beta distribution over weighted evidence: (prior good + good) / (prior + good + bad). Evidence is of
three kinds: promises (a visit accepted or lost), verified gains (a verification unit found the model better, or so much
worse that it was rolled back; or a host answers queries otherwise than others of its model), and liveness (its presence
vanished). Old evidence counts half after `HALF_LIFE_S`, so that a mended site is trusted again and no old record
excuses what happens now.

Each piece is a record of the centre's journal: a restart rebuilds the same scores. What it does not do: prove anything;
a site that behaves well until it matters is found out by verification, not by its score.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated, Final

import msgspec

from daitn.base.effects import Record
from daitn.base.ids import NodeId
from daitn.base.units import ns_to_seconds
from daitn.descriptors.trust import Evidence, TrustChange

PRIOR_GOOD: Final = 4.0
PRIOR_BAD: Final = 1.0
"""A newcomer scores 0.8: somebody vouched for it with a token, and nothing is known yet."""

HALF_LIFE_S: Final = 7 * 24 * 3600.0
"""Evidence counts half after a week: longer than any outage that an operator would call one event."""

GOOD_MOST: Final = 50.0
"""Good evidence beyond this adds nothing, so that a long record outweighs at most some twenty lost visits."""

CHANGES_KEPT: Final = 16
"""Latest changes kept with their reasons, for people."""

REPEAT_S: Final = 10.0
"""Evidence that a node can make as often as it likes (forged messages, vanishing) counts once in this time."""


WEIGHTS: Final[dict[Evidence, tuple[float, float]]] = {
    Evidence.KEPT: (1.0, 0.0),
    Evidence.BROKEN: (0.0, 2.0),
    Evidence.REFUTED: (0.0, 6.0),
    Evidence.HELPED: (2.0, 0.0),
    Evidence.HARMED: (0.0, 3.0),
    Evidence.VANISHED: (0.0, 0.5),
}
"""Good and bad weight of each. A lost visit costs the job a lease and is worth two kept ones; harm needs a roll back;
one refuted claim of a newcomer takes it below `decision`'s and the views' floor at once."""

REPEATABLE: Final = frozenset({Evidence.REFUTED, Evidence.VANISHED})


class EvidenceFound(Record, frozen=True, kw_only=True, tag="evidence_found"):
    """Something was seen that a node is trusted more or less for. `share`: its part, where several had a part in it."""

    node: NodeId
    at_ns: int
    kind: Evidence
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    why: Annotated[str, msgspec.Meta(max_length=512)] = ""


class _Account:
    """Evidence about one node, as of `at_ns`."""

    def __init__(self) -> None:
        self.good = 0.0
        self.bad = 0.0
        self.at_ns = 0
        self.last_ns: dict[Evidence, int] = {}
        self.changes: deque[TrustChange] = deque(maxlen=CHANGES_KEPT)

    def faded(self, now_ns: int) -> tuple[float, float]:
        """Good and bad evidence as it counts now. A clock that went back fades nothing."""
        factor = 0.5 ** (ns_to_seconds(max(0, now_ns - self.at_ns)) / HALF_LIFE_S) if self.at_ns else 1.0
        return self.good * factor, self.bad * factor


class TrustBook:
    """Scores of all nodes. All calls O(1)."""

    def __init__(self) -> None:
        self._accounts: dict[NodeId, _Account] = {}

    def found(
        self, node: NodeId, kind: Evidence, now_ns: int, *, share: float = 1.0, why: str = ""
    ) -> EvidenceFound | None:
        """Take in evidence; None where the same was counted a moment ago (`REPEAT_S`)."""
        account = self._accounts.get(node)
        if account is not None and kind in REPEATABLE:
            last_ns = account.last_ns.get(kind)
            if last_ns is not None and ns_to_seconds(now_ns - last_ns) < REPEAT_S:
                return None
        evidence = EvidenceFound(node=node, at_ns=now_ns, kind=kind, share=share, why=why[:512])
        self.apply(evidence)
        return evidence

    def apply(self, evidence: EvidenceFound) -> None:
        """Change a score by one piece of evidence."""
        account = self._accounts.setdefault(evidence.node, _Account())
        before = self.score(evidence.node, evidence.at_ns)
        good, bad = WEIGHTS[evidence.kind]
        held_good, held_bad = account.faded(evidence.at_ns)
        account.good = min(GOOD_MOST, held_good + good * evidence.share)
        account.bad = held_bad + bad * evidence.share
        account.at_ns = max(account.at_ns, evidence.at_ns)
        account.last_ns[evidence.kind] = evidence.at_ns
        account.changes.append(
            TrustChange(
                at_unix_s=ns_to_seconds(evidence.at_ns),
                kind=evidence.kind,
                why=evidence.why,
                before=before,
                after=self.score(evidence.node, evidence.at_ns),
            )
        )

    def forget(self, node: NodeId) -> None:
        """The node left for good."""
        self._accounts.pop(node, None)

    def score(self, node: NodeId, now_ns: int) -> float:
        """In (0, 1); 0.8 for a node nothing is known of."""
        account = self._accounts.get(node)
        good, bad = account.faded(now_ns) if account is not None else (0.0, 0.0)
        return (PRIOR_GOOD + good) / (PRIOR_GOOD + PRIOR_BAD + good + bad)

    def evidence(self, node: NodeId, now_ns: int) -> float:
        """Weight of what was seen of a node, good and bad, as it counts now; 0 where its score is the newcomer's."""
        account = self._accounts.get(node)
        return sum(account.faded(now_ns)) if account is not None else 0.0

    def changes(self, node: NodeId) -> tuple[TrustChange, ...]:
        """The latest changes of a score, oldest first."""
        account = self._accounts.get(node)
        return tuple(account.changes) if account is not None else ()

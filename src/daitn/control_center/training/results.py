"""Whether what a site returned is an answer to what it was told: of that work, of the right kind, and signed by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from daitn.descriptors.work import Work, answers
from daitn.wire.center_tools import VisitResult, encode_report

Verify = Callable[[str, bytes, str], bool]
"""Whether a signature over these bytes is that key's: (key, bytes, signature)."""


class Wrong(NamedTuple):
    """What is wrong with a result: as a counter calls it, and as people are told."""

    label: str
    fault: str
    blame: str = "peer"
    """Who must act, in the words of `base.errors`."""


def wrong_in(message: VisitResult, ordered: Work, key: str, verify: Verify) -> Wrong | None:
    """What is wrong with a site's result for this order, by its public key; None: nothing."""
    report = message.report
    if report.work != ordered:
        return Wrong("other-work", "its result speaks of other work than was ordered")
    if not answers(report.work, report.outcome):
        kind = type(report.outcome).__name__
        return Wrong("other-kind", f"its result is a {kind}, which is no answer to what was ordered")
    if not verify(key, encode_report(report), message.signature):
        return Wrong("signature", "the signature of its report does not hold")
    return None

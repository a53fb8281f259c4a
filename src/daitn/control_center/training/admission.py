"""Training admission (T-FAM): judges a request on a view, and finds the counter-offer where it must refuse.

Paper II-A. Two stages, one function: before anything is moved (policy, resources, data), and again with what a
preflight at a verification unit found and earlier runs teach. A request that fails the first stage costs no one a byte.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from daitn.decision.counter_offer import find_counter_offer
from daitn.decision.facts import PackageFacts
from daitn.decision.feasibility import Judged, Known, judge, verdict_of
from daitn.descriptors.outcome import Verdict
from daitn.descriptors.request import Request
from daitn.descriptors.view import TrainingView


class TrainingAdmission:
    """See the module's docstring. `make_view` gives the view of a request, now."""

    def __init__(self, make_view: Callable[[Request], TrainingView]) -> None:
        self._make_view = make_view

    def assess(self, request: Request, package: PackageFacts, known: Known) -> tuple[Verdict, Judged, TrainingView]:
        """The verdict, with a counter-offer where it is a refusal; what was judged; and the view it was made on."""
        view = self._make_view(request)
        judged = judge(view, request, package, known)
        verdict = verdict_of(judged.view, request, judged)
        if verdict.outcome == "refused":
            offer = find_counter_offer(self._make_view, request, package, known)
            verdict = msgspec.structs.replace(verdict, counter_offer=offer)
        return verdict, judged, judged.view

"""The route guard: a terminal takes an order only as a segment of the route that the control centre signed.

Paper II-A, MTRCE. What is checked is `artifacts.itineraries.check_order`, given from outside, so that a core has no
key. Here is kept which version of each job's route was seen last: an order by an older one is refused, since the
centre has thought better of it. A visit that was taken goes on under whatever comes; its fence says whether it counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from daitn.base.errors import DaitnError
from daitn.base.ids import JobId
from daitn.base.metrics import Counters
from daitn.wire.center_tools import VisitOrder, VisitRefused

CheckOrder = Callable[[VisitOrder], int]
"""The version of the route that an order is a segment of; PeerError or PolicyError where it is not one."""

JOBS_REMEMBERED: Final = 4096
"""Jobs whose newest route is known; the oldest are forgotten. More than a centre runs at once, many times over."""


class RouteGuard:
    """See the module's docstring. `check`: of an order's route, by the control centre's public key."""

    def __init__(self, check: CheckOrder, counters: Counters) -> None:
        self._check = check
        self._counters = counters
        self._newest: OrderedDict[JobId, int] = OrderedDict()

    def judge(self, order: VisitOrder) -> int | VisitRefused:
        """The version of the route by which an order comes, or why it is not taken: 0.2 ms."""
        try:
            version = self._check(order)
        except DaitnError as error:
            self._counters.count("routes_refused", "unsigned" if order.route is None else "not-in-it")
            return VisitRefused(visit=order.visit, fence=order.fence, reason=error.what[:4096])
        newest = self._newest.get(order.job, 0)
        if version < newest:
            self._counters.count("routes_refused", "old")
            reason = f"version {version} of the route of job {order.job} is an old one: version {newest} was here"
            return VisitRefused(visit=order.visit, fence=order.fence, reason=reason, newest_route=newest)
        return version

    def note(self, job: JobId, version: int) -> None:
        """An order by this version was taken."""
        self._newest[job] = max(version, self._newest.get(job, 0))
        self._newest.move_to_end(job)
        while len(self._newest) > JOBS_REMEMBERED:
            self._newest.popitem(last=False)

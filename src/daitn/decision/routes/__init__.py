"""Where to go next: solvers behind one contract, one file each (`contract.RouteRule`)."""

from __future__ import annotations

from typing import Final

from daitn.decision.routes.contract import RouteRule
from daitn.decision.routes.cyclic import Cyclic
from daitn.decision.routes.greedy import Greedy
from daitn.decision.routes.planned import Planned
from daitn.decision.routes.random_site import RandomSite
from daitn.decision.routes.routed import Routed
from daitn.decision.routes.tram_fl import TramFl
from daitn.decision.routes.tram_fl_cycles import TramFlCycles
from daitn.decision.routes.tram_fl_load import TramFlLoad

RULES: Final[dict[str, RouteRule]] = {
    rule.name: rule
    for rule in (
        Cyclic(),
        RandomSite(),
        TramFl(),
        TramFlCycles(),
        TramFlLoad(),
        Greedy(),
        Routed(),
        Planned(),
    )
}
"""Every member of the family, by name."""


def quick(rule: RouteRule) -> RouteRule:
    """The rule itself, or the one to go by where it takes longer than a turn may."""
    return RULES[rule.meanwhile] if rule.meanwhile else rule

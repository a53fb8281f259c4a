"""Training methods: how models, sites and verifications follow one another. Cores behind one contract, a file each."""

from __future__ import annotations

from typing import Final

from daitn.descriptors.request import Request
from daitn.learning.methods.buffered import FedBuff
from daitn.learning.methods.contract import Method, Preferences
from daitn.learning.methods.data_parallel import DataParallel
from daitn.learning.methods.federated import FEDERATED
from daitn.learning.methods.gossip import Gossip
from daitn.learning.methods.sequential import Sequential

ELASTIC: Final = 1000.0
"""Of continual learning (scikit-learn's digits, five classes after five others): at 100 a fifth less of the old was
kept. docs/decisions/0062 has the figures."""
DISTILLATION: Final = 0.5
"""Of continual learning: at 0.2 a tenth less of the old was kept, and no more of the new was learnt."""

REPLAY: Final = 0.25
"""Of continual learning: see docs/decisions/0066."""

FIRST_CHOICE: Final = "routed"
"""What the network takes where the owner leaves it open: one copy that goes where labels fade."""

CONTINUAL: Final = Preferences(elastic=ELASTIC, distillation=DISTILLATION, replay=REPLAY)

METHODS: Final[dict[str, Method]] = {
    method.name: method
    for method in (
        Sequential(name="routed", rule="routed", steady=True),
        Sequential(name="planned", rule="planned", steady=True),
        Sequential(name="cyclic", rule="cyclic"),
        Sequential(name="greedy", rule="greedy", steady=True),
        Sequential(name="tram-fl", rule="tram-fl"),
        Sequential(name="tram-fl-2", rule="tram-fl-2"),
        Sequential(name="tram-fl-load", rule="tram-fl-load"),
        Sequential(name="random", rule="random"),
        Sequential(name="continual", rule="planned", prefers=CONTINUAL),
        Sequential(name="split", rule="routed", split=True),
        *FEDERATED,
        FedBuff(),
        Gossip(),
        DataParallel(),
    )
}
"""Every method the network knows, by name."""


def splits(name: str) -> bool:
    """Whether a method cuts the model between a site with data and one that computes."""
    method = METHODS.get(name)
    return isinstance(method, Sequential) and method.split


def usual_method(request: Request) -> str:
    """What the network takes for a request that names no method."""
    averaged = request.secure_aggregation is not None or request.compression is not None
    return "fedavg" if averaged else FIRST_CHOICE

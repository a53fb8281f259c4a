"""Federated averaging (McMahan et al., AISTATS 2017) and its relatives: all sites train from one model, an aggregator
makes the next one of what they hand in.

Synchronous: a round ends when every site has answered or was given up (its lease ran out). Weights are the sites'
training records. The aggregator is a terminal; the control centre sees no tensor. The relatives differ in what a site
does (FedProx: held to the model as it arrived; SCAFFOLD: gradients corrected for how the site differs from all;
DiLoCo: hundreds of steps of AdamW) and in the step that follows the mean (`learning.numerics.server_step`), not in who
does what when.

Hierarchical averaging (L. Liu et al., ICC 2020, with one round below for each above): several aggregators make the
averages of their shares of a round, and one of them the average of these. What comes of a round is the same up to
rounding; what changes is who has to fetch what (`decision.rounds.grouping`). With one aggregator, or few updates, it is
federated averaging. A share whose aggregator is lost goes into the last average as it is.

A site's own optimizer begins anew each round: nothing but the model travels. DiLoCo's paper keeps each worker's
AdamW state there; workers here may be other sites every round.
"""

from __future__ import annotations

from typing import Final

import msgspec

from daitn.descriptors.work import ServerStep
from daitn.learning.methods.contract import Aggregate, AggregateShares, Choosers, Preferences, Run, Step, Train, Verify

PROXIMAL: Final = 0.01
"""FedProx (T. Li et al., MLSys 2020): the smallest of the weights that the paper tunes among (0.001 to 1) that is told
from none on sites apart."""

ADAPTIVE_RATE: Final = 10**-1.5
"""FedAdam and FedYogi: the server's rate that S. Reddi et al. (ICLR 2021) find best most often, with b = 0.9, c = 0.99
and t = 0.001."""

OUTER_RATE: Final = 0.7
"""DiLoCo (A. Douillard et al. 2023): rate of the outer Nesterov step, with momentum 0.9."""


SCAFFOLD_RATE: Final = 1.0
"""SCAFFOLD (S. P. Karimireddy et al., ICML 2020): the paper's server rate, with which the step is the mean itself."""


class FederatedAveraging(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring."""

    name: str = "fedavg"
    prefers: Preferences = Preferences()
    parallel: bool = True
    steady: bool = False
    aggregates: bool = True
    buffered: bool = False
    in_shares: bool = False
    gossips: bool = False
    exchanges: bool = False
    rounds: str = "all"

    def next_steps(self, run: Run, choosers: Choosers) -> tuple[Step, ...]:
        """All sites at once, then one average, or the averages of shares and theirs, then a verification when
        due."""
        if run.under_way:
            return ()
        if run.round_begun and run.updates:
            if self.in_shares and all(update.members == 1 for update in run.updates):
                return (AggregateShares(updates=run.updates),)
            return (Aggregate(updates=run.updates),)
        if run.head != run.verified and run.rounds_since_verified >= run.verify_every:
            return (Verify(model=run.head),)
        return tuple(Train(model=run.head, stop=stop) for stop in choosers.all_stops())


FEDERATED: Final = (
    FederatedAveraging(),
    FederatedAveraging(name="fedavg-oort", rounds="oort"),
    FederatedAveraging(name="fedprox", prefers=Preferences(proximal=PROXIMAL)),
    FederatedAveraging(
        name="fedadam", prefers=Preferences(server=ServerStep(optimizer="adam", learning_rate=ADAPTIVE_RATE))
    ),
    FederatedAveraging(
        name="fedyogi", prefers=Preferences(server=ServerStep(optimizer="yogi", learning_rate=ADAPTIVE_RATE))
    ),
    FederatedAveraging(
        name="scaffold",
        prefers=Preferences(
            server=ServerStep(optimizer="scaffold", learning_rate=SCAFFOLD_RATE),
            optimizer="sgd",
            control_variates=True,
        ),
    ),
    FederatedAveraging(
        name="diloco",
        prefers=Preferences(
            server=ServerStep(optimizer="nesterov", learning_rate=OUTER_RATE),
            optimizer="adamw",
            epochs=8.0,
            batches_most=500,
        ),
    ),
    FederatedAveraging(name="hierarchical", in_shares=True),
)
"""All members of the family."""

"""Sequential training: one copy of the model moves from site to site (paper, section III).

After each accepted visit the next stop is chosen anew by a route rule; every `verify_every` visits the model is
measured before it goes on, so that a harmful visit costs at most that many.

Split learning is one of these methods: at each stop the model is cut between the site with the records and a compute
site that its data owner's policy names (`learning.numerics.split`), and what goes on is one model again.
"""

from __future__ import annotations

import msgspec

from daitn.learning.methods.contract import Choosers, Preferences, Run, Step, Train, Verify


class Sequential(msgspec.Struct, frozen=True, kw_only=True):
    """See the module's docstring. `rule`: a member of `decision.routes`; `split`: whether each visit is two, at the
    data and at a compute site."""

    name: str
    rule: str
    parallel: bool = False
    steady: bool = False
    aggregates: bool = False
    buffered: bool = False
    in_shares: bool = False
    gossips: bool = False
    exchanges: bool = False
    rounds: str = "all"
    prefers: Preferences = Preferences()
    split: bool = False

    def next_steps(self, run: Run, choosers: Choosers) -> tuple[Step, ...]:
        """One step at a time: verify when due, else train at the next stop."""
        if run.under_way:
            return ()
        if run.head != run.verified and run.rounds_since_verified >= run.verify_every:
            return (Verify(model=run.head),)
        stop = choosers.next_stop(self.rule)
        return () if stop is None else (Train(model=run.head, stop=stop),)

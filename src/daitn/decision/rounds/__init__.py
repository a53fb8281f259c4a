"""Which sites train in a round of a parallel method: rules behind one contract (`contract.RoundRule`), a file each."""

from __future__ import annotations

from typing import Final

from daitn.decision.rounds.contract import RoundRule
from daitn.decision.rounds.everyone import Everyone
from daitn.decision.rounds.oort import Oort

ROUND_RULES: Final[dict[str, RoundRule]] = {rule.name: rule for rule in (Everyone(), Oort())}
"""Every member of the family, by name."""

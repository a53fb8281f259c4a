"""How old records are: the day of the newest, as far as the data owner's policy lets it be told.

The date of a record is its first number column whose unit is `unix_s`. The day told is one on which, or after which,
records of at least `min_count` groups were made, so it is never the date of one patient's only record. It bears no
noise, hence it is told only where the policy says so; it is drawn with each release and stays until the next. Half of
the records' age comes with the quantiles of that column, where the policy publishes them, with noise.

Legend: N training records, G groups of them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import numpy as np

from daitn.describe.splits import training_rows
from daitn.describe.table import MappedTable
from daitn.descriptors.contract import DataContract, date_column
from daitn.descriptors.policy import Policy

NO_DAY: Final = ""


def newest_day(table: MappedTable, contract: DataContract, policy: Policy) -> str:
    """ISO date of the newest records, in UTC; empty where the policy does not let it be told, records carry no date, or
    fewer than `min_count` groups have one. O(N log N)."""
    column = date_column(contract.columns)
    if column is None or not policy.newest_day:
        return NO_DAY
    rows = training_rows(table, contract)
    dates_N = table.numbers([column], rows)[:, 0]
    known = ~np.isnan(dates_N)
    _, group_of = np.unique(table.groups[rows][known], return_inverse=True)
    newest_G = np.full(int(group_of.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(newest_G, group_of.reshape(-1), dates_N[known])
    least = max(1, policy.min_count)
    return NO_DAY if len(newest_G) < least else _day(float(np.sort(newest_G)[-least]))


def _day(unix_s: float) -> str:
    try:
        return datetime.fromtimestamp(unix_s, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return NO_DAY

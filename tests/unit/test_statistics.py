"""Private statistics: bounded contributions, noise of the stated size, one draw per version, a ledger that refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from daitn.base.effects import Record, replay
from daitn.base.errors import BugError
from daitn.base.ids import DataSetId
from daitn.base.units import NS_PER_S
from daitn.describe.column_map import ColumnMap
from daitn.describe.fit import Fitted, fit
from daitn.describe.ledger import BudgetRefusal, EpsilonSpent, PrivacyLedger
from daitn.describe.mechanisms import laplace_std, opendp_laplace
from daitn.describe.preview import preview
from daitn.describe.splits import training_rows
from daitn.describe.statistics import (
    count_records,
    describe_data,
    draw_release,
    release_epsilon,
    release_key,
)
from daitn.descriptors.contract import (
    CategoryColumn,
    CategoryInput,
    Classification,
    DataContract,
    FieldByColumn,
    FieldByValues,
    IdentifierColumn,
    NumberColumn,
    check_contract,
)
from daitn.descriptors.policy import Policy
from daitn.descriptors.terminals import DataDescriptor

DAY_NS = 86_400 * NS_PER_S
PERIOD_NS = 30 * DAY_NS


def contract(**changes: Any) -> DataContract:
    values: dict[str, Any] = {
        "name": "c",
        "columns": (
            NumberColumn(name="x"),
            CategoryColumn(name="label", values=("a", "b", "rare", "never")),
            CategoryColumn(name="ward", values=("heart", "lung")),
            IdentifierColumn(name="who"),
        ),
        "inputs": (CategoryInput(name="w", column="ward"),),
        "task": Classification(label="label"),
        "group": "who",
        "fields": (
            FieldByColumn(column="ward"),
            FieldByValues(name="severe", column="label", values=("a", "rare")),
            FieldByValues(name="odd", column="label", values=("rare", "never")),
        ),
    }
    made = DataContract(**values | changes)
    check_contract(made)
    return made


def data(folder: Path, which: DataContract, groups: int = 300, per_group: int = 4) -> Fitted:
    count = groups * per_group
    rows: dict[str, Any] = {
        "x": np.arange(count),
        "label": ["rare" if number % 400 == 0 else "ab"[number % 2] for number in range(count)],
        "ward": ["heart" if number % 4 else "lung" for number in range(count)],
        "who": [f"p{number // per_group}" for number in range(count)],
    }
    return fit(which, dict.fromkeys(rows, "text"), [rows], ColumnMap(), folder, b"s" * 32)


def exact(counts: Sequence[int], sensitivity: int, epsilon: float) -> list[int]:
    return list(counts)


def described(fitted: Fitted, which: DataContract, policy: Policy, noise: Any) -> DataDescriptor:
    counts = count_records(fitted.table, which, policy)
    key = release_key(fitted.table, which, policy)
    release = draw_release(key, counts, which, policy, release_epsilon(policy), noise)
    return describe_data(DataSetId("n/d"), fitted.table, which, policy, release, fitted.report)


def test_counts_are_of_training_records(tmp_path: Path) -> None:
    fitted = data(tmp_path, contract())
    counts = count_records(fitted.table, contract(), Policy())
    rows = training_rows(fitted.table, contract())
    codes = fitted.table.categories("label", rows)
    assert counts.records == len(rows) == fitted.report.records - fitted.report.held_out
    assert counts.groups == len(np.unique(fitted.table.groups[rows]))
    assert list(counts.labels.values()) == np.bincount(codes, minlength=4).tolist()
    assert counts.fields["heart"] + counts.fields["lung"] == counts.records
    assert counts.left_out == 0


@pytest.mark.parametrize("bound", [1, 3, 4])
def test_one_group_changes_counts_by_no_more_than_its_sensitivity(tmp_path: Path, bound: int) -> None:
    which, policy = contract(test_frac=1e-6), Policy(records_per_group=bound)
    with_all = data(tmp_path, which, groups=60, per_group=4)
    without = data(tmp_path, which, groups=59, per_group=4)
    one, other = (count_records(fitted.table, which, policy) for fitted in (with_all, without))
    release = draw_release("k", one, which, policy, 1.0, exact)
    assert one.records - other.records == bound
    for item in ("labels", "fields"):
        change = sum(abs(getattr(one, item)[name] - getattr(other, item)[name]) for name in getattr(one, item))
        assert 0 < change <= release.shares[item].sensitivity
    assert one.groups - other.groups == 1 == release.shares["groups"].sensitivity
    assert release.shares["labels"].sensitivity == bound
    # a record is in one ward, and with the label `rare` in two of the other fields
    assert release.shares["fields"].sensitivity == 3 * bound


def test_without_groups_one_record_counts_once(tmp_path: Path) -> None:
    which = contract(group="")
    counts = count_records(data(tmp_path, which).table, which, Policy())
    release = draw_release("k", counts, which, Policy(), 1.0, exact)
    assert {item: share.sensitivity for item, share in release.shares.items()} == {
        "labels": 1,
        "fields": 3,
        "records": 1,
        "groups": 1,
    }


def test_parts_of_epsilon_add_up(tmp_path: Path) -> None:
    for fields in (contract().fields, ()):
        which = contract(fields=fields)
        release = draw_release("k", count_records(data(tmp_path, which).table, which, Policy()), which, Policy(), 0.5)
        assert math.fsum(share.epsilon for share in release.shares.values()) == pytest.approx(0.5)


def test_noise_has_the_stated_spread_and_no_bias() -> None:
    pytest.importorskip("opendp", reason="the mechanism is OpenDP's")
    draws = np.array(opendp_laplace([1000] * 20_000, 2, 0.5)) - 1000
    std = laplace_std(2 / 0.5)
    # OpenDP draws from the system's randomness, so the bounds are wide: 7 standard errors of 20,000 draws fail once
    # in 10^11 runs. The kurtosis of Laplace noise is 6, hence the standard error of the variance.
    assert abs(draws.mean()) < 7 * std / math.sqrt(20_000)
    assert abs(draws.var() / std**2 - 1) < 7 * math.sqrt(5 / 20_000)
    assert (np.abs(draws) > 0).mean() > 0.8


def test_small_and_negative_counts_become_zero_after_the_noise(tmp_path: Path) -> None:
    def less(counts: Sequence[int], sensitivity: int, epsilon: float) -> list[int]:
        return [count - 5 for count in counts]

    fitted = data(tmp_path, contract())
    descriptor = described(fitted, contract(), Policy(min_count=10), less)
    assert descriptor.labels is not None
    assert descriptor.labels.counts["rare"] == 0
    assert descriptor.labels.counts["never"] == 0
    assert descriptor.labels.counts["a"] > 400
    assert descriptor.records_std > 2 * descriptor.labels.noise_std > 0, "less of the budget goes to the volume"
    assert descriptor.groups_std > 0
    raised = described(fitted, contract(), Policy(min_count=10**6), less)
    assert (raised.records, raised.groups) == (0, 0)


def test_quality_is_rounded_and_small_shares_are_hidden(tmp_path: Path) -> None:
    fitted = data(tmp_path, contract())
    for rows, expected in ((9, 0.0), (100, 0.08)):
        report = msgspec.structs.replace(fitted.report, rows_with_missing=rows, rows=1200)
        descriptor = described(Fitted(fitted.table, report), contract(), Policy(min_count=10), exact)
        assert descriptor.quality.missing_frac == expected


def test_key_changes_with_the_data_and_what_is_counted_only(tmp_path: Path) -> None:
    fitted, changed = data(tmp_path, contract()), data(tmp_path, contract(), groups=299)
    base = release_key(fitted.table, contract(), Policy())
    assert release_key(fitted.table, contract(), Policy(min_count=3, owners=("x",))) == base
    assert release_key(changed.table, contract(), Policy()) != base
    assert release_key(fitted.table, contract(), Policy(records_per_group=2)) != base
    assert release_key(fitted.table, contract(fields=()), Policy()) != base


def test_preview_shows_the_bytes_and_every_count_with_its_cost(tmp_path: Path) -> None:
    fitted, policy = data(tmp_path, contract()), Policy(owners=("alice",), epsilon_per_period=2.0)
    counts = count_records(fitted.table, contract(), policy)
    release = draw_release("k", counts, contract(), policy, release_epsilon(policy), exact)
    descriptor = describe_data(DataSetId("n/d"), fitted.table, contract(), policy, release, fitted.report)
    shown = preview(descriptor, release, policy)
    assert msgspec.json.decode(shown.data, type=DataDescriptor) == descriptor
    for part in ("alice", "hides one group", f"records       {descriptor.records:.0f}", "ε = 0.5,", "ε = 1 of 2"):
        assert part in shown.text
    fields_named = {"dataset": "data set n/d", "field_counts": "field counts", "contract_name": "contract",
                    "record_bytes": "record size", "records_std": f"noise ± {descriptor.records_std:.1f}",
                    "groups_std": f"noise ± {descriptor.groups_std:.1f}"}  # fmt: skip
    for name in DataDescriptor.__struct_fields__:
        if name != "newest_day":
            assert fields_named.get(name, name) in shown.text, name
    assert "newest day" not in shown.text
    dated = msgspec.structs.replace(descriptor, newest_day="2026-05-17")
    assert "2026-05-17  (no noise; 10 groups or more" in preview(dated, release, policy).text


def spend(ledger: PrivacyLedger, epsilon: float, day: float, budget: float = 1.0) -> EpsilonSpent | BudgetRefusal:
    return ledger.spend("d", epsilon, int(day * DAY_NS), release="r", budget=budget, period_ns=PERIOD_NS)


def test_ledger_refuses_overspending_and_says_when() -> None:
    ledger = PrivacyLedger()
    assert isinstance(spend(ledger, 0.5, day=0), EpsilonSpent)
    assert isinstance(spend(ledger, 0.4, day=10), EpsilonSpent)
    refusal = spend(ledger, 0.5, day=11)
    assert isinstance(refusal, BudgetRefusal)
    assert refusal.available == pytest.approx(0.1)
    assert refusal.retry_at_ns == 30 * DAY_NS
    assert isinstance(spend(ledger, 0.5, day=29.99), BudgetRefusal)
    assert isinstance(spend(ledger, 0.5, day=30), EpsilonSpent)
    ledger.check_invariants()


def test_ledger_holds_in_every_window() -> None:
    ledger = PrivacyLedger()
    for hour in range(24 * 90):
        spend(ledger, 0.3, day=hour / 24)
    times = [record.at_ns for record in ledger.records()]
    for start in times:
        assert sum(0.3 for at in times if start <= at < start + PERIOD_NS) <= 1.0
    assert len(times) == 9


def test_ledger_survives_replay() -> None:
    ledger = PrivacyLedger()
    for day in (0, 5, 9):
        spend(ledger, 0.3, day)
    lines = [msgspec.json.encode(record) for record in ledger.records()]
    again = PrivacyLedger()
    replay(_AsCore(again), [msgspec.json.decode(line, type=EpsilonSpent) for line in lines])
    assert again.records() == ledger.records()
    assert isinstance(spend(again, 0.3, day=10), BudgetRefusal)


class _AsCore:
    """Only what `replay` needs of a core."""

    def __init__(self, ledger: PrivacyLedger) -> None:
        self.apply = ledger.apply

    def handle(self, event: object, now_ns: int) -> list[Any]:
        return []

    def check_invariants(self) -> None: ...


def test_ledger_gives_ten_tenths_and_never_more_than_all() -> None:
    ledger = PrivacyLedger()
    assert all(isinstance(spend(ledger, 0.1, day=0), EpsilonSpent) for _ in range(10))
    assert isinstance(spend(ledger, 0.1, day=0), BudgetRefusal)
    never = spend(ledger, 1.5, day=0)
    assert isinstance(never, BudgetRefusal)
    assert never.retry_at_ns is None


def test_ledger_is_not_fooled_by_a_clock_set_back() -> None:
    ledger = PrivacyLedger()
    spend(ledger, 1.0, day=100)
    assert isinstance(spend(ledger, 0.1, day=1), BudgetRefusal)


def test_ledger_keeps_data_sets_apart_and_refuses_nonsense() -> None:
    ledger = PrivacyLedger()
    spend(ledger, 1.0, day=0)
    other = ledger.spend("e", 1.0, 0, release="r", budget=1.0, period_ns=PERIOD_NS)
    assert isinstance(other, EpsilonSpent)
    with pytest.raises(BugError):
        spend(ledger, 0.0, day=0)
    with pytest.raises(BugError):
        ledger.apply(_OtherRecord())


class _OtherRecord(Record, frozen=True, kw_only=True, tag="other"):
    pass

"""Retrieval over fields: means of fields, held-out shares by field, batches of groups, equal answers."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from daitn.base.errors import InputError
from daitn.describe.column_map import ColumnMap
from daitn.describe.fit import fit
from daitn.describe.splits import held_out_mask, split_positions
from daitn.describe.table import MappedTable
from daitn.descriptors.contract import (
    CategoryColumn,
    DataContract,
    FieldByColumn,
    FieldByValues,
    FieldMean,
    HeldOutShare,
    IdentifierColumn,
    Retrieval,
    TextColumn,
    TokensInput,
    check_contract,
)
from daitn.descriptors.request import Request, check_request, parse_target
from daitn.learning.numerics.sampler import Sampler, grouped
from daitn.learning.tasks.contract import Batch, measure
from daitn.learning.tasks.intervals import Estimate, mean_of
from daitn.learning.tasks.retrieval import RetrievalNumerics

CONTRACT = DataContract(
    name="questions",
    columns=(
        TextColumn(name="question"),
        TextColumn(name="answer"),
        IdentifierColumn(name="focus"),
        CategoryColumn(name="institute", values=("a", "b")),
        CategoryColumn(name="subject", values=("core", "other")),
    ),
    inputs=(TokensInput(name="question", column="question"), TokensInput(name="answer", column="answer")),
    task=Retrieval(query="question", answer="answer", batches="groups"),
    group="focus",
    fields=(FieldByColumn(column="institute"), FieldByValues(name="core", column="subject", values=("core",))),
    held_out_shares=(HeldOutShare(column="subject", values=("core",), frac=0.5),),
    means=(FieldMean(name="broad", fields=("a", "b")),),
)


def table_of(folder: Path, subjects: list[str], groups: list[str]) -> MappedTable:
    count = len(subjects)
    rows = {
        "question": [f"what is {number}?" for number in range(count)],
        "answer": [f"it is {number}" for number in range(count)],
        "focus": groups,
        "institute": ["a"] * count,
        "subject": subjects,
    }
    return fit(CONTRACT, dict.fromkeys(rows, "text"), [rows], ColumnMap(), folder, bytes(32)).table


def test_held_out_with_a_share_for_a_field_holds_out_more_of_its_groups(tmp_path: Path) -> None:
    groups = [f"focus-{number}" for number in range(2000)]
    table = table_of(tmp_path, ["core"] * 1000 + ["other"] * 1000, groups)
    held = held_out_mask(table, CONTRACT)
    assert held[:1000].mean() == pytest.approx(0.5, abs=0.05)
    assert held[1000:].mean() == pytest.approx(0.2, abs=0.05)
    plain = held_out_mask(table, msgspec.structs.replace(CONTRACT, held_out_shares=()))
    assert not (plain & ~held).any()


def test_held_out_with_a_group_of_both_kinds_never_straddles(tmp_path: Path) -> None:
    groups = [f"focus-{number // 2}" for number in range(2000)]
    table = table_of(tmp_path, ["core", "other"] * 1000, groups)
    held, positions = held_out_mask(table, CONTRACT), split_positions(table, CONTRACT)
    assert all(len(set(held[positions == one].tolist())) == 1 for one in np.unique(positions)[:200])


def test_measure_of_a_mean_counts_each_field_the_same() -> None:
    fields = np.array([[True, False, False]] * 30 + [[False, True, False]] * 10)

    def compute(_metric: str, _label: str, rows: np.ndarray) -> Estimate:
        return Estimate(0.5 if len(rows) == 30 else 0.9, 0.4, 1.0, len(rows))

    (found,) = measure(["accuracy@broad"], CONTRACT, fields, compute)
    assert found.value == pytest.approx(0.7)
    assert found.records == 40
    assert found.low == pytest.approx(0.7 - math.hypot(0.1, 0.5) / 2)


def test_mean_of_figures_where_one_is_unknown_is_unknown() -> None:
    assert math.isnan(mean_of([Estimate(0.5, 0.4, 0.6, 3), Estimate(math.nan, math.nan, math.nan, 0)]).value)


def test_request_for_a_mean_is_understood_and_for_an_unknown_field_refused() -> None:
    request = Request(
        name="x", package="0" * 64, purpose="study", targets=(parse_target("accuracy@broad >= 80%"),), deadline_s=10
    )
    check_request(request, CONTRACT)
    with pytest.raises(InputError, match="no field 'elsewhere'"):
        check_request(msgspec.structs.replace(request, targets=(parse_target("accuracy@elsewhere >= 80%"),)), CONTRACT)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"means": (FieldMean(name="broad", fields=("a", "z")),)}, "does not have: z"),
        ({"means": (FieldMean(name="core", fields=("a",)),)}, "two fields have the same name"),
        (
            {"held_out_shares": (HeldOutShare(column="subject", values=("rare",), frac=0.5),)},
            "outside the vocabulary: rare",
        ),
        ({"held_out_shares": (HeldOutShare(column="question", values=("rare",), frac=0.5),)}, "needs a CategoryColumn"),
        ({"group": ""}, "batches of groups"),
    ],
)
def test_contract_with_a_fault_in_means_shares_or_batches_says_it(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_contract(msgspec.structs.replace(CONTRACT, **changes))


def test_sampler_with_groups_gives_whole_groups_and_every_record_once() -> None:
    groups = np.repeat(np.arange(20, dtype=np.uint64), 4)
    sampler = Sampler("site/data", 80, 8, 7, groups=groups)  # type: ignore[arg-type]
    rows = [sampler.next_rows() for _ in range(10)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(80))
    assert all(len(np.unique(groups[batch])) == 2 for batch in rows)
    assert np.array_equal(grouped(np.array([3, 0, 2, 1]), np.array([5, 6, 5, 6], np.uint64)), [3, 1, 0, 2])


def test_loss_with_an_answer_twice_in_the_batch_does_not_count_it_as_a_rival() -> None:
    numerics = RetrievalNumerics(CONTRACT.task, CONTRACT, torch.device("cpu"))  # type: ignore[arg-type]
    vectors = torch.eye(3)
    answers = torch.tensor([[1, 2], [3, 4], [1, 2]])
    equal = torch.stack([vectors[0], vectors[1], vectors[0]])
    loss = numerics.loss((equal, equal), Batch(inputs={"question": answers, "answer": answers}))
    assert loss < 1e-6

"""The transfer trial at the unit: what each sample teaches of every field, and what views make of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.builders import make_data, make_policy
from torch import nn

from daitn.base.ids import DataSetId
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    FieldByColumn,
    NumberColumn,
    NumbersInput,
)
from daitn.descriptors.policy import summarise
from daitn.descriptors.work import TaughtBy, Training
from daitn.learning.numerics.transfer import STEPS_LEAST, STEPS_MOST, _plan, transfer_trial
from daitn.learning.tasks import numerics_for
from daitn.learning.tasks.contract import RecordSlice
from daitn.topology.relevance import predicted_help

CONTRACT = DataContract(
    name="sides",
    columns=(
        NumberColumn(name="x"),
        NumberColumn(name="y"),
        CategoryColumn(name="side", values=("left", "right")),
        CategoryColumn(name="kind", values=("across", "up")),
    ),
    inputs=(NumbersInput(name="features", columns=("x", "y")),),
    task=Classification(label="side"),
    fields=(FieldByColumn(column="kind"),),
)
"""Field `across` is decided by x, `up` by y: what one teaches says nothing of the other."""

NAMES = ("accuracy@across", "accuracy@up")
TRAINING = Training(batch_size=16, batches=1, learning_rate=0.2, optimizer="momentum")


def sample(name: str, kind: int, records: int = 80) -> RecordSlice:
    rng = np.random.default_rng(kind)
    values = rng.normal(size=(records, 2)).astype(np.float32)
    return RecordSlice(
        inputs={"features": values},
        labels=(values[:, kind] > 0).astype(np.int64),
        fields=np.eye(2, dtype=np.bool_)[np.full(records, kind)],
        dataset=name,
        groups=np.array([f"{name}-{row}" for row in range(records)]),
    )


def model() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()

    class Sides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(features)
            return out

    return Sides()


def tried(*sets: RecordSlice, seconds: float = 60.0) -> dict[str, TaughtBy]:
    task = numerics_for(CONTRACT.task, CONTRACT)
    network = model()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = transfer_trial(network, task, sets, NAMES, TRAINING, seconds=seconds)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    return {one.dataset: one for one in found}


def test_sample_teaches_its_own_field_and_little_of_another():
    found = tried(sample("a", 0), sample("b", 1))

    assert found["a"].gains["across"] > found["a"].gains["up"] + 0.2
    assert found["b"].gains["up"] > found["b"].gains["across"] + 0.2
    assert (found["a"].records, found["a"].steps) == (80, STEPS_MOST)


def test_too_little_is_not_tried_and_one_data_set_alone_says_nothing():
    assert tried(sample("a", 0)) == {}
    assert tried(sample("a", 0), sample("b", 1, records=6)) == {}
    assert set(tried(sample("a", 0), sample("b", 1), sample("c", 1, records=6))) == {"a", "b"}


def test_trial_that_does_not_fit_its_seconds_says_nothing():
    assert tried(sample("a", 0), sample("b", 1), seconds=0.0) == {}


@pytest.mark.parametrize(
    ("left_s", "planned"),
    [(100.0, (STEPS_MOST, 2)), (5.0, (STEPS_MOST, 1)), (2.0, (STEPS_MOST // 2, 1)), (0.5, None)],
)
def test_other_way_round_is_given_up_first_then_steps(left_s, planned):
    assert _plan(left_s, 1.0, 5) == planned
    assert planned is None or planned[0] >= STEPS_LEAST


# --- relevance ------------------------------------------------------------------------------------------------------


def taught(dataset: str, records: int = 50, **gains: float) -> TaughtBy:
    return TaughtBy(dataset=DataSetId(dataset), steps=30, records=records, gains=gains)


def test_what_a_sample_taught_counts_half_and_what_all_taught_of_the_field_the_rest():
    contract = CONTRACT
    fields = contract.target_fields()
    data = [make_data(name, policy=summarise(make_policy(sample_frac=0.2))) for name in ("s1", "s2", "s3")]
    first, second = fields[0], fields[1]
    trial = (taught("s1/records", **{first: 0.4, second: 0.1}), taught("s2/records", **{first: 0.0, second: 0.1}))

    help_SF = predicted_help(contract, data, np.ones((3, len(fields))), by_sketch=False, taught=trial)

    column = help_SF[:, 0] / help_SF[2, 0]
    assert column == pytest.approx([1.5, 0.5, 1.0])
    assert help_SF[0, 1] == pytest.approx(help_SF[1, 1])
    assert (help_SF > 0).all()


def test_trial_in_which_nothing_was_learnt_changes_nothing():
    contract = CONTRACT
    data = [make_data(name) for name in ("s1", "s2")]
    fields_SF = np.ones((2, len(contract.target_fields())))
    trial = (taught("s1/records", **dict.fromkeys(contract.target_fields(), -0.1)),)

    assert predicted_help(contract, data, fields_SF, taught=trial) == pytest.approx(
        predicted_help(contract, data, fields_SF)
    )

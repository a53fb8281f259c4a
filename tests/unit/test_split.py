"""Split learning: the numbers are those of the whole model, what cannot be cut is refused, what partners send is looked
at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from tests.split_world import (  # noqa: E402
    INPUTS,
    Layers,
    Picture,
    Sequence,
    rebuilt,
    some_cut,
    state_of,
    train_split,
    train_whole,
)
from torch import nn  # noqa: E402

from daitn.base.errors import InputError  # noqa: E402
from daitn.descriptors.work import Training  # noqa: E402
from daitn.learning.graphs.cutting import cross, cut_fault, cut_graph, narrow_places  # noqa: E402
from daitn.learning.graphs.profile import PLACES_MOST, profile_cuts  # noqa: E402
from daitn.learning.numerics.exchange import PartnerError  # noqa: E402
from daitn.learning.numerics.train import NotFiniteError  # noqa: E402

KINDS = [Layers, Picture, Sequence]
PLAIN = Training(batch_size=16, batches=12, learning_rate=0.01)


def differs(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert set(one) == set(other)
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam"},
        {"gradient_clip": 0.3},
        {"optimizer": "adam", "gradient_clip": 0.3},
        {"proximal": 0.1, "weight_decay": 0.01},
    ],
    ids=["momentum", "adam", "clipped", "adam and clipped", "proximal"],
)
def test_split_training_is_that_of_the_whole_model(kind, changes):
    module = rebuilt(kind)
    training = Training(batch_size=16, batches=12, learning_rate=0.01, **changes)

    at_records, at_middle = train_split(module, some_cut(module), training)
    whole = train_whole(rebuilt(kind), training)

    assert differs(at_records.tensors, whole.tensors) <= 1e-5
    assert differs(at_records.tensors, at_middle.tensors) == 0.0
    slots, others = at_records.result.state.slots, whole.result.state.slots
    assert differs(dict(slots), dict(others)) <= 1e-5
    assert differs(dict(slots), dict(at_middle.result.state.slots)) == 0.0


def test_every_cut_gives_the_same_model():
    module = rebuilt(Layers)
    places = narrow_places(module.pair.train)
    whole = train_whole(rebuilt(Layers), PLAIN)

    for cut in [(a, b) for a in places for b in places if a < b and not cut_fault(module.pair, a, b)]:
        assert differs(train_split(module, cut, PLAIN)[0].tensors, whole.tensors) <= 1e-5


def test_both_members_report_one_state_and_one_update():
    module = rebuilt(Layers)

    at_records, at_middle = (one.result for one in train_split(module, some_cut(module), PLAIN))
    whole = train_whole(rebuilt(Layers), PLAIN).result

    assert at_records.state.travelling == at_middle.state.travelling == whole.state.travelling
    assert at_records.update_norm == pytest.approx(whole.update_norm)
    assert at_middle.update_norm == pytest.approx(whole.update_norm)
    assert (at_middle.loss_first, at_middle.loss_last) == (at_records.loss_first, at_records.loss_last)


def test_next_visit_goes_on_from_the_slots_of_both_members():
    module = rebuilt(Picture)
    first = train_split(module, some_cut(module), PLAIN)[0]
    whole = train_whole(rebuilt(Picture), PLAIN)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        tensor.data.copy_(first.tensors[name])

    second = train_split(module, some_cut(module), PLAIN, first.result.state)[0]
    onward = rebuilt(Picture)
    for name, tensor in (*onward.named_parameters(), *onward.named_buffers()):
        tensor.data.copy_(whole.tensors[name])
    again = train_whole(onward, PLAIN, whole.result.state)

    assert second.result.state.travelling.steps == 24
    assert differs(second.tensors, again.tensors) <= 1e-5


# --- what partners send ---------------------------------------------------------------------------------------------


def wild(what: str, rank: int, change: Any) -> Any:
    """Tampers with what a member gives under a tag."""

    def tamper(mine: int, tag: str, given: dict[str, Any]) -> dict[str, Any]:
        return change(given) if mine == rank and tag.startswith(what) and given else given

    return tamper


@pytest.mark.parametrize(
    ("what", "rank", "change"),
    [
        ("up/", 0, lambda given: given | {"v0": np.full_like(given["v0"], np.nan)}),
        ("up/", 0, lambda given: given | {"v0": given["v0"].astype(np.int64)}),
        ("up/", 0, lambda given: given | {"v0": given["v0"][:, :3]}),
        ("up/", 0, lambda given: {"sizes": given["sizes"]}),
        ("up/", 0, lambda given: given | {"sizes": np.array([-4])}),
        ("up/", 0, lambda given: given | {"sizes": np.array([1.5])}),
        ("down/", 1, lambda given: given | {"v0": np.full_like(given["v0"], np.inf)}),
        ("down/", 1, lambda given: {}),
        ("gradient/", 0, lambda given: given | {"v0": given["v0"][:2]}),
        ("gradient up/", 1, lambda given: given | {"v0": given["v0"][:2]}),
        ("gradient up/", 1, lambda given: given | {"v0": np.full_like(given["v0"], np.nan)}),
        ("norm/", 1, lambda given: given | {"norms": -1 - given["norms"]}),
        ("norm/", 1, lambda given: given | {"norms": given["norms"] * np.nan}),
        ("norm/", 1, lambda given: given | {"norms": given["norms"][:1], "places": np.array([[0]])}),
        ("norm/", 1, lambda given: given | {"places": given["places"] + 1000}),
        ("norm/", 1, lambda given: given | {"places": given["places"] * 0}),
        ("norm/", 0, lambda given: {}),
        ("end", 0, lambda given: given | {"tensors": given["tensors"][:-1]}),
        ("end", 0, lambda given: given | {"figures": np.array([0.0, np.nan, 1.0, 0.0, 0.0])}),
        ("end", 0, lambda given: given | {"figures": np.array([0.0, 0.0, 1.0, -1.0, 0.0])}),
        ("end", 1, lambda given: given | {"tensors": np.full_like(given["tensors"], 255)}),
        ("end", 1, lambda given: given | {"figures": np.array([1.0, 2.0])}),
    ],
)
def test_partner_that_sends_what_cannot_be_used_is_named(what, rank, change):
    module = rebuilt(Layers)
    training = Training(batch_size=16, batches=3, learning_rate=0.01, gradient_clip=0.5)

    found = train_split(module, some_cut(module), training, tamper=wild(what, rank, change))

    error = found[1 - rank]
    assert isinstance(error, PartnerError)
    assert error.rank == rank
    assert str(rank) in error.what


def test_own_numbers_that_are_not_finite_are_told_as_ones_own():
    module = rebuilt(Picture)
    module.get_parameter("body.0.weight").data.fill_(3e38)

    found = train_split(module, some_cut(module), PLAIN)

    assert isinstance(found[0], NotFiniteError)


# --- cuts -----------------------------------------------------------------------------------------------------------


class Around(nn.Module):
    """What the middle would need leads past its begin."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep, self.last = nn.Linear(INPUTS, 8), nn.Linear(8, INPUTS), nn.Linear(INPUTS, 4)

    def forward(self, x: Any) -> Any:
        return self.last(torch.tanh(self.deep(torch.tanh(self.first(x))) + x))


class Tied(nn.Module):
    """One tensor before, in and after the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.side, self.last = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, 4)

    def forward(self, x: Any) -> Any:
        return self.last(self.side(torch.tanh(self.side(torch.tanh(self.side(x))))))


def faults(kind: type[nn.Module]) -> set[str]:
    pair = rebuilt(kind).pair
    count = len(pair.train.nodes)
    return {cut_fault(pair, a, b) for a in range(1, count) for b in range(a + 1, count)}


def test_records_never_cross():
    assert any("reads input 'x'" in fault for fault in faults(Around))
    assert any("it is still a record's" in fault for fault in faults(Picture))


def test_shared_tensors_outputs_and_in_place_changes_are_not_cut():
    assert any("is used in the middle and outside" in fault for fault in faults(Tied))
    assert any("in place" in fault for fault in faults(Layers))
    assert "" in faults(Layers)


@pytest.mark.parametrize("cut", [(0, 3), (4, 4), (5, 2), (3, 10_000)])
def test_cut_that_leaves_a_part_empty_is_refused(cut):
    with pytest.raises(InputError, match="every part needs a node"):
        cross(rebuilt(Layers).pair, *cut)


def test_cut_that_breaks_a_rule_is_refused_with_it():
    pair = rebuilt(Picture).pair

    with pytest.raises(InputError, match="met no weight"):
        cut_graph(pair, 1, 4)


# --- profile --------------------------------------------------------------------------------------------------------


def test_profile_tells_what_crosses_and_where_the_computing_lies():
    module = rebuilt(Sequence)
    before = state_of(module)

    costs = profile_cuts(module, {"x": torch.randn(32, INPUTS)}, 32)

    assert costs
    assert len({cost.begin for cost in costs} | {cost.end for cost in costs}) <= PLACES_MOST
    assert all(not cut_fault(module.pair, cost.begin, cost.end) for cost in costs)
    widest = max(costs, key=lambda cost: cost.end - cost.begin)
    assert widest.middle_frac > 0.5
    assert widest.up_bytes == 4 * 4 * 8
    assert differs(before, state_of(module)) == 0.0


def test_profile_puts_running_statistics_back():
    module = rebuilt(Layers)
    before = state_of(module)

    assert profile_cuts(module, {"x": torch.randn(32, INPUTS)}, 32)
    assert differs(before, state_of(module)) == 0.0


def test_graph_without_a_narrow_place_has_no_cut():
    assert profile_cuts(rebuilt(Tied), {"x": torch.randn(8, INPUTS)}, 8) == ()

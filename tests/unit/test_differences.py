"""A buffer of updates against plain arithmetic, and a model that they do not belong to."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.builders import make_order
from tests.unit.test_visit_worker import put_model

from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.base.errors import PeerError
from daitn.base.ids import ArtifactId
from daitn.base.metrics import Counters
from daitn.descriptors.work import AggregateWork, UpdateRef
from daitn.learning.numerics.aggregate import Update
from daitn.learning.numerics.blocks import BLOCK_ELEMENTS, tensor_view
from daitn.learning.numerics.differences import Difference, move_by_differences
from daitn.learning.numerics.server_step import Area
from daitn.node.averaging import aggregate
from daitn.node.store import ChunkStore

SIZE = BLOCK_ELEMENTS + 3
SPECS = (
    TensorSpec(name="w", dtype="float32", shape=(SIZE,), role="parameter"),
    TensorSpec(name="var", dtype="float32", shape=(2,), role="buffer"),
)


def area(values: np.ndarray, variance: float = 1.0, specs: tuple[TensorSpec, ...] = SPECS) -> Area:
    layout = plan_layout(specs)
    payload = memoryview(bytearray(layout.payload_bytes))
    for entry in layout.entries:
        tensor_view(payload, entry)[...] = values if entry.name == "w" else variance
    return Area(layout.entries, payload)


def difference(end: Area, base: Area, weight: float, discount: float) -> Difference:
    update = Update(name="u", weight=weight, entries=end.entries, payload=end.payload)
    return Difference(update=update, base=base, discount=discount)


def weights(one: Area) -> np.ndarray:
    return tensor_view(one.payload, one.places()["w"])


def test_model_is_moved_by_the_weighted_and_discounted_mean_of_what_changed():
    rng = np.random.default_rng(1)
    start, first, second, base = (rng.normal(size=SIZE).astype(np.float32) for _ in range(4))
    mean = area(np.zeros(SIZE), variance=0.25)
    buffer = [difference(area(first), area(start), 3.0, 1.0), difference(area(second), area(base), 1.0, 0.5)]
    move_by_differences(buffer, area(start), mean)

    expected = start + 0.75 * (first - start) + 0.25 * 0.5 * (second - base)
    np.testing.assert_allclose(weights(mean), expected, rtol=1e-5, atol=1e-6)
    assert list(tensor_view(mean.payload, mean.places()["var"])) == [0.25, 0.25]


def test_updates_of_one_round_make_their_mean():
    rng = np.random.default_rng(2)
    start, first, second = (rng.normal(size=SIZE).astype(np.float32) for _ in range(3))
    mean = area(np.zeros(SIZE))
    move_by_differences([difference(area(one), area(start), 1.0, 1.0) for one in (first, second)], area(start), mean)

    np.testing.assert_allclose(weights(mean), (first + second) / 2, rtol=1e-5, atol=1e-6)


def test_base_of_another_shape_is_refused_with_both_shapes():
    other = area(np.zeros(3), specs=(TensorSpec(name="w", dtype="float32", shape=(3,), role="parameter"),))
    ours = area(np.zeros(SIZE))

    with pytest.raises(PeerError, match=rf"'w' is float32 \[{SIZE}\] in them, and float32 \[3\]"):
        move_by_differences([difference(ours, other, 1.0, 1.0)], ours, area(np.zeros(SIZE)))


def test_sum_beyond_its_type_is_refused():
    high, low = area(np.full(SIZE, 3e38)), area(np.full(SIZE, -3e38))

    with pytest.raises(PeerError, match="beyond its type"):
        move_by_differences([difference(high, low, 1.0, 1.0)], high, area(np.zeros(SIZE)))


def test_aggregator_moves_the_head_by_what_each_visit_changed_from_its_own_base(tmp_path: Path) -> None:
    with closing(ChunkStore(tmp_path, quota_bytes=1 << 22)) as store:
        first, head, early, late = (
            put_model(store, values) for values in ([0.0, 4.0], [1.0, 1.0], [2.0, 8.0], [3.0, 2.0])
        )
        updates = (
            UpdateRef(model=early, weight=1.0, base=first, discount=0.5),
            UpdateRef(model=late, weight=3.0, base=head),
        )
        work = AggregateWork(updates=updates, base=head)
        outcome = aggregate(store, Counters(), make_order(work=work), work)

        made = store.read_tensor_map(outcome.model).array("w")
        expected = np.array([1.0, 1.0]) + 0.25 * 0.5 * np.array([2.0, 4.0]) + 0.75 * np.array([2.0, 1.0])
        np.testing.assert_allclose(made, expected, rtol=1e-6)
        assert work.models_in() == (early, late, head, first)


def test_update_of_a_buffer_that_is_not_finite_is_left_out_and_moves_nothing(tmp_path: Path) -> None:
    with closing(ChunkStore(tmp_path, quota_bytes=1 << 22)) as store:
        base, broken, sound = (put_model(store, values) for values in ([0.0, 0.0], [float("nan"), 1.0], [2.0, 2.0]))
        updates = tuple(UpdateRef(model=model, weight=1.0, base=base) for model in (broken, sound))
        work = AggregateWork(updates=updates, base=base)
        outcome = aggregate(store, Counters(), make_order(work=work), work)

        assert outcome.left_out == (broken,)
        assert store.read_tensor_map(outcome.model).array("w").tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (
            {"updates": (UpdateRef(model=ArtifactId("u"), weight=1.0, base=ArtifactId("b")),)},
            "need the model that is moved",
        ),
        (
            {
                "updates": (
                    UpdateRef(model=ArtifactId("u"), weight=1.0, base=ArtifactId("b")),
                    UpdateRef(model=ArtifactId("v"), weight=1.0),
                ),
                "base": ArtifactId("b"),
            },
            "or none does",
        ),
        (
            {
                "updates": (UpdateRef(model=ArtifactId("u"), weight=1.0, base=ArtifactId("b")),),
                "base": ArtifactId("b"),
                "share": True,
            },
            "averaged as it is",
        ),
    ],
    ids=["no model that is moved", "some without a base", "a share"],
)
def test_work_that_contradicts_itself_cannot_be_made(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        AggregateWork(**fields)

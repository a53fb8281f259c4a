"""Whether a model is what it should be: its maker's, of the package's tensors, of the weights signed for, finite."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from daitn.artifacts.codec import complete_manifest
from daitn.artifacts.layout import TensorSpec, fill_payload, plan_layout
from daitn.artifacts.manifest import Lineage, Manifest
from daitn.base.errors import UnfitError
from daitn.base.ids import ArtifactId, VisitId
from daitn.base.metrics import UNFIT
from daitn.descriptors.origin import Origin, UnfitFault
from daitn.learning.numerics.likeness import check_origin, shapes_digest, unsound_tensor, weights_digest

MODEL = ArtifactId("a" * 64)
NAN, INFINITE = float("nan"), float("inf")


def make_model(*specs: tuple[str, str, list[Any]], visit: str = "job-1/3", kind: str = "graph") -> Manifest:
    """A model made by a visit, of tensors (name, role, float32 numbers)."""
    arrays = {name: np.array(values, dtype=np.float32) for name, _, values in specs}
    layout = plan_layout(
        TensorSpec(name=name, dtype="float32", shape=arrays[name].shape, role=role)  # type: ignore[arg-type]
        for name, role, _ in specs
    )
    draft = Manifest(
        kind=kind,  # type: ignore[arg-type]
        name="m",
        parts=(),
        tensors=layout.entries,
        payload_bytes=layout.payload_bytes,
        chunks=(),
        lineage=Lineage(visit=VisitId(visit)),
    )
    return complete_manifest(draft, {}, {name: array.data for name, array in arrays.items()})


WEIGHTS = ("w", "parameter", [1.0, 2.0])
MOMENTUM = ("momentum/w", "optimizer", [0.0, 0.5])
GOOD = make_model(WEIGHTS, MOMENTUM)
ORIGIN = Origin(
    visit=VisitId("job-1/3"),
    kind="graph",
    shapes=shapes_digest(make_model(WEIGHTS).tensors),
    weights=weights_digest(GOOD),
)


def test_model_as_its_maker_said_passes():
    check_origin(MODEL, GOOD, ORIGIN)
    check_origin(MODEL, GOOD, msgspec.structs.replace(ORIGIN, shapes="", weights=""))


@pytest.mark.parametrize(
    ("fault", "model", "words"),
    [
        ("foreign", make_model(WEIGHTS, MOMENTUM, visit="job-2/3"), "of visit job-2/3, not a graph of visit job-1/3"),
        ("foreign", make_model(WEIGHTS, MOMENTUM, kind="records"), "a records of visit"),
        ("shape", make_model(("w", "parameter", [1.0, 2.0, 3.0])), "other tensors"),
        ("shape", make_model(WEIGHTS, ("v", "buffer", [0.0])), "other tensors"),
        ("oversized", make_model(WEIGHTS, ("momentum/v", "optimizer", [0.0] * 1000)), "4000 bytes belongs to no"),
        ("oversized", make_model(WEIGHTS, ("momentum/w", "optimizer", [0.0] * 1000)), "4000 bytes belongs to no"),
        ("oversized", make_model(WEIGHTS, ("adam/steps", "optimizer", [0.0] * 1000)), "'adam/steps'"),
        ("weights", make_model(("w", "parameter", [1.0, 2.5]), MOMENTUM), "other weights"),
        ("weights", make_model(WEIGHTS), "other weights"),
    ],
)
def test_model_that_is_not_what_its_maker_said_is_refused_by_name(fault: str, model: Manifest, words: str):
    with pytest.raises(UnfitError, match=words) as refused:
        check_origin(MODEL, model, ORIGIN)
    assert (refused.value.fault, refused.value.artifact) == (fault, MODEL)


def test_weights_are_named_whoever_made_them():
    assert weights_digest(make_model(WEIGHTS, MOMENTUM, visit="job-7/1")) == weights_digest(GOOD)
    assert weights_digest(make_model()) == ""


@pytest.mark.parametrize(
    ("role", "values", "sound"),
    [
        ("parameter", [1.0, -2.0], True),
        ("parameter", [3e38, 3e38], True),  # the sum overflows, no number does
        ("parameter", [1.0, NAN], False),
        ("parameter", [INFINITE, -INFINITE], False),
        ("frozen", [1.0, -INFINITE], False),
        ("optimizer", [INFINITE, 1.0], False),
        ("buffer", [-INFINITE, 0.0], True),  # a mask
        ("buffer", [-INFINITE, NAN], False),
        ("parameter", [0.0] * 100_000 + [NAN], False),
    ],
)
def test_numbers_that_are_not_finite_are_found_with_their_tensor(role: str, values: list[float], sound: bool):
    model = make_model(("first", "parameter", [0.0]), ("odd", role, values))
    payload = bytearray(model.payload_bytes)
    arrays = {"first": np.zeros(1, np.float32), "odd": np.array(values, np.float32)}
    fill_payload(model.tensors, {name: array.data for name, array in arrays.items()}, memoryview(payload))
    assert unsound_tensor(model.tensors, memoryview(payload)) == ("" if sound else "odd")


@pytest.mark.parametrize(
    ("role", "bits", "sound"),
    [
        ("parameter", [0x3F80, 0x7F7F, 0xFF7F], True),  # 1, the largest, the smallest
        ("parameter", [0x3F80, 0x7F80], False),  # infinite
        ("parameter", [0x3F80, 0xFFC0], False),  # NaN
        ("buffer", [0xFF80, 0x3F80], True),
        ("buffer", [0xFF80, 0x7FC0], False),
    ],
)
def test_bfloat16_is_looked_at_by_its_bits(role: str, bits: list[int], sound: bool):
    array = np.array(bits, dtype=np.uint16)
    layout = plan_layout([TensorSpec(name="odd", dtype="bfloat16", shape=array.shape, role=role)])
    payload = bytearray(layout.payload_bytes)
    fill_payload(layout.entries, {"odd": array.data}, memoryview(payload))
    assert unsound_tensor(layout.entries, memoryview(payload)) == ("" if sound else "odd")


def test_every_fault_has_its_counter():
    assert msgspec.inspect.type_info(UnfitFault).values == tuple(sorted(UNFIT))

"""What a site runs: only a model whose graph and contract are signed by the signer its policy was asked about."""

from __future__ import annotations

import asyncio
from contextlib import closing, nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.builders import make_contract, make_order, make_policy, make_warrant

from daitn.artifacts.codec import complete_manifest
from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.artifacts.signatures import load_or_create_key, public_hex, sign_parts
from daitn.base.errors import DaitnError, InputError, PolicyError
from daitn.base.ids import ArtifactId
from daitn.base.metrics import Counters
from daitn.describe.column_map import ColumnMap
from daitn.descriptors.work import AggregateWork, UpdateRef
from daitn.node.arrivals import Arrivals
from daitn.node.averaging import aggregate
from daitn.node.datasets import DataShelf
from daitn.node.store import ChunkStore
from daitn.node.visit_worker import VisitWorker
from daitn.terminal.work import BeginWork, WorkFailed
from daitn.wire.center_tools import VisitOrder

MODEL = ArtifactId("a" * 64)


def model_of(manifest: Manifest, order: VisitOrder) -> Manifest:
    """What a visit is given, where its store holds this model."""
    moving = SimpleNamespace(parts_of=lambda _artifact: (manifest, {}))
    return asyncio.run(Arrivals(None, moving).model(order, MODEL))[0]


def make_manifest() -> Manifest:
    """A model of two small parts and no tensors."""
    draft = Manifest(kind="graph", name="m", parts=(), tensors=(), payload_bytes=0, chunks=())
    return complete_manifest(draft, {"graph": b"graph", "contract": b"contract"}, {})


def test_model_signed_by_whom_the_warrant_names_is_run(tmp_path: Path) -> None:
    key = load_or_create_key(tmp_path / "owner.key")
    signed = sign_parts(make_manifest(), key)
    order = make_order(warrant=make_warrant(signer=public_hex(key)))

    assert model_of(signed, order) == signed


def test_model_signed_by_somebody_else_is_refused(tmp_path: Path) -> None:
    owner, other = load_or_create_key(tmp_path / "owner.key"), load_or_create_key(tmp_path / "other.key")
    order = make_order(warrant=make_warrant(signer=public_hex(owner)))

    with pytest.raises(PolicyError, match="is signed by"):
        model_of(sign_parts(make_manifest(), other), order)


def test_model_whose_graph_was_swapped_under_the_owners_signature_is_refused(tmp_path: Path) -> None:
    key = load_or_create_key(tmp_path / "owner.key")
    true = sign_parts(make_manifest(), key)
    draft = Manifest(kind="graph", name="m", parts=(), tensors=(), payload_bytes=0, chunks=())
    swapped = complete_manifest(draft, {"graph": b"another graph", "contract": b"contract"}, {})
    forged = Manifest(
        **{name: getattr(swapped, name) for name in Manifest.__struct_fields__ if name not in ("signer", "signature")},
        signer=true.signer,
        signature=true.signature,
    )
    order = make_order(warrant=make_warrant(signer=public_hex(key)))

    with pytest.raises(DaitnError):
        model_of(forged, order)


@pytest.mark.parametrize("signer", ["", "0" * 64])
def test_model_without_a_signature_is_refused(signer: str) -> None:
    with pytest.raises(DaitnError):
        model_of(make_manifest(), make_order(warrant=make_warrant(signer=signer)))


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    "weights",
    [
        [[1.0, 1.0], [NAN, 1.0], [3.0, 3.0]],
        [[INFINITE, 0.0], [1.0, 1.0], [3.0, 3.0]],
        [[1.0] * 3, [1.0] * 2, [3.0] * 2],
    ],
    ids=["nan", "infinite", "another shape first"],
)
def test_average_leaves_out_updates_that_cannot_be_averaged_and_names_them(
    tmp_path: Path, weights: list[list[float]]
) -> None:
    with closing(ChunkStore(tmp_path, quota_bytes=1 << 20)) as store:
        models = [put_model(store, values) for values in weights]
        odd = next(model for model, w in zip(models, weights, strict=True) if not np.isfinite(w).all() or len(w) != 2)
        counters = Counters()
        work = AggregateWork(updates=tuple(UpdateRef(model=model, weight=1.0) for model in models))

        outcome = aggregate(store, counters, make_order(work=work), work)

        assert outcome.left_out == (odd,)
        good = [np.array(w) for model, w in zip(models, weights, strict=True) if model != odd]
        assert store.read_tensor_map(outcome.model).array("w").tolist() == np.mean(good, axis=0).tolist()
        assert store.manifest(outcome.model).lineage.parents == tuple(model for model in models if model != odd)
        assert counters.shown() == {"updates_left_out": 1}


def put_model(store: ChunkStore, values: list[float]) -> ArtifactId:
    array = np.array(values, dtype=np.float32)
    layout = plan_layout([TensorSpec(name="w", dtype="float32", shape=array.shape, role="parameter")])
    draft = Manifest(
        kind="graph", name="m", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    return store.put_artifact(draft, {"graph": b"g", "contract": b"c"}, {"w": array.data}).artifact


def test_changed_data_file_fails_the_visit_with_words_for_each_side(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "secret-ward.csv"
    source.write_text("x,y\n1,0\n2,1\n")
    shelf = DataShelf(tmp_path / "shelf", b"s" * 32)
    shelf.add("ward", source, make_contract(), make_policy(), ColumnMap())
    worker = VisitWorker(None, None, None, shelf, None, None, None, lambda _event: None)
    worker._check_source("ward")

    source.write_text("x,y\n1,0\n2,1\n3,1\n")
    with pytest.raises(InputError) as refused:
        worker._check_source("ward")

    assert "'ward'" in refused.value.what
    assert "daitn data add" in refused.value.todo
    assert "secret-ward" not in str(refused.value)
    assert "bytes" not in str(refused.value)
    assert "now there are 1 of" in caplog.text
    assert worker.counters.shown() == {"data_sets_changed": 1}
    assert [entry.name for entry in shelf.list()] == ["ward"]


class Children:
    """Children whose run ends with an error that nobody foresaw."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def train(self, *_: object, **__: object) -> None:
        raise self.error

    async def stop(self) -> None:
        """There is none."""


@pytest.mark.parametrize(
    ("error", "blame", "reason", "words"),
    [
        (OSError(5, "Input/output error", "/secret/ward"), "unavailable", "unavailable", "Input/output error"),
        (TimeoutError(110, "Connection timed out"), "unavailable", "unavailable", "timed out"),
        (ValueError("no rule for this"), "bug", "bug", "ValueError: no rule for this"),
    ],
    ids=["disk", "a call of the system's", "our bug"],
)
def test_error_that_nobody_foresaw_ends_the_visit_by_name_and_leaves_no_output(
    tmp_path: Path, error: Exception, blame: str, reason: str, words: str
) -> None:
    async def main() -> list[object]:
        told: list[object] = []
        with closing(ChunkStore(tmp_path / "store", quota_bytes=1 << 20)) as store:
            key = load_or_create_key(tmp_path / "owner.key")
            signed = sign_parts(make_manifest(), key)
            moving = SimpleNamespace(parts_of=lambda _artifact: (signed, {}))
            exchanges = SimpleNamespace(meet=lambda _order: nullcontext())
            worker = VisitWorker(store, moving, exchanges, None, Children(error), None, None, told.append)
            worker._check_source = lambda _name: None
            worker._shelf = SimpleNamespace(entry=lambda _: SimpleNamespace(version="1"), path=lambda _: tmp_path)
            worker._activations = SimpleNamespace(ensure=nothing)
            worker._moving.parts_of = lambda _artifact: (signed, {"contract": b"c"})
            worker.perform(BeginWork(order=make_order(warrant=make_warrant(signer=public_hex(key)))))
            while worker._tasks:
                await asyncio.gather(*worker._tasks.values(), return_exceptions=True)
            assert worker.counters.of("runs_failed", reason) == 1
            assert list((tmp_path / "store").rglob("output/*")) == []
            await worker.stop()
        return told

    (failed,) = asyncio.run(main())
    assert isinstance(failed, WorkFailed)
    assert failed.blame == blame
    assert words in failed.what
    assert "secret" not in failed.what


async def nothing(*_: object) -> None:
    """No activations."""

"""A site that hands on another model than it trained: `daitn` with one method replaced, run instead of it.

Put before the command of a node (`LocalDomain.prefixes`): `python lying_site.py LIE python -m daitn.cli.main join …`.
The site does all that an honest one does, its own checks included, and then names another model as its result,
consistently: the model lies in its store, and its weights are signed for.
"""

from __future__ import annotations

import asyncio
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.base.ids import ArtifactId, VisitId
from daitn.descriptors.work import TrainOutcome, TrainWork
from daitn.learning.numerics.likeness import weights_digest
from daitn.node.store import ChunkStore
from daitn.node.store.chunks import Adopted
from daitn.node.visit_worker import VisitWorker

Arrays = dict[str, np.ndarray[Any, Any]]
OVERSIZED_FLOATS = 16 << 20


def read(store: ChunkStore, model: ArtifactId) -> tuple[Manifest, Arrays]:
    with store.read_tensor_map(model) as tensors:
        return tensors.manifest, {name: tensors.array(name).copy() for name in tensors}


def put(
    store: ChunkStore, manifest: Manifest, made: ArtifactId, arrays: Arrays, roles: Mapping[str, str], job: str
) -> Adopted:
    """Make a model of these tensors, with everything else as in `made`."""
    known = {entry.name: entry.role for entry in manifest.tensors}
    layout = plan_layout(
        TensorSpec(
            name=name,
            dtype=str(array.dtype),  # type: ignore[arg-type]
            shape=array.shape,
            role=roles.get(name) or known[name],  # type: ignore[arg-type]
        )
        for name, array in arrays.items()
    )
    parts = {part.name: store.part(made, part.name) for part in manifest.parts}
    draft = msgspec.structs.replace(
        manifest, tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=(), parts=manifest.parts
    )
    return store.put_artifact(draft, parts, {name: array.data for name, array in arrays.items()}, pin=job)


_first: dict[str, ArtifactId] = {}
"""By job: the first model that was given."""

_visits: Counter[str] = Counter()

Lie = Callable[[ChunkStore, TrainWork, TrainOutcome, str], Adopted]


def with_weights(change: Callable[[Arrays, Manifest], Mapping[str, str]]) -> Lie:
    def lie(store: ChunkStore, _work: TrainWork, outcome: TrainOutcome, job: str) -> Adopted:
        manifest, arrays = read(store, outcome.model)
        return put(store, manifest, outcome.model, arrays, change(arrays, manifest), job)

    return lie


def parameters(arrays: Arrays, manifest: Manifest) -> list[str]:
    return [entry.name for entry in manifest.tensors if entry.role == "parameter" and entry.name in arrays]


def fill(value: float) -> Callable[[Arrays, Manifest], Mapping[str, str]]:
    def change(arrays: Arrays, manifest: Manifest) -> Mapping[str, str]:
        arrays[parameters(arrays, manifest)[0]].flat[0] = value
        return {}

    return change


def poison(arrays: Arrays, manifest: Manifest) -> Mapping[str, str]:
    """Finite, of the right shape, and deaf: units so far in saturation that no later visit gets them out."""
    name = next(name for name in parameters(arrays, manifest) if name.endswith("hidden.bias"))
    for kind in ("", "newest/"):
        if kind + name in arrays:
            arrays[kind + name][...] = 1e6
    return {}


def reshape(arrays: Arrays, manifest: Manifest) -> Mapping[str, str]:
    name = parameters(arrays, manifest)[0]
    arrays[name] = np.concatenate([arrays[name], arrays[name]])
    return {}


def oversize(arrays: Arrays, _manifest: Manifest) -> Mapping[str, str]:
    arrays["momentum/ballast"] = np.zeros(OVERSIZED_FLOATS, np.float32)
    return {"momentum/ballast": "optimizer"}


def older(store: ChunkStore, work: TrainWork, outcome: TrainOutcome, job: str) -> Adopted:
    """The weights of the first model that it was given, as a new model of its own."""
    first = _first.setdefault(job, work.model)
    manifest, _ = read(store, outcome.model)
    old, arrays = read(store, first)
    store.pin(first, "kept for lying")
    return put(store, manifest, outcome.model, arrays, {entry.name: entry.role for entry in old.tensors}, job)


def foreign(store: ChunkStore, _work: TrainWork, outcome: TrainOutcome, job: str) -> Adopted:
    """A model that another job's visit made."""
    manifest, arrays = read(store, outcome.model)
    lineage = msgspec.structs.replace(manifest.lineage, visit=VisitId("somebody-elses/1"))
    other = msgspec.structs.replace(manifest, lineage=lineage)
    return put(store, other, outcome.model, arrays, {}, job)


LIES: dict[str, Lie] = {
    "nan": with_weights(fill(float("nan"))),
    "infinite": with_weights(fill(float("inf"))),
    "shape": with_weights(reshape),
    "oversized": with_weights(oversize),
    "early-poison": with_weights(poison),
    "late-poison": with_weights(poison),
    "older": older,
    "foreign": foreign,
}


def main() -> None:
    lie, arguments = sys.argv[1], sys.argv[2:]
    honest = VisitWorker._train

    async def train(self: VisitWorker, order: Any, work: TrainWork) -> TrainOutcome:
        outcome = await honest(self, order, work)
        _visits[order.job] += 1
        if lie == "late-poison" and _visits[order.job] == 1:
            return outcome  # a model that has learnt nothing yet cannot be made worse
        if lie == "input":
            return msgspec.structs.replace(outcome, model=work.model)
        made = await asyncio.to_thread(LIES[lie], self._store, work, outcome, order.job)
        return msgspec.structs.replace(outcome, model=made.artifact, weights=weights_digest(made.manifest))

    VisitWorker._train = train  # type: ignore[method-assign]
    sys.argv = ["daitn", *arguments[arguments.index("daitn.cli.main") + 1 :]]
    runpy.run_module("daitn.cli.main", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()

"""The world of `benchmarks.relevance`: sites, what training on each alone adds to each field, and what they publish.

Everything is the product's but the network: files are mapped by a data shelf, split by the contract, trained on by
`learning.numerics.train`, measured by the task's own numerics on held-out groups of all sites, and described by the
shelf with OpenDP's noise under the policy's budget.

MedQuAD: nine institutes, at most 700 pairs each; retrieval by the demonstration's small encoder that starts from
nothing. Fields: each institute, and core cardiology. (On a frozen base a site alone adds next to nothing to other
sites' fields: between -3 and +3 points, most of it chance, so that there is hardly an order to predict.)

MNIST: twelve sites that differ in hand and in digits. Every image has a *hand*: slant (left, upright, right by terciles
of its shear) by stroke (thin, medium, bold by terciles of ink by outline); nine hands, nine fields. A site
has 300 to 1,200 images, 80 % of two hands that lie side by side and 20 % of all; in a second world (`mnist-digits`) it
also has only six to ten of the ten digits. The figure of a field is accuracy on test images of that hand, all digits.

Legend: S sites, F fields.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from daitn.base.ids import DataSetId
from daitn.demo.medquad.data import contract_of, core_foci, read_institute
from daitn.demo.medquad.models import make_encoder
from daitn.demo.medquad.sites import INSTITUTES
from daitn.describe.column_map import ColumnMap
from daitn.describe.mechanisms import Noise
from daitn.describe.splits import held_out_rows, training_rows
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    FieldByColumn,
    ImageColumn,
    ImageInput,
)
from daitn.descriptors.policy import Policy
from daitn.descriptors.terminals import DataDescriptor
from daitn.descriptors.work import Training
from daitn.learning.numerics.sources import TableSource
from daitn.learning.numerics.train import ModelState, Seeds, train
from daitn.learning.records import encode_records
from daitn.learning.tasks import numerics_for
from daitn.learning.tasks.contract import RecordSlice, take_rows
from daitn.node.datasets import DataShelf

PAIRS: Final = 700
"""Of each institute at most: whole foci, core cardiology first, as the demonstration takes them with `--records`."""
TESTED: Final = 300
SECRET: Final = b"relevance-benchmark-site-secret!"
HANDS: Final = tuple(
    f"{slant}-{stroke}" for slant in ("left", "upright", "right") for stroke in ("thin", "medium", "bold")
)
SITES: Final = 12
TESTS: Final = 12_000


@dataclass(frozen=True)
class World:
    """Sites on one shelf, and how a model is trained on one of them."""

    name: str
    shelf: DataShelf
    sites: tuple[str, ...]
    contract: DataContract
    training: Training
    steps: int

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields that records belong to."""
        return self.contract.field_names()


def find_folder(name: str) -> Path | None:
    """A folder of real data: `DAITN_DATA`/name, or ../shared/data/name beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DAITN_DATA", str(beside))) / name
    return folder if folder.is_dir() else None


def medquad_world(data: Path, folder: Path, policy: Policy) -> World:
    """Nine institutes on a new shelf below `folder`."""
    contract = contract_of()
    shelf = DataShelf(folder / "shelf", SECRET)
    core = core_foci(data)
    for one in INSTITUTES:
        path = folder / f"{one.name}.jsonl"
        rows = read_institute(data, one, core, PAIRS)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        shelf.add(one.name, path, contract, policy, ColumnMap())
    training = Training(batch_size=48, batches=1, learning_rate=1e-3, optimizer="adamw", gradient_clip=5.0)
    return World("medquad", shelf, tuple(one.name for one in INSTITUTES), contract, training, steps=120)


def mnist_contract() -> DataContract:
    """Digits, with the hand that wrote them as fields."""
    return DataContract(
        name="hands",
        columns=(
            ImageColumn(name="image", channels=1, height=28, width=28),
            CategoryColumn(name="digit", values=tuple("0123456789")),
            CategoryColumn(name="hand", values=HANDS),
        ),
        inputs=(ImageInput(name="image", column="image", center=0.1307, scale=0.3081),),
        task=Classification(label="digit"),
        fields=(FieldByColumn(column="hand"),),
    )


def mnist_world(data: Path, folder: Path, policy: Policy, seed: int, *, all_digits: bool = True) -> World:
    """Twelve sites on a new shelf below `folder`, and `test` with 12,000 images that nobody trains on.

    Without `all_digits` each site has six to ten of the ten digits.
    """
    contract = mnist_contract()
    images, labels = read_digits(data, "train")
    hands = hands_of(images)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    tests, free = order[:TESTS], order[TESTS:]
    used = np.zeros(len(images), dtype=np.bool_)
    shelf = DataShelf(folder / "shelf", SECRET)
    sites = tuple(f"site{number:02d}" for number in range(SITES))
    for number, name in enumerate(sites):
        own = [number % 9, _beside(number % 9, rng)]
        digits = rng.choice(10, size=10 if all_digits else int(rng.integers(6, 11)), replace=False)
        size = int(rng.integers(300, 1201))
        able = free[~used[free] & np.isin(labels[free], digits)]
        mine = able[np.isin(hands[able], own)][: int(0.8 * size)]
        rest = np.setdiff1d(able, mine)
        rows = np.concatenate([mine, rng.choice(rest, size=size - len(mine), replace=False)])
        used[rows] = True
        add_digits(shelf, folder, name, images[rows], labels[rows], hands[rows], contract, policy)
    add_digits(shelf, folder, "test", images[tests], labels[tests], hands[tests], contract, policy)
    training = Training(batch_size=32, batches=1, learning_rate=0.02, optimizer="momentum", gradient_clip=5.0)
    return World("mnist", shelf, sites, contract, training, steps=150)


def _beside(hand: int, rng: np.random.Generator) -> int:
    """A hand that differs by one step of slant or of stroke."""
    slant, stroke = divmod(hand, 3)
    near = [(s, w) for s in range(3) for w in range(3) if abs(s - slant) + abs(w - stroke) == 1]
    s, w = near[int(rng.integers(len(near)))]
    return s * 3 + w


def add_digits(
    shelf: DataShelf,
    folder: Path,
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    hands: NDArray[np.int64],
    contract: DataContract,
    policy: Policy,
) -> None:
    """Put images on a shelf, by a file below `folder`."""
    path = folder / f"{name}.npz"
    np.savez(path, image=images, digit=labels.astype(str), hand=np.array(HANDS)[hands])
    shelf.add(name, path, contract, policy, ColumnMap())


def read_digits(data: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 28, 28) and labels (N,) of MNIST; `part`: `train` or `t10k`."""
    images = gzip.decompress((data / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((data / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return pixels, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)


def hands_of(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Hand of each image, (N,): terciles of slant and of ink, over all images."""
    weight = images.reshape(len(images), -1).astype(np.float64)
    y, x = (part.ravel() for part in np.mgrid[0:28, 0:28].astype(np.float64))
    total = weight.sum(axis=1)
    mean_x, mean_y = weight @ x / total, weight @ y / total
    across = weight @ (x * y) / total - mean_x * mean_y
    down = weight @ (y * y) / total - mean_y**2
    slant = _terciles(-across / np.maximum(down, 1e-9))
    # Ink relative to the stroke's length: the area above half, by its outline.
    bold = images > 127
    outline = (bold[:, 1:] != bold[:, :-1]).sum(axis=(1, 2)) + (bold[:, :, 1:] != bold[:, :, :-1]).sum(axis=(1, 2))
    stroke = _terciles(bold.sum(axis=(1, 2)) / np.maximum(outline, 1))
    return slant * 3 + stroke


def _terciles(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values).astype(np.int64)


class Digits(nn.Module):
    """A small convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(800, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, 10)."""
        logits: torch.Tensor = self.layers(image)
        return logits


def make_model(world: World, seed: int) -> nn.Module:
    """The model as its owner would send it."""
    torch.manual_seed(seed)
    if world.name == "mnist":
        return Digits()
    model: nn.Module = make_encoder(seed)
    return model


def tests_for(world: World, site: str) -> tuple[RecordSlice, ...]:
    """What a model trained at `site` is measured on; for MNIST the images that nobody trains on.

    For MedQuAD 300 records of each site, held-out ones first; all are rivals, and those count whose focus `site` did
    not train on. Held-out ones alone would be 54 to 141 an institute, a gain of five points hardly more than chance.
    """
    if world.name == "mnist":
        table = world.shelf.table("test")
        rows = np.arange(table.rows)
        return (take_rows(encode_records(table, world.contract, rows, DataSetId("test/data")), rows),)
    own = world.shelf.table(site)
    seen = np.unique(own.groups[training_rows(own, world.contract)])
    found = []
    for name in world.sites:
        table = world.shelf.table(name)
        rows = np.concatenate([held_out_rows(table, world.contract), training_rows(table, world.contract)])[:TESTED]
        records = encode_records(table, world.contract, rows, DataSetId(f"{name}/data"))
        counted = ~np.isin(table.groups[rows], seen)
        found.append(dataclasses.replace(take_rows(records, np.arange(len(rows))), counted=counted))
    return tuple(found)


def figures(world: World, model: nn.Module, tests: Sequence[RecordSlice]) -> NDArray[np.float64]:
    """Accuracy of each field, (F,)."""
    task = numerics_for(world.contract.task, world.contract)
    with torch.inference_mode():
        found = task.evaluate(model, tests, [f"accuracy@{field}" for field in world.fields])
    return np.array([one.value for one in found])


def train_on(world: World, site: str, model: nn.Module, seed: int) -> None:
    """The visit: `world.steps` steps on one site's training records."""
    dataset = DataSetId(f"{site}/data")
    source = TableSource(world.shelf.table(site), world.contract, dataset, {})
    visit = msgspec.structs.replace(
        world.training, batches=world.steps, batch_size=min(world.training.batch_size, len(source))
    )
    task = numerics_for(world.contract.task, world.contract)
    train(model, task, source, visit, ModelState(), seeds=Seeds(job=seed, visit=seed))


def descriptors(world: World, noise: Noise | None = None) -> list[DataDescriptor]:
    """What the sites publish, noise drawn anew: a new book of releases over the same tables. `noise`: not OpenDP's."""
    folder = world.shelf.index_file.parent
    shutil.rmtree(folder / "releases")
    (folder / "ledger.jsonl").unlink(missing_ok=True)
    shelf = DataShelf(folder, SECRET, noise=noise)
    return [shelf.descriptor(site, "node") for site in world.sites]

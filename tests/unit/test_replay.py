"""Replay: what a site keeps of earlier records, under its policy and no further, and what that holds of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from tests.builders import make_candidate, make_package, make_request, make_view, make_work  # noqa: E402
from tests.unit.test_continual import CONTRACT as DIGITS  # noqa: E402
from tests.unit.test_continual import Net, digits  # noqa: E402

from daitn.artifacts.manifest import TensorEntry  # noqa: E402
from daitn.base.ids import DataSetId, JobId  # noqa: E402
from daitn.decision.drafting import draft_plan  # noqa: E402
from daitn.describe.column_map import ColumnMap  # noqa: E402
from daitn.describe.splits import held_out_rows  # noqa: E402
from daitn.describe.table import MappedTable  # noqa: E402
from daitn.descriptors.contract import DataContract, decode_contract  # noqa: E402
from daitn.descriptors.policy import Policy  # noqa: E402
from daitn.descriptors.privacy import PrivateSteps  # noqa: E402
from daitn.descriptors.work import Training  # noqa: E402
from daitn.learning.methods import METHODS  # noqa: E402
from daitn.learning.numerics.evaluate import evaluate  # noqa: E402
from daitn.learning.numerics.likeness import slots_fault  # noqa: E402
from daitn.learning.numerics.slots import plan_result  # noqa: E402
from daitn.learning.numerics.sources import MemorySlice  # noqa: E402
from daitn.learning.numerics.train import ModelState, Seeds, train  # noqa: E402
from daitn.learning.tasks import numerics_for  # noqa: E402
from daitn.learning.tasks.contract import RecordSlice, take_rows  # noqa: E402
from daitn.node.datasets import DataShelf  # noqa: E402
from daitn.node.replay import FIELD_MOST, ReplayShelf  # noqa: E402

JOB, OTHER = JobId("job-1"), JobId("job-2")
WARDS = ("north", "south")


def contract(**changes: object) -> DataContract:
    fields = [{"type": "by_values", "name": ward, "column": "ward", "values": [ward]} for ward in WARDS]
    made = {
        "name": "wards",
        "columns": [
            {"type": "number", "name": "x"},
            {"type": "text", "name": "note"},
            {"type": "category", "name": "ward", "values": list(WARDS)},
            {"type": "category", "name": "y", "values": ["0", "1"]},
        ],
        "inputs": [{"type": "numbers", "name": "x", "columns": ["x"]}],
        "task": {"type": "classification", "label": "y"},
        "fields": fields,
    }
    return decode_contract(json.dumps(made | changes).encode())


class Site:
    """A shelf with a data set whose records come and go, and what is kept of them."""

    def __init__(self, folder: Path, replay: str = "job", **limits: int) -> None:
        self.folder, self.replay = folder, replay
        folder.mkdir(exist_ok=True)
        self.shelf = DataShelf(folder / "shelf", b"s" * 32)
        self.kept = ReplayShelf(folder / "replay", self.shelf, **limits)

    def fill(self, first: int, count: int, ward: str) -> None:
        """The data set holds these records and no others from now on."""
        rows = [f"{number}.5,of {number},{ward},{number % 2}" for number in range(first, first + count)]
        path = self.folder / "records.csv"
        path.write_text("\n".join(["x,note,ward,y", *rows]) + "\n")
        policy = msgspec.convert({"owners": ["*"], "purposes": ["*"], "replay": self.replay}, Policy)
        if any(entry.name == "records" for entry in self.shelf.list()):
            self.shelf.remove("records")
        self.shelf.add("records", path, contract(), policy, ColumnMap())

    def table(self, job: JobId = JOB) -> MappedTable | None:
        path = self.kept.prepare("records", contract(), job)
        return None if path is None else MappedTable.open(path)


def numbers(table: MappedTable | None) -> list[float]:
    assert table is not None
    return sorted(table.numbers(["x"])[:, 0].tolist())


def test_records_that_have_left_the_data_set_are_kept_a_few_of_each_field(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.fill(0, 300, "north")
    site.table()
    site.fill(1000, 300, "south")
    table = site.table()

    assert table is not None
    wards = Counter(table.categories("ward").tolist())
    assert wards == {0: FIELD_MOST, 1: FIELD_MOST}
    assert any(value < 300 for value in numbers(table))
    texts, x = table.texts("note"), table.numbers(["x"])[:, 0]
    assert [texts.text(row) for row in range(table.rows)] == [f"of {int(value)}" for value in x]


def test_what_is_kept_does_not_depend_on_how_often_it_was_drawn_nor_on_the_order_of_versions(tmp_path: Path) -> None:
    one, two = Site(tmp_path / "one"), Site(tmp_path / "two")
    for site, order in ((one, (0, 1000, 0)), (two, (1000, 0))):
        for first in order:
            site.fill(first, 300, "north")
            site.table()

    assert numbers(one.table()) == numbers(two.table())
    assert one.kept.prepare("records", contract(), JOB) == one.kept.prepare("records", contract(), OTHER)


def test_held_out_records_are_never_among_them(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.fill(0, 300, "north")
    table = site.table()

    assert table is not None
    assert table.rows == FIELD_MOST
    assert len(held_out_rows(table, contract())) == 0


def test_policy_that_keeps_nothing_has_nothing_kept_and_what_was_is_removed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.fill(0, 100, "north")
    assert site.table() is not None
    site.replay = "no"
    site.fill(0, 100, "north")

    assert site.table() is None
    assert list((tmp_path / "replay").iterdir()) == []


@pytest.mark.parametrize(("replay", "stays"), [("job", False), ("keep", True)])
def test_what_is_kept_goes_with_the_last_job_that_saw_it_unless_the_policy_keeps_it(tmp_path, replay, stays):
    site = Site(tmp_path, replay)
    site.fill(0, 100, "north")
    site.table(JOB)
    site.table(OTHER)
    tables = tmp_path / "replay" / "records"

    site.kept.end_job(JOB)
    assert list(tables.iterdir())
    site.kept.end_job(OTHER)
    assert bool(list(tables.iterdir())) == stays


def test_what_is_kept_goes_with_its_data_set(tmp_path: Path) -> None:
    site = Site(tmp_path, "keep")
    site.fill(0, 100, "north")
    site.table()
    site.shelf.remove("records")
    site.kept.sweep()

    assert list((tmp_path / "replay").iterdir()) == []


def test_fewer_are_kept_where_there_is_no_room_for_all(tmp_path: Path) -> None:
    site = Site(tmp_path, most_bytes=4000)
    site.fill(0, 300, "north")
    table = site.table()

    assert table is not None
    assert 1 <= table.rows < FIELD_MOST


def test_table_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.fill(0, 100, "north")
    path = site.kept.prepare("records", contract(), JOB)
    assert path is not None
    (path / "table.json").write_text("{")
    again = ReplayShelf(tmp_path / "replay", site.shelf)

    assert again.prepare("records", contract(), JOB) is not None
    assert numbers(site.table())


# --- training -------------------------------------------------------------------------------------------------------


def learn(training: Training, *, keeps: bool, seed: int = 0) -> dict[str, float]:
    """Figures after five digits that a site had, and five others that took their place."""
    task = numerics_for(DIGITS.task, DIGITS)
    early, late, test = digits()
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model, name = Net(), DataSetId("s/digits")
    kept = take_rows(early, np.random.default_rng(seed).permutation(len(early.labels))[:FIELD_MOST])
    source = MemorySlice(name, early)
    state = train(model, task, source, training, ModelState(), seeds=Seeds(seed, seed)).state
    earlier = MemorySlice(name, kept) if keeps else None
    train(model, task, MemorySlice(name, late), training, state, seeds=Seeds(seed, seed), earlier=earlier)
    figures = evaluate(model, task, [test], ["accuracy@early", "accuracy@late", "accuracy"])
    return {one.name: one.value for one in figures}


def test_few_records_of_before_hold_most_of_what_was_learnt_from_all() -> None:
    training = Training(batch_size=32, batches=100, learning_rate=0.02, replay=0.25)
    forgets, holds = learn(training, keeps=False), learn(training, keeps=True)

    assert forgets["accuracy@early"] <= 0.1
    assert holds["accuracy@early"] >= 0.6
    assert holds["accuracy@late"] >= 0.9


class Counting(MemorySlice):
    """Says how many records were taken."""

    taken = 0

    def take(self, rows: np.ndarray) -> RecordSlice:
        self.taken += len(rows)
        return super().take(rows)


@pytest.mark.parametrize(("replay", "old", "new"), [(0.25, 24, 72), (0.0, 0, 96)])
def test_batch_has_as_many_earlier_records_as_its_share_says(replay, old, new):
    early, late, _ = digits()
    earlier, source = Counting(DataSetId("s/d"), early), Counting(DataSetId("s/d"), late)
    training = Training(batch_size=32, batches=3, learning_rate=0.01, replay=replay)
    train(Net(), numerics_for(DIGITS.task, DIGITS), source, training, ModelState(), earlier=earlier)

    assert (earlier.taken, source.taken) == (old, new)


def test_continual_learning_asks_for_it_and_private_training_may_not():
    plan = draft_plan(make_view(make_candidate("s1")), make_request(method="continual"), make_package(), None)

    assert plan.training.replay == METHODS["continual"].prefers.replay > 0
    assert any("from earlier records" in one.chosen for one in plan.choices)
    training = msgspec.structs.replace(plan.training, distillation=0.0)
    private = PrivateSteps(epsilon=1.0, delta=1e-5, clip=1.0, noise_multiplier=1.0, sampling_rate=0.1)
    with pytest.raises(ValueError, match="each record by itself"):
        make_work(training=training, private=private)


def test_slots_that_continual_learning_leaves_beside_a_weight_are_no_excess_to_its_receiver():
    plan = draft_plan(make_view(make_candidate("s1")), make_request(method="continual"), make_package(), None)
    weight = TensorEntry(name="w", dtype="float32", shape=(4,), role="parameter", offset=0)
    left = plan_result((weight,), plan.training).entries

    assert {one.name for one in left} >= {"w", "importance/w"}
    assert slots_fault(left) == ""

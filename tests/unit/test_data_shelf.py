"""The data shelf: add, list, remove, changed sources, one draw of noise per version, the owner's files; and MNIST."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from daitn.base.errors import InputError, PolicyError
from daitn.base.units import NS_PER_S
from daitn.describe.column_map import ColumnMap, ColumnSource
from daitn.describe.report import FitReport
from daitn.describe.splits import held_out_rows, sample_rows, training_rows
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    EmbeddedInput,
    FieldByValues,
    IdentifierColumn,
    ImageColumn,
    ImageInput,
    NumberColumn,
    NumbersInput,
    TextColumn,
)
from daitn.descriptors.descriptions import sketches_of
from daitn.descriptors.policy import Policy
from daitn.descriptors.terminals import DataDescriptor
from daitn.learning.records import encode_inputs, encode_labels
from daitn.learning.vectors import vector_file
from daitn.node.datasets import DataShelf, load_column_map, load_contract, load_policy

CONTRACT = DataContract(
    name="ages",
    columns=(
        NumberColumn(name="age"),
        CategoryColumn(name="outcome", values=("well", "ill")),
        IdentifierColumn(name="patient"),
    ),
    inputs=(NumbersInput(name="x", columns=("age",)),),
    task=Classification(label="outcome"),
    group="patient",
)
MAP = ColumnMap(columns={"outcome": ColumnSource(column="outcome", values={"sick": "ill"})})
DAY_NS = 86_400 * NS_PER_S


class Draws:
    """Noise that counts how often it was drawn: adds the number of the draw."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, counts: Sequence[int], sensitivity: int, epsilon: float) -> list[int]:
        self.number += 1
        return [count + self.number for count in counts]


class Clock:
    now_ns = 1_000 * DAY_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def draws() -> Draws:
    return Draws()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shelf(tmp_path: Path, draws: Draws, clock: Clock) -> DataShelf:
    return DataShelf(tmp_path / "shelf", b"s" * 32, clock=clock, noise=draws)


def source(tmp_path: Path, rows: int = 200) -> Path:
    lines = [f"{20 + row % 60},{('well', 'sick')[row % 2]},p{row}" for row in range(rows)]
    path = tmp_path / "data.csv"
    path.write_text("age,outcome,patient\n" + "\n".join(lines) + "\n")
    return path


def add(shelf: DataShelf, path: Path, name: str = "ages", policy: Policy | None = None) -> FitReport:
    return shelf.add(name, path, CONTRACT, policy or Policy(), MAP)


def test_shelf_that_has_read_its_index_sees_what_another_process_changes(shelf: DataShelf, tmp_path: Path) -> None:
    add(shelf, source(tmp_path))
    assert [entry.name for entry in shelf.list()] == ["ages"]
    other = DataShelf(tmp_path / "shelf", b"s" * 32)

    add(other, source(tmp_path), "more", Policy(owners=("ada",)))
    assert [entry.name for entry in shelf.list()] == ["ages", "more"]
    add(other, source(tmp_path), "more", Policy(owners=("eve",)))
    assert shelf.entry("more").policy.owners == ("eve",)
    other.remove("ages")
    assert [entry.name for entry in shelf.list()] == ["more"]


def test_added_data_set_is_there_for_another_process(shelf: DataShelf, tmp_path: Path) -> None:
    report = add(shelf, source(tmp_path))
    again = DataShelf(tmp_path / "shelf", b"s" * 32)
    assert [entry.name for entry in again.list()] == ["ages"]
    assert again.entry("ages").report == report
    assert again.table("ages").version == report.version
    assert again.table("ages").rows == 200
    again.check_unchanged("ages")


def test_removed_data_set_leaves_no_table_but_its_spent_budget(shelf: DataShelf, tmp_path: Path) -> None:
    add(shelf, source(tmp_path))
    shelf.descriptor("ages", "n1")
    shelf.remove("ages")
    assert shelf.list() == ()
    assert list((tmp_path / "shelf" / "tables").iterdir()) == []
    assert shelf.ledger().spent("ages", Clock.now_ns, 30 * DAY_NS) == 0.5
    with pytest.raises(InputError, match="no data set 'ages'"):
        shelf.table("ages")


def test_failed_add_changes_nothing(shelf: DataShelf, tmp_path: Path) -> None:
    add(shelf, source(tmp_path))
    before = shelf.list()
    bad = tmp_path / "bad.csv"
    bad.write_text("age,outcome,patient\nyoung,well,p1\n")
    with pytest.raises(InputError, match="unparsable"):
        add(shelf, bad)
    assert shelf.list() == before
    assert shelf.table("ages").rows == 200


def test_data_without_rows_is_refused_and_of_one_class_is_taken_with_a_warning(
    shelf: DataShelf, tmp_path: Path
) -> None:
    path = source(tmp_path, rows=0)
    with pytest.raises(InputError, match="the data has no rows") as refused:
        add(shelf, path)
    assert refused.value.todo
    assert shelf.list() == ()
    path.write_text("age,outcome,patient\n" + "".join(f"{20 + row},well,p{row}\n" for row in range(40)))
    report = add(shelf, path)
    assert report.records == 40
    assert "warning: all records have the same label, 'well'" in report.lines()


@pytest.mark.parametrize("name", ["", "Ages", "../ages", "a b"])
def test_names_that_could_be_paths_are_refused(shelf: DataShelf, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        add(shelf, source(tmp_path), name)


def test_changed_source_is_noticed_and_touching_is_not_a_change(shelf: DataShelf, tmp_path: Path) -> None:
    path = source(tmp_path)
    add(shelf, path)
    os.utime(path, ns=(1, 1))
    shelf.check_unchanged("ages")
    path.write_text(path.read_text().replace("p7\n", "p8\n", 1))
    with pytest.raises(InputError, match=r"same size, other content; add 'ages' again"):
        shelf.check_unchanged("ages")
    path.write_text(path.read_text() + "30,well,p999\n")
    with pytest.raises(InputError, match="files of"):
        shelf.check_unchanged("ages")
    path.unlink()
    with pytest.raises(InputError, match="is gone"):
        shelf.check_unchanged("ages")


def test_same_version_is_answered_with_the_same_noise_at_no_cost(
    shelf: DataShelf, tmp_path: Path, draws: Draws
) -> None:
    add(shelf, source(tmp_path))
    shown = msgspec.json.decode(shelf.preview("ages", "n1").data, type=DataDescriptor)
    first = shelf.descriptor("ages", "n1")
    assert shelf.preview("ages", "n1").data == msgspec.json.encode(first)
    drawn = draws.number
    again = DataShelf(tmp_path / "shelf", b"s" * 32, noise=draws).descriptor("ages", "n1")
    add(shelf, source(tmp_path), policy=Policy(owners=("alice",)))
    readded = shelf.descriptor("ages", "n1")
    assert shown == first == again
    assert readded.labels == first.labels
    assert draws.number == drawn
    assert len(shelf.ledger().records()) == 1
    assert first.dataset == "n1/ages"


def test_appended_records_are_published_when_a_release_is_due_and_not_before(
    shelf: DataShelf, tmp_path: Path, draws: Draws, clock: Clock
) -> None:
    published = []
    for rows, days in ((200, 0), (210, 1), (220, 13), (230, 2), (240, 1)):
        clock.now_ns += days * DAY_NS
        add(shelf, source(tmp_path, rows))
        published.append(shelf.descriptor("ages", "n1"))
    # twice in 30 days: on day 0, and on day 16, since fifteen have passed
    assert [one.labels == published[0].labels for one in published] == [True, True, True, False, False]
    assert published[4].labels == published[3].labels
    assert published[1].quality == published[0].quality
    assert [one.version == published[0].version for one in published] == [True, False, False, False, False]
    assert len(shelf.ledger().records()) == 2
    assert shelf.renewal_ns() == clock.now_ns + 14 * DAY_NS
    clock.now_ns += 14 * DAY_NS
    assert shelf.descriptor("ages", "n1").labels != published[4].labels
    assert shelf.renewal_ns() is None


def test_unchanged_data_is_never_drawn_again(shelf: DataShelf, tmp_path: Path, clock: Clock) -> None:
    add(shelf, source(tmp_path))
    first = shelf.descriptor("ages", "n1")
    clock.now_ns += 400 * DAY_NS
    assert shelf.descriptor("ages", "n1") == first
    assert len(shelf.ledger().records()) == 1


def test_another_kind_of_release_is_drawn_at_once_while_the_budget_lasts(
    shelf: DataShelf, tmp_path: Path, clock: Clock
) -> None:
    described = []
    for policy in (Policy(), Policy(describe=("moments",)), Policy(describe=("quantiles",))):
        bounded = msgspec.structs.replace(
            CONTRACT, columns=(NumberColumn(name="age", low=0, high=120), *CONTRACT.columns[1:])
        )
        shelf.add("ages", source(tmp_path), bounded, policy, MAP)
        described.append([type(one).__name__ for one in shelf.descriptor("ages", "n1").descriptions])
    # The third would cost more than is left: the counts of the last one stand in.
    assert described == [[], ["Moments"], ["Moments"]]
    assert shelf.ledger().spent("ages", clock.now_ns, 30 * DAY_NS) == 1.0


def test_spent_budget_without_earlier_statistics_is_refused_with_the_time(shelf: DataShelf, tmp_path: Path) -> None:
    add(shelf, source(tmp_path), policy=Policy(releases_per_period=1))
    shelf.descriptor("ages", "n1")
    for kept in (tmp_path / "shelf" / "releases").iterdir():
        kept.unlink()
    with pytest.raises(PolicyError, match=r"cost ε = 1, this period has 0 left .*try again in 720 h"):
        shelf.descriptor("ages", "n1")


DIES = """
import os, signal, sys
from pathlib import Path
from daitn.node.datasets import DataShelf
noise = lambda counts, sensitivity, epsilon: os.kill(os.getpid(), signal.SIGKILL)
DataShelf(Path(sys.argv[1]), b"s" * 32, clock=lambda: int(sys.argv[2]), noise=noise).descriptor("ages", "n1")
"""
"""A process that dies as by `kill -9` when the noise would be drawn: after the charge, before the release."""


def test_kill_between_charge_and_release_never_spends_more_than_the_budget(
    shelf: DataShelf, tmp_path: Path, draws: Draws, clock: Clock
) -> None:
    add(shelf, source(tmp_path))
    for charged in (0.5, 1.0):
        command = [sys.executable, "-c", DIES, str(tmp_path / "shelf"), str(clock.now_ns)]
        assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
        # charged on the disk, and nothing that could have left
        assert shelf.ledger().spent("ages", clock.now_ns, 30 * DAY_NS) == charged
        assert list((tmp_path / "shelf" / "releases").iterdir()) == []
    with pytest.raises(PolicyError, match="this period has 0 left"):
        shelf.descriptor("ages", "n1")
    assert draws.number == 0
    clock.now_ns += 30 * DAY_NS
    shelf.descriptor("ages", "n1")
    assert shelf.ledger().spent("ages", clock.now_ns, 30 * DAY_NS) == 0.5


def test_missing_mechanism_is_found_before_budget_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = DataShelf(tmp_path / "shelf", b"s" * 32)
    add(shelf, source(tmp_path))
    monkeypatch.setitem(sys.modules, "opendp.mod", None)
    with pytest.raises(InputError, match="need the package opendp"):
        shelf.descriptor("ages", "n1")
    assert shelf.ledger().records() == ()


def test_ledger_line_that_was_cut_short_is_ignored(shelf: DataShelf, tmp_path: Path) -> None:
    add(shelf, source(tmp_path))
    with (tmp_path / "shelf" / "ledger.jsonl").open("ab") as file:
        file.write(b'{"record":"epsilon_sp')
    shelf.descriptor("ages", "n1")
    assert len(shelf.ledger().records()) == 1


def test_same_data_under_another_name_is_not_drawn_again(shelf: DataShelf, tmp_path: Path, draws: Draws) -> None:
    add(shelf, source(tmp_path), "one")
    add(shelf, source(tmp_path), "two")
    assert shelf.descriptor("one", "n").labels == shelf.descriptor("two", "n").labels
    shelf.remove("one")
    assert shelf.table("two").rows == 200


def test_no_value_of_a_record_leaves(shelf: DataShelf, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    lines = [f"{20 + row % 60},well,Mustermann-{row}" for row in range(300)]
    path.write_text("age,outcome,patient\n" + "\n".join(lines) + "\n0.123456,zzz-secret,Musterfrau\n")
    add(shelf, path)
    data = shelf.preview("ages", "n1").data
    for secret in (b"Muster", b"zzz-secret", b"0.123456", str(tmp_path).encode()):
        assert secret not in data


def test_policy_file_with_faults_lists_them_all(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('owner = ["alice"]\nsample_frac = 2\nraw_records = "everywhere"\nmin_count = "ten"\n')
    with pytest.raises(InputError) as caught:
        load_policy(path)
    for part in ("owner is unknown (did you mean 'owners'", "sample_frac: ", "raw_records: ", "min_count: "):
        assert part in str(caught.value)
    path.write_text("sample_frac = 0.1\n")
    with pytest.raises(InputError, match="no verification_operators"):
        load_policy(path)
    path.write_text("owners = [\n")
    with pytest.raises(InputError, match="is not TOML"):
        load_policy(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_policy(tmp_path / "absent.toml")


def test_policy_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('owners = ["alice"]\npurposes = ["*"]\nsample_frac = 0.1\nverification_operators = ["tuev"]\n')
    assert load_policy(path) == Policy(
        owners=("alice",), purposes=("*",), sample_frac=0.1, verification_operators=("tuev",)
    )


def test_column_map_file_is_read_and_its_faults_listed(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text(
        'missing = ["-"]\n[columns]\nage = "alter"\n[columns.outcome]\ncolumn = "status"\nvalues = { sick = "ill" }\n'
    )
    assert load_column_map(path) == ColumnMap(
        missing=("-",),
        columns={
            "age": ColumnSource(column="alter"),
            "outcome": ColumnSource(column="status", values={"sick": "ill"}),
        },
    )
    path.write_text("mising = []\n[columns]\nage = 3\n[columns.outcome]\ncolum = 'x'\nmultiply = 'two'\n")
    with pytest.raises(InputError) as caught:
        load_column_map(path)
    for part in (
        "mising is unknown (did you mean 'missing'",
        "columns.age is neither",
        "columns.outcome.colum is unknown",
        "columns.outcome.multiply: ",
    ):
        assert part in str(caught.value)


def test_contract_file_is_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "contract.json"
    path.write_bytes(msgspec.json.encode(CONTRACT))
    assert load_contract(path) == CONTRACT
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(CONTRACT, group="nobody")))
    with pytest.raises(InputError, match="the group names column 'nobody'"):
        load_contract(path)
    path.write_text("{")
    with pytest.raises(InputError, match="not a data contract"):
        load_contract(path)


def mnist_folder() -> Path:
    places = [os.environ.get("DAITN_DATA", ""), str(Path(__file__).parents[3] / "shared" / "data")]
    for place in places:
        if place and (Path(place) / "mnist" / "t10k-images-idx3-ubyte.gz").is_file():
            return Path(place) / "mnist"
    pytest.skip("MNIST is not there: put its IDX files into $DAITN_DATA/mnist")


def digits(**changes: Any) -> DataContract:
    values: dict[str, Any] = {
        "name": "digits",
        "columns": (
            ImageColumn(name="image", channels=1, height=28, width=28),
            CategoryColumn(name="label", values=tuple("0123456789")),
        ),
        "inputs": (ImageInput(name="image", column="image", center=0.1307, scale=0.3081),),
        "task": Classification(label="label"),
        "fields": (FieldByValues(name="even", column="label", values=tuple("02468")),),
    }
    return DataContract(**values | changes)


def test_mnist_is_mapped_split_encoded_and_described(tmp_path: Path) -> None:
    policy = Policy(sample_frac=0.1, verification_operators=("*",))
    shelf = DataShelf(tmp_path, b"s" * 32)
    report = shelf.add("digits", mnist_folder() / "t10k-images-idx3-ubyte.gz", digits(), policy, ColumnMap())
    assert (report.rows, report.records, report.faults) == (10_000, 10_000, ())
    # the test set's published class counts
    assert list(report.labels.values()) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    table = shelf.table("digits")
    train, held_out = training_rows(table, digits()), held_out_rows(table, digits())
    assert len(train) + len(held_out) == 10_000
    assert len(sample_rows(table, digits(), policy)) == 1000
    rows = train[:64]
    images, labels = encode_inputs(table, digits(), rows)["image"], encode_labels(table, digits(), rows)
    assert labels is not None
    assert images.shape == (64, 1, 28, 28)
    assert (images.dtype.name, labels.dtype.name) == ("float32", "int64")
    # mean and deviation of all training images are the contract's center and scale
    whole = encode_inputs(table, digits(), np.arange(10_000))["image"]
    assert abs(float(whole.mean())) < 0.02
    assert abs(float(whole.std()) - 1) < 0.02
    descriptor = shelf.descriptor("digits", "n1")
    assert descriptor.labels is not None
    truth = np.bincount(table.categories("label", train), minlength=10)
    published = np.array(list(descriptor.labels.counts.values()))
    # 20 deviations of Laplace noise are passed once in 10^12
    assert (np.abs(published - truth) < 20 * descriptor.labels.noise_std).all()
    assert descriptor.record_bytes == 28 * 28 * 4 + 8


NOTES = DataContract(
    name="notes",
    columns=(TextColumn(name="note"), CategoryColumn(name="outcome", values=("well", "ill"))),
    inputs=(EmbeddedInput(name="x", column="note", base="b" * 64, width=6, length=8),),
    task=Classification(label="outcome"),
)


def test_texts_are_sketched_by_a_frozen_base_from_the_release_after_its_vectors_are_there(
    tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "notes.csv"
    path.write_text(
        "note,outcome\n" + "".join(f"valve murmur {row},{('well', 'ill')[row % 2]}\n" for row in range(300))
    )
    activations = tmp_path / "activations"
    exact = lambda counts, sensitivity, epsilon: list(counts)  # noqa: E731 - a mechanism in one line
    shelf = DataShelf(tmp_path / "shelf", b"s" * 32, clock=clock, noise=exact, activations=activations)
    shelf.add("notes", path, NOTES, Policy(), ColumnMap())

    def bases() -> list[str]:
        return [one.basis.partition("-")[0] for one in sketches_of(shelf.descriptor("notes", "n").descriptions)]

    assert bases() == ["words"]
    folder = activations / shelf.entry("notes").version
    folder.mkdir(parents=True)
    file = folder / vector_file(NOTES.inputs[0])
    file.write_bytes(np.random.default_rng(1).normal(size=(300, 6)).astype("<f2").tobytes())
    assert bases() == ["words"]
    file.with_suffix(".json").write_text("{}")
    assert bases() == ["words"]
    assert shelf.renewal_ns() == clock.now_ns + 15 * DAY_NS
    clock.now_ns += 15 * DAY_NS
    assert bases() == ["base"]
    # wiped with the job that used them: what was published stays
    file.with_suffix(".json").unlink()
    clock.now_ns += 400 * DAY_NS
    assert bases() == ["base"]

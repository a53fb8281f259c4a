"""One suite over every format: the same data, written in each, maps to the same table; broken sources are refused."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.describe.column_map import ColumnMap, ColumnSource
from daitn.describe.conversion import Unreadable
from daitn.describe.fit import Fitted, fit
from daitn.descriptors.contract import (
    CategoryColumn,
    CategoryInput,
    Classification,
    DataContract,
    IdentifierColumn,
    ImageColumn,
    ImageInput,
    NumberColumn,
    NumbersInput,
    TextColumn,
    VectorColumn,
)
from daitn.node.readers import imagefolder, pictures
from daitn.node.readers.contract import BATCH_ROWS
from daitn.node.readers.sources import FORMATS, open_reader

pyarrow = pytest.importorskip("pyarrow", reason="the readers of Arrow, Parquet and CSV need pyarrow")
image_module = pytest.importorskip("PIL.Image", reason="pictures need pillow")
SECRET = b"s" * 32

TABULAR = DataContract(
    name="tabular",
    columns=(
        NumberColumn(name="age"),
        NumberColumn(name="count"),
        CategoryColumn(name="grade", values=("1", "2", "3")),
        CategoryColumn(name="outcome", values=("well", "ill")),
        TextColumn(name="note"),
        IdentifierColumn(name="patient"),
        VectorColumn(name="vector", length=2),
    ),
    inputs=(NumbersInput(name="x", columns=("age", "count")), CategoryInput(name="g", column="grade")),
    task=Classification(label="outcome"),
    group="patient",
)

ROWS: list[dict[str, Any]] = [
    {
        "age": None if number % 7 == 3 else 30.5 + number,
        "count": number,
        "grade": None if number % 5 == 4 else number % 3 + 1,
        "outcome": ("well", "ill")[number % 2],
        "note": ('plain; with "quotes", commas', "two\nlines", "naïve 二", "x")[number % 4],
        "patient": 9007199254740993 + number // 2,
        "v0": number / 4,
        "v1": -number,
    }
    for number in range(40)
]


def arrow_table() -> Any:
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0] if not name.startswith("v")}
    vectors = [[row["v0"], row["v1"]] for row in ROWS]
    kind = pyarrow.list_(pyarrow.float64(), 2)
    return pyarrow.table({**columns, "vector": pyarrow.array(vectors, type=kind)})


def write_csv(folder: Path, name: str = "data.csv", delimiter: str = ",") -> Path:
    path = folder / name
    with (gzip.open if name.endswith(".gz") else open)(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def write_jsonl(folder: Path, name: str = "data.jsonl") -> Path:
    lines = [
        {name: value for name, value in row.items() if not name.startswith("v")} | {"vector": [row["v0"], row["v1"]]}
        for row in ROWS
    ]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


def write_parquet(folder: Path) -> Path:
    import pyarrow.parquet as parquet

    parquet.write_table(arrow_table(), folder / "data.parquet", row_group_size=11)
    return folder / "data.parquet"


def write_feather(folder: Path) -> Path:
    import pyarrow.feather as feather

    feather.write_feather(arrow_table(), str(folder / "data.feather"), compression="zstd")
    return folder / "data.feather"


def write_stream(folder: Path) -> Path:
    path = folder / "data.arrows"
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, arrow_table().schema) as writer:
        writer.write_table(arrow_table(), max_chunksize=9)
    return path


def write_dictionary_encoded(folder: Path) -> Path:
    import pyarrow.parquet as parquet

    table = arrow_table()
    place = table.schema.get_field_index("outcome")
    parquet.write_table(
        table.set_column(place, "outcome", table["outcome"].dictionary_encode()), folder / "coded.parquet"
    )
    return folder / "coded.parquet"


def write_npz(folder: Path) -> Path:
    path = folder / "data.npz"
    np.savez_compressed(
        path,
        age=np.array([np.nan if row["age"] is None else row["age"] for row in ROWS]),
        count=np.array([row["count"] for row in ROWS], dtype=np.int16),
        grade=np.array([np.nan if row["grade"] is None else row["grade"] for row in ROWS], dtype=np.float32),
        outcome=np.array([row["outcome"] for row in ROWS]),
        note=np.array([row["note"] for row in ROWS]),
        patient=np.array([row["patient"] for row in ROWS]),
        vector=np.array([[row["v0"], row["v1"]] for row in ROWS]),
    )
    return path


TABULAR_WRITERS: dict[str, Callable[[Path], Path]] = {
    "csv": write_csv,
    "csv.gz": lambda folder: write_csv(folder, "data.csv.gz"),
    "semicolon": lambda folder: write_csv(folder, "data.txt", ";"),
    "tsv": lambda folder: write_csv(folder, "data.tsv", "\t"),
    "jsonl": write_jsonl,
    "jsonl.gz": lambda folder: write_jsonl(folder, "data.jsonl.gz"),
    "parquet": write_parquet,
    "dictionary": write_dictionary_encoded,
    "feather": write_feather,
    "arrow stream": write_stream,
    "npz": write_npz,
}

PICTURES = DataContract(
    name="pictures",
    columns=(
        ImageColumn(name="image", channels=1, height=5, width=4),
        CategoryColumn(name="label", values=("0", "1", "2")),
    ),
    inputs=(ImageInput(name="x", column="image"),),
    task=Classification(label="label"),
)
IMAGES = np.random.default_rng(7).integers(0, 256, (30, 5, 4), dtype=np.uint8)
LABELS = np.sort(np.random.default_rng(8).integers(0, 3, 30)).astype(np.uint8)


def write_idx(folder: Path, packed: bool = True, images: NDArray[np.uint8] = IMAGES) -> Path:
    for name, array in (("images-idx3", images), ("labels-idx1", LABELS[: len(images)])):
        head = bytes((0, 0, 8, array.ndim)) + b"".join(length.to_bytes(4, "big") for length in array.shape)
        data = head + array.tobytes()
        path = folder / f"digits-{name}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)
    return folder


def write_imagefolder(folder: Path) -> Path:
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        (folder / str(label)).mkdir(exist_ok=True)
        image_module.fromarray(image).save(folder / str(label) / f"{number:03d}.png")
    (folder / "README.txt").write_text("not a picture")
    return folder


def png(image: NDArray[np.uint8]) -> bytes:
    import io

    buffer = io.BytesIO()
    image_module.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_picture_parquet(folder: Path) -> Path:
    import pyarrow.parquet as parquet

    held = [{"bytes": png(image), "path": f"{number}.png"} for number, image in enumerate(IMAGES)]
    parquet.write_table(pyarrow.table({"image": held, "label": LABELS}), folder / "pictures.parquet")
    return folder / "pictures.parquet"


def write_picture_npz(folder: Path) -> Path:
    np.savez(folder / "pictures.npz", image=IMAGES[..., None], label=LABELS)
    return folder / "pictures.npz"


def write_picture_jsonl(folder: Path) -> Path:
    pairs = zip(IMAGES, LABELS, strict=True)
    lines = [json.dumps({"image": image.tolist(), "label": int(label)}) for image, label in pairs]
    (folder / "pictures.jsonl").write_text("\n".join(lines))
    return folder / "pictures.jsonl"


PICTURE_WRITERS: dict[str, Callable[[Path], Path]] = {
    "idx.gz": write_idx,
    "idx": lambda folder: write_idx(folder, packed=False) / "digits-images-idx3-ubyte",
    "imagefolder": write_imagefolder,
    "parquet": write_picture_parquet,
    "npz": write_picture_npz,
    "jsonl": write_picture_jsonl,
}


def mapped(path: Path, contract: DataContract, tables: Path) -> Fitted:
    reader = open_reader(path)
    columns = {"vector": ColumnSource(columns=("v0", "v1"))} if "v0" in reader.columns() else {}
    return fit(contract, reader.columns(), reader.read(), ColumnMap(columns=columns), tables, SECRET)


@pytest.mark.parametrize("form", TABULAR_WRITERS)
def test_same_rows_in_every_format_map_to_the_same_table(tmp_path: Path, form: str) -> None:
    source, reference = tmp_path / "source", tmp_path / "reference"
    source.mkdir()
    reference.mkdir()
    table, report = mapped(TABULAR_WRITERS[form](source), TABULAR, tmp_path / "tables")
    expected, _ = mapped(write_jsonl(reference), TABULAR, tmp_path / "tables")
    assert table.version == expected.version
    assert (report.records, report.groups, report.rows_with_missing) == (40, 20, 13)
    assert [table.texts("note").text(row) for row in range(4)] == [row["note"] for row in ROWS[:4]]


@pytest.mark.parametrize("form", PICTURE_WRITERS)
def test_same_pictures_in_every_format_map_to_the_same_table(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    table, report = mapped(PICTURE_WRITERS[form](source), PICTURES, tmp_path / "tables")
    assert (report.records, report.faults) == (30, ())
    assert (table.images("image")[:, 0] == IMAGES).all()
    assert table.categories("label").tolist() == LABELS.tolist()


@pytest.mark.parametrize("form", [*TABULAR_WRITERS, *(f"picture {name}" for name in PICTURE_WRITERS)])
def test_reader_keeps_its_promises(tmp_path: Path, form: str) -> None:
    writers = TABULAR_WRITERS | {f"picture {name}": write for name, write in PICTURE_WRITERS.items()}
    reader = open_reader(writers[form](tmp_path))
    names = list(reader.columns())
    batches = list(reader.read())
    assert all(list(batch) == names for batch in batches)
    assert all(0 < len({len(v) for v in batch.values()}) == 1 for batch in batches)
    assert all(len(batch[names[0]]) <= BATCH_ROWS for batch in batches)
    assert sum(len(batch[names[0]]) for batch in reader.read()) == sum(len(batch[names[0]]) for batch in batches)
    assert all(path.is_file() for path in reader.files())
    assert reader.format in {member.format for member in FORMATS}


@pytest.mark.parametrize("form", [*TABULAR_WRITERS, *(f"picture {name}" for name in PICTURE_WRITERS)])
def test_source_cut_short_is_refused_or_reads_fewer_rows(tmp_path: Path, form: str) -> None:
    writers = TABULAR_WRITERS | {f"picture {name}": write for name, write in PICTURE_WRITERS.items()}
    path = open_reader(writers[form](tmp_path)).files()[0]
    data = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        try:
            reader = open_reader(path if path.suffix != ".png" else tmp_path)
            reader.columns()
            rows = [row for batch in reader.read() for row in next(iter(batch.values()))]
        except InputError:
            continue
        assert len(rows) <= 40


def broken_file(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "row 2 has 3 cells, the header 2"),
        ("a.csv", b"a,b\n1,2\n\xc8,2,3\n", "row 2 has 3 cells, the header 2"),
        ("a.csv", b"a,a\n1,2\n", "two columns are called 'a'"),
        ("a.csv", b"a,\n1,2\n", "column 2 has no name"),
        ("a.csv", b"", "first line is empty"),
        ("a.csv", b"a\n\xff\xfe\xff\n", "UTF"),
        ("a.csv", b"\xff\xfe\n", "header is not UTF-8"),
        ("a.csv.gz", b"\x1f\x8b garbage", "cannot be read"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2"),
        ("a.jsonl", b"[1]\n", "line 1"),
        ("a.jsonl", b"[" * 100_000, "line 1"),
        ("a.parquet", b"PAR1 but no more", "not a whole Parquet file"),
        ("a.feather", b"ARROW1 but no more", "not a whole Arrow file"),
        ("a.npz", b"PK\x03\x04 but no more", "cannot be read"),
        ("x-images-idx3-ubyte", bytes((0, 0, 8, 3)) + b"\xff" * 12, "labels are missing"),
        ("a.bin", b"\x00\x01\x02", "no known format; known are parquet, arrow, npz, idx, imagefolder, jsonl, csv"),
    ],
)
def test_broken_sources_are_refused_with_the_place(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = broken_file(tmp_path, name, data)
    with pytest.raises(InputError, match=message):
        _read_all(path)


def _read_all(path: Path) -> list[Any]:
    reader = open_reader(path)
    reader.columns()
    return list(reader.read())


def test_absent_and_empty_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file or folder"):
        open_reader(tmp_path / "nothing")
    with pytest.raises(InputError, match="is empty"):
        open_reader(tmp_path)


def test_csv_with_only_a_header_has_no_rows(tmp_path: Path) -> None:
    assert _read_all(broken_file(tmp_path, "a.csv", b"a,b\n")) == []


def test_jsonl_name_that_appears_late_is_not_lost_silently(tmp_path: Path) -> None:
    lines = b'{"a": 1}\n' * 1000 + b'{"a": 1, "late": 2}\n'
    with pytest.raises(InputError, match="line 1001: 'late'"):
        _read_all(broken_file(tmp_path, "a.jsonl", lines))


def test_npz_with_pickles_or_uneven_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", a=np.array([{"x": 1}, None], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        _read_all(tmp_path / "objects.npz")
    np.savez(tmp_path / "uneven.npz", a=np.zeros(3), b=np.zeros(4))
    with pytest.raises(InputError, match="differ in their number of rows"):
        _read_all(tmp_path / "uneven.npz")


def test_npz_that_unpacks_to_too_much_is_refused_before_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "big.npz", a=np.zeros(1_000_000))
    monkeypatch.setattr("daitn.node.readers.npz.ARCHIVE_BYTES", 1_000_000)
    with pytest.raises(InputError, match="unpacks to"):
        _read_all(tmp_path / "big.npz")


def test_npz_that_would_take_more_memory_than_is_free_is_refused_before_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "big.npz", a=np.zeros(1_000_000))
    monkeypatch.setattr("daitn.node.readers.npz.memory_free_bytes", lambda: 7_000_000)
    with pytest.raises(InputError, match="7000000 bytes of memory are free"):
        _read_all(tmp_path / "big.npz")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.bin", "a.csv.gz"])
@pytest.mark.parametrize(
    ("data", "what"),
    [(pickle.dumps({"x": [1]}), "a pickle"), (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl", "made by torch.save")],
    ids=["pickle", "torch"],
)
def test_archive_under_another_name_is_told_what_it_is_and_not_opened(
    tmp_path: Path, name: str, data: bytes, what: str
) -> None:
    path = broken_file(tmp_path, name, gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(InputError, match=what) as refused:
        open_reader(path)
    assert refused.value.todo


def test_text_that_begins_as_an_archive_does_is_text(tmp_path: Path) -> None:
    assert list(open_reader(broken_file(tmp_path, "a.csv", b"GGUF,x\n1,2\n")).columns()) == ["GGUF", "x"]


@pytest.mark.parametrize("form", ["jsonl", "idx", "imagefolder", "columnar"])
def test_batch_of_large_values_ends_before_it_takes_all_memory(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"daitn.node.readers.{form}.BATCH_BYTES", 50)
    if form == "imagefolder":
        write_imagefolder(tmp_path)
    path = {"jsonl": write_jsonl, "idx": write_idx, "columnar": write_picture_parquet}.get(form, lambda folder: folder)(
        tmp_path
    )
    parts = list(open_reader(path).read())
    monkeypatch.undo()
    (whole,) = open_reader(path).read()
    assert max(len(next(iter(part.values()))) for part in parts) < 5
    for name, values in whole.items():
        joined = [value for part in parts for value in part[name]]
        assert [np.asarray(value).tolist() for value in joined] == [np.asarray(value).tolist() for value in values]


def test_structure_that_only_looks_like_a_picture_is_no_picture(tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"image": [{"bytes": 7, "path": "x.png"}]}), tmp_path / "a.parquet")
    assert open_reader(tmp_path / "a.parquet").columns() == {"image": "other"}
    assert _read_all(tmp_path / "a.parquet") == [{"image": [{"bytes": 7, "path": "x.png"}]}]


def test_idx_that_claims_huge_images_takes_no_room_for_them(tmp_path: Path) -> None:
    head = bytes((0, 0, 8, 3)) + (4096).to_bytes(4, "big") + 2 * (8192).to_bytes(4, "big")
    (tmp_path / "d-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1)) + (4096).to_bytes(4, "big") + bytes(4096))
    with pytest.raises(InputError, match="shorter than its header"):
        _read_all(broken_file(tmp_path, "d-images-idx3-ubyte", head))


def npz_of(folder: Path, member: bytes, *, claims: int | None = None) -> Path:
    """An archive of one member, whose directory claims another size where told to."""
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", member)
        if claims is not None:
            archive.infolist()[0].file_size = claims
    return folder / "a.npz"


def npy_claiming(shape: tuple[int, ...], data: bytes) -> bytes:
    """An array's file whose header says `shape`, whatever its bytes are."""
    import io

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


@pytest.mark.parametrize("shape", [(1 << 50,), (1 << 40, 1 << 40), (3,), (5,), (-4,), (-2, -2)], ids=str)
def test_npz_array_that_claims_another_size_than_its_bytes_is_refused_before_room_is_taken(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match=r"takes -?\d+ bytes, there are 32"):
        _read_all(npz_of(tmp_path, npy_claiming(shape, bytes(32))))


def test_npz_directory_that_claims_what_its_bytes_cannot_hold_is_refused(tmp_path: Path) -> None:
    claimed = 1 << 33
    path = npz_of(tmp_path, npy_claiming((claimed // 8,), bytes(32)), claims=claimed + 128)
    with pytest.raises(InputError, match="packed ones cannot hold them"):
        _read_all(path)


def test_npz_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no numpy array"):
        _read_all(npz_of(tmp_path, b"some text"))


def test_npz_member_with_a_path_writes_nothing_outside(tmp_path: Path) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    inside = tmp_path / "inside"
    inside.mkdir()
    with zipfile.ZipFile(inside / "a.npz", "w") as archive:
        archive.writestr("../escaped.npy", buffer.getvalue())
    _read_all(inside / "a.npz")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.npz", "inside"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_link_out_of_an_image_folder_is_refused(tmp_path: Path, kind: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    write_imagefolder(root)
    (outside / "secret.png").write_bytes(png(IMAGES[0]))
    link = root / "0" / ("link.png" if kind == "file" else "link")
    link.symlink_to(outside / "secret.png" if kind == "file" else outside)
    with pytest.raises(InputError, match="is a link out of the folder"):
        _read_all(root)


def test_link_to_labels_elsewhere_is_refused(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    write_idx(folder)
    labels = folder / "digits-labels-idx1-ubyte.gz"
    labels.rename(outside / labels.name)
    labels.symlink_to(outside / labels.name)
    with pytest.raises(InputError, match="is a link out of its folder"):
        _read_all(folder)


def test_idx_longer_or_shorter_than_its_header_is_refused(tmp_path: Path) -> None:
    path = write_idx(tmp_path, packed=False) / "digits-images-idx3-ubyte"
    data = path.read_bytes()
    path.write_bytes(data + b"x")
    with pytest.raises(InputError, match="longer than its header"):
        _read_all(path)
    path.write_bytes(data[:-1])
    with pytest.raises(InputError, match="shorter than its header"):
        _read_all(path)
    path.write_bytes(data[:7] + bytes([data[7] - 1]) + data[8:])
    with pytest.raises(InputError, match="29 images beside 30 labels"):
        _read_all(path)


def test_picture_that_claims_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "IMAGE_PIXELS", 19)
    answer = pictures.decode_picture(png(IMAGES[0]))
    assert isinstance(answer, Unreadable)
    assert answer.reason == "4 × 5 pixels, the limit is 19"


def test_pictures_of_other_kinds_are_unreadable() -> None:
    import io

    buffer = io.BytesIO()
    image_module.fromarray(IMAGES[0]).save(buffer, format="GIF")
    sixteen = io.BytesIO()
    image_module.fromarray(np.full((2, 2), 60000, dtype=np.uint16)).save(sixteen, format="PNG")
    for data in (buffer.getvalue(), sixteen.getvalue(), b"", b"\x89PNG\r\n\x1a\n", png(IMAGES[0])[:-30]):
        assert isinstance(pictures.decode_picture(data), Unreadable)


def test_colour_pictures_and_nested_folders_are_read(tmp_path: Path) -> None:
    (tmp_path / "cat" / "deep").mkdir(parents=True)
    colour = np.random.default_rng(1).integers(0, 256, (3, 2, 3), dtype=np.uint8)
    (tmp_path / "cat" / "deep" / "a.PNG").write_bytes(png(colour))
    (tmp_path / "root.png").write_bytes(png(IMAGES[0]))
    batch = next(iter(imagefolder.ImageFolderReader(tmp_path).read()))
    assert (np.asarray(batch["image"][0]) == colour).all()
    assert list(batch["label"]) == ["cat", None]
    assert list(batch["file"]) == ["cat/deep/a.PNG", "root.png"]

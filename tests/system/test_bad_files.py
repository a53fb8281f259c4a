"""Files that are broken or made to harm, through the commands that take them: each ends with exit code 2, the value and
what to do, and leaves nothing behind. No domain is needed; what a node counts of it is in `test_bad_input.py`.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.system.commands import Call, all_at_once, daitn
from tests.system.small_domain import CONTRACT, write_site
from tests.unit.test_graph_check import make_pair

from daitn.artifacts.graph import encode_graph_pair
from daitn.artifacts.layout import TensorSpec, digest_of, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.artifacts.package import write_package
from daitn.describe.splits import held_out_mask
from daitn.descriptors.contract import decode_contract
from daitn.node.bases import BaseShelf
from daitn.node.datasets import DataShelf
from daitn.node.processes import DataFiles
from daitn.node.refusals import refused_here

pytestmark = pytest.mark.timeout(120)

PICKLE = pickle.dumps({"weight": [1.0]})
GROUPED = CONTRACT | {
    "columns": [
        *CONTRACT["columns"],  # type: ignore[misc]
        {"type": "category", "name": "ward", "values": ["a", "b"]},
        {"type": "identifier", "name": "patient"},
    ],
    "group": "patient",
    "fields": [{"type": "by_column", "column": "ward"}],
}


def tree(folder: Path) -> set[str]:
    """Everything that lies in a folder, without the count of refusals and the locks."""
    kept = (path for path in folder.rglob("*") if path.name not in ("refused", "index.lock"))
    return {str(path.relative_to(folder)) for path in kept}


def add(files: DataFiles, node: Path, name: str = "sides", **changes: Path) -> Call:
    """Arguments that put a data set on a node's shelf."""
    files = files._replace(**changes)  # type: ignore[arg-type]
    options = ("--contract", files.contract, "--policy", files.policy, "--folder", node)
    return ("data", "add", name, files.data, *options)


def written(path: Path, data: bytes | str | Mapping[str, Any]) -> Path:
    if isinstance(data, bytes | str):
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    else:
        path.write_text(json.dumps(data))
    return path


def zip_bomb(path: Path, entries: int = 10_000, each_bytes: int = 10_000_000) -> Path:
    """An archive whose directory names the same packed zeros again and again: 100 kB that unpack to 100 GB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(each_bytes)) + packer.flush()
    checksum = zlib.crc32(bytes(each_bytes))
    about = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, checksum, len(packed), each_bytes, 5, 0)
    kernel = b"PK\x03\x04" + about + b"x.npy" + packed
    listed = b"".join(
        b"PK\x01\x02" + struct.pack("<H", 20) + about[:22] + struct.pack("<HHHHHII", 8, 0, 0, 0, 0, 0, 0) + name
        for name in (f"x{number:03d}.npy"[-8:].encode() for number in range(entries))
    )
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, entries, entries, len(listed), len(kernel), 0)
    return written(path, kernel + listed + end)


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def pictures_with_a_link_out(folder: Path) -> Path:
    (folder / "left").mkdir(parents=True)
    written(folder / "left" / "a.png", b"\x89PNG\r\n\x1a\n")
    written(folder.parent / "secret.png", b"\x89PNG\r\n\x1a\n")
    (folder / "left" / "b.png").symlink_to(folder.parent / "secret.png")
    return folder


# --- data -------------------------------------------------------------------------------------------------------------


def test_data_that_cannot_be_used_is_refused_with_the_value_counted_and_leaves_nothing(tmp_path: Path) -> None:
    files, node = write_site(tmp_path / "files", 0), tmp_path / "node"
    assert daitn(*add(files, node)).code == 0
    before, here = tree(node), tmp_path / "bad"
    here.mkdir()
    other_label = CONTRACT | {"task": {"type": "classification", "label": "sidee"}}
    other_field = CONTRACT | {"fields": [{"type": "by_column", "column": "ward"}]}
    array = io.BytesIO()
    np.save(array, np.arange(3.0))
    exported = archive(**{"m/archive_format": b"pt2", "m/models/model.json": b"{}"})
    cases: dict[str, tuple[Call, str]] = {
        "a zip bomb": (add(files, node, data=zip_bomb(here / "bomb.npz")), "unpacks to 100000000000 bytes"),
        "a path that climbs out of a folder": (
            add(files, node, data=pictures_with_a_link_out(here / "pictures")),
            "left/b.png is a link out of the folder",
        ),
        "a path that climbs as a name": (add(files, node, "../escaped"), "'../escaped'"),
        "a pickle": (add(files, node, data=written(here / "p.csv", PICKLE)), "'p.csv' is a pickle"),
        "a program": (add(files, node, data=written(here / "e.csv", exported)), "'e.csv' is a torch.export archive"),
        "a path that climbs in an archive": (
            add(files, node, data=written(here / "c.npz", archive(**{"../../escaped.npy": array.getvalue()}))),
            "known are: ../../escaped",
        ),
        "no rows": (add(files, node, data=written(here / "no.csv", "x0,x1,side\n")), "the data has no rows"),
        "no label column": (
            add(files, node, data=written(here / "l.csv", "x0,x1,sides\n1,2,left\n")),
            "no column 'side' (did you mean 'sides'?)",
        ),
        "other labels": (
            add(files, node, data=written(here / "v.csv", "x0,x1,side\n1,2,links\n3,4,rechts\n")),
            "all 2 values are out of vocabulary, such as 'links', 'rechts'; expected one of left, right",
        ),
        "a label that the contract lacks": (
            add(files, node, contract=written(here / "label.json", other_label)),
            "'sidee'",
        ),
        "a field that the contract lacks": (add(files, node, contract=written(here / "f.json", other_field)), "'ward'"),
    }

    said = all_at_once({name: call for name, (call, _) in cases.items()})

    for name, (_, words) in cases.items():
        assert said[name].code == 2, name
        assert words in said[name].what, (name, said[name].what)
        assert said[name].todo, name
    assert [one.count for one in refused_here(node / "data")] == [len(cases)]
    assert tree(node) == before
    assert {path.name for path in tmp_path.iterdir()} == {"files", "node", "bad"}
    assert [one.name for one in DataShelf(node / "data", bytes(32)).list()] == ["sides"]


def test_one_class_strange_labels_and_straddling_groups_are_taken_with_a_warning_and_split_alike(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(3)
    files = write_site(tmp_path / "files", 0)
    files = files._replace(contract=written(tmp_path / "grouped.json", GROUPED))
    head = "x0,x1,side,ward,patient\n"

    def rows(wards: str) -> str:
        picked = [(number, *rng.normal(size=2), rng.choice(list(wards))) for number in range(60) for _ in range(3)]
        return "".join(f"{a:.4f},{b:.4f},left,{ward},p{number}\n" for number, a, b, ward in picked)

    written(tmp_path / "north.csv", head + rows("ab") + "1,2,oben,a,p1\n")
    written(tmp_path / "south.csv", head + rows("b"))

    said = all_at_once(
        {name: add(files, tmp_path / name, data=tmp_path / f"{name}.csv") for name in ("north", "south")}
    )

    assert [one.code for one in said.values()] == [0, 0]
    report = said["north"].document
    assert report["dropped"] == {"no usable label": 1}
    assert "oben" in report["faults"][0]["examples"]
    assert report["straddling_groups"] > 30
    for words in ("same label, 'left'", "groups (patient) have records of different fields"):
        assert any(words in text for text in report["warnings"]), words
    assert said["south"].document["straddling_groups"] == 0
    contract = decode_contract(files.contract.read_bytes())
    sides: dict[int, set[bool]] = {}
    for name in said:
        table = DataShelf(tmp_path / name / "data", bytes(32)).table("sides")
        for group, held in zip(table.groups.tolist(), held_out_mask(table, contract).tolist(), strict=True):
            sides.setdefault(group, set()).add(held)
    assert len(sides) == 60
    assert all(len(one) == 1 for one in sides.values())
    assert {next(iter(one)) for one in sides.values()} == {True, False}


# --- packages and bases -----------------------------------------------------------------------------------------------


def write_good_package(folder: Path) -> Path:
    layout = plan_layout([TensorSpec(name="weight", dtype="float32", shape=(4,))])
    draft = Manifest(
        kind="graph", name="m", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    parts = {"graph": encode_graph_pair(make_pair()), "contract": json.dumps(CONTRACT).encode()}
    write_package(folder, draft, parts, {"weight": np.zeros(4, np.float32)})
    return folder


def with_tensors(data: bytes) -> Callable[[Path], None]:
    """Other bytes in place of the tensors, and a manifest that agrees with them."""

    def change(folder: Path) -> None:
        written(folder / "model.safetensors", data)
        index = json.loads((folder / "manifest.json").read_bytes())
        index["tensors"][0] |= {"size": len(data), "digest": digest_of(data)}
        written(folder / "manifest.json", index)

    return change


def with_part_at(file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "manifest.json").read_bytes())
        index["parts"][0]["file"] = file
        written(folder / "manifest.json", index)

    return change


HEADER = b'{"weight":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
LYING = len(HEADER).to_bytes(8, "little") + HEADER
"""A tensors' file whose header speaks of bytes that are not there."""

CRAFTED = {
    "a header beyond the file": ((1 << 60).to_bytes(8, "little") + b"{}", "header has 1152921504606846976 bytes"),
    "a pickle": (PICKLE, "is a pickle"),
    "a program": (archive(**{"m/archive_format": b"pt2"}), "is a torch.export archive"),
}


def test_package_made_to_harm_is_refused_before_anything_of_it_is_used(tmp_path: Path) -> None:
    files = write_site(tmp_path / "files", 0)
    written(tmp_path / "secret", b"secret")
    faults: dict[str, tuple[Callable[[Path], None], str]] = {
        **{name: (with_tensors(data), words) for name, (data, words) in CRAFTED.items()},
        "a tensor beyond the file": (with_tensors(LYING), "lies at 0..16, the file has 0 bytes of data"),
        "a zip bomb": (with_tensors(zip_bomb(tmp_path / "bomb").read_bytes()), "is a numpy archive (npz)"),
        "a path that climbs": (with_part_at("../secret"), "'../secret' is not a plain file name inside the package"),
    }
    calls: dict[str, Call] = {}
    for number, (name, (change, _)) in enumerate(faults.items()):
        change(write_good_package(tmp_path / f"package-{number}"))
        out = tmp_path / f"out-{number}.csv"
        calls[name] = ("predict", tmp_path / f"package-{number}", files.data, "--out", out)

    said = all_at_once(calls)

    for name, (_, words) in faults.items():
        assert said[name].code == 2, name
        assert words in said[name].what, (name, said[name].what)
        assert said[name].todo, name
    assert not list(tmp_path.glob("out-*"))


def test_base_whose_weights_are_crafted_or_in_disguise_is_refused_and_no_byte_of_it_is_kept(tmp_path: Path) -> None:
    calls: dict[str, Call] = {}
    for number, (name, (data, _)) in enumerate(CRAFTED.items()):
        source = tmp_path / f"base-{number}"
        source.mkdir()
        written(source / "config.json", {"model_type": "bert", "hidden_size": 16})
        written(source / "tokenizer.json", {})
        written(source / "model.safetensors", data)
        calls[name] = ("base", "add", source, "--folder", tmp_path / "node")

    said = all_at_once(calls)

    for name, (_, words) in CRAFTED.items():
        assert said[name].code == 2, name
        assert words in said[name].what, (name, said[name].what)
        assert "model.safetensors" in said[name].what, name
        assert said[name].todo, name
    assert BaseShelf(tmp_path / "node" / "bases").bases() == ()
    assert not [path for path in (tmp_path / "node").rglob("*") if path.name == "model.safetensors"]

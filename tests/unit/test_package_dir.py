"""Package directories: what is written reads back the same, and nothing hostile is read at all."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import load_file, save_file

from daitn.artifacts.codec import with_parts
from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.artifacts.package import Package, read_package, write_package
from daitn.artifacts.signatures import sign_parts
from daitn.artifacts.tensor_file import parse_header, recognise
from daitn.base.errors import DaitnError, InputError, PeerError
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    NumberColumn,
    NumbersInput,
)
from daitn.node.store import ChunkStore

CONTRACT = DataContract(
    name="notes",
    columns=(NumberColumn(name="x"), CategoryColumn(name="y", values=("a", "b"))),
    inputs=(NumbersInput(name="x", columns=("x",)),),
    task=Classification(label="y"),
)
PARTS = {"graph": b"graph bytes", "contract": msgspec.json.encode(CONTRACT)}
TENSORS: dict[str, Any] = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": bytes(range(10)),
    "mean": np.ones(3, np.float64),
    "flag": np.array([True, False]),
    "count": np.array(7, np.int64),
    "momentum": np.zeros((3, 4), np.float32),
}
SPECS = [
    TensorSpec(name="weight", dtype="float32", shape=(3, 4)),
    TensorSpec(name="half", dtype="bfloat16", shape=(5,), role="frozen"),
    TensorSpec(name="mean", dtype="float64", shape=(3,), role="buffer"),
    TensorSpec(name="flag", dtype="bool", shape=(2,), role="buffer"),
    TensorSpec(name="count", dtype="int64", shape=(), role="buffer"),
    TensorSpec(name="momentum", dtype="float32", shape=(3, 4), role="optimizer"),
]
LAYOUT = plan_layout(SPECS)
DRAFT = Manifest(kind="graph", name="m", parts=(), tensors=LAYOUT.entries, payload_bytes=0, chunks=())


@pytest.fixture
def package(tmp_path: Path) -> Path:
    write_package(tmp_path / "model", DRAFT, PARTS, TENSORS)
    return tmp_path / "model"


def change_index(package: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = package / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def replace_tensors(package: Path, data: bytes) -> None:
    """Put other bytes in place of the tensors, with a manifest that agrees with them."""
    (package / "model.safetensors").write_bytes(data)

    def change(fields: dict[str, Any]) -> None:
        (listed,) = (each for each in fields["tensors"] if each["file"] == "model.safetensors")
        listed |= {"size": len(data), "digest": blake3(data).hexdigest()}

    change_index(package, change)


def safetensors(header: Any, data: bytes = b"", header_bytes: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if header_bytes is None else header_bytes).to_bytes(8, "little") + text + data


def refusal(package: Path) -> str:
    with pytest.raises((InputError, PeerError)) as caught:
        read_package(package)
    return str(caught.value)


# Good packages


def test_package_reads_back_the_same(package: Path) -> None:
    read: Package = read_package(package)
    assert read.parts == PARTS
    assert {name: bytes(data) for name, data in read.tensors.items()} == {
        name: data if isinstance(data, bytes) else data.tobytes() for name, data in TENSORS.items()
    }
    assert read.manifest.tensors == LAYOUT.entries
    assert write_package(package.parent / "again", read.manifest, read.parts, read.tensors) == read.artifact


def test_package_is_readable_by_the_safetensors_package_and_by_people(package: Path) -> None:
    state = load_file(package / "state.safetensors")
    assert list(state) == ["momentum"]
    np.testing.assert_array_equal(state["momentum"], TENSORS["momentum"])
    text = (package / "manifest.json").read_text()
    assert '\n  "kind": "graph"' in text
    assert json.loads(text)["contract"] == CONTRACT.digest()
    assert sorted(path.name for path in package.iterdir()) == [
        "contract.json", "graph.bin", "manifest.json", "model.safetensors", "state.safetensors",
    ]  # fmt: skip


def test_file_of_the_safetensors_package_is_accepted(tmp_path: Path) -> None:
    specs = [spec for spec in SPECS if spec.name in ("weight", "mean", "flag", "count")]
    draft = msgspec.structs.replace(DRAFT, tensors=plan_layout(specs).entries)
    tensors = {spec.name: TENSORS[spec.name] for spec in specs}
    artifact = write_package(tmp_path / "m", draft, PARTS, tensors)
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    replace_tensors(tmp_path / "m", (tmp_path / "theirs.safetensors").read_bytes())
    assert read_package(tmp_path / "m").artifact == artifact


def test_package_goes_into_the_store_as_the_same_artifact(package: Path, tmp_path: Path) -> None:
    read = read_package(package)
    store = ChunkStore(tmp_path / "store", 10_000_000)
    assert store.put_artifact(read.manifest, read.parts, read.tensors).artifact == read.artifact
    store.close()


def test_package_without_tensors_and_with_a_part_of_its_own(tmp_path: Path) -> None:
    draft = msgspec.structs.replace(DRAFT, tensors=())
    write_package(tmp_path / "m", draft, PARTS | {"notes": b"", "onnx": b"\x08\x07"}, {})
    read = read_package(tmp_path / "m")
    assert (tmp_path / "m" / "notes.part").exists()
    assert bytes(read.parts["onnx"]) == b"\x08\x07"


def test_writing_over_something_is_refused(package: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        write_package(package, DRAFT, PARTS, TENSORS)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"weight": np.zeros((3, 4), np.float64)}, "array of float64"),
        ({"weight": np.zeros((4, 3), np.float32)}, r"float32 \(4, 3\)"),
        ({"half": bytes(9)}, "has 9 bytes"),
        ({"more": bytes(9)}, "differ: more"),
    ],
    ids=["type", "shape", "bytes", "unknown"],
)
def test_writing_other_tensors_than_the_manifest_says_is_refused(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(InputError, match=fault):
        write_package(tmp_path / "m", DRAFT, PARTS, TENSORS | changes)
    assert list(tmp_path.iterdir()) == []


# Damage


@pytest.mark.parametrize("name", ["graph.bin", "contract.json", "model.safetensors", "state.safetensors"])
def test_flipped_bit_is_found_and_the_file_named(package: Path, name: str) -> None:
    data = bytearray((package / name).read_bytes())
    data[-1] ^= 1
    (package / name).write_bytes(data)
    assert f"{package / name} has the digest" in refusal(package)


@pytest.mark.parametrize("name", ["graph.bin", "model.safetensors"])
def test_cut_file_is_refused_with_both_sizes(package: Path, name: str) -> None:
    size = (package / name).stat().st_size
    os.truncate(package / name, size - 1)
    assert f"has {size - 1} bytes, its manifest says {size}" in refusal(package)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda index: index["state"].update(steps=5), "what lies there is"),
        (lambda index: index.update(name="other"), "what lies there is"),
        (lambda index: index.update(contract="0" * 64), "says contract"),
        (lambda index: index.update(colour="red"), "unknown field"),
        (lambda index: index.update(format=2), "Invalid enum value 2"),
        (lambda index: index.update(kind="virus"), "Invalid enum value 'virus'"),
        (lambda index: index["roles"].update(frozen=[]), "has no role"),
        (lambda index: index["roles"].update(random=["weight"]), "tensor 'weight' is listed twice"),
        (lambda index: index["roles"].update(random=["ghost"]), "gives a role to 'ghost'"),
        (lambda index: index["parts"].append(index["parts"][0]), "is listed twice"),
        (lambda index: index["parts"].pop(0), "needs the part 'graph'"),
        (lambda index: index["parts"][0].update(size=2**33), "the limit is"),
        (lambda index: index["tensors"][0].update(size=2**39), "the limit is 512 GiB"),
        (lambda index: index["tensors"][0].update(size=2**63), "manifest of a package"),
        (lambda index: index["tensors"][0].update(digest="0" * 64), "has the digest"),
        (lambda index: index.update(signer="0" * 64), "signer and signature"),
        (lambda index: index.update(signer="0" * 64, signature="0" * 128), "what lies there is"),
    ],
)  # fmt: skip
def test_manifest_changed_by_hand_is_refused(
    package: Path, change: Callable[[dict[str, Any]], Any], fault: str
) -> None:
    change_index(package, change)
    if "512 GiB" in fault:
        change_index(package, lambda index: index["tensors"][1].update(size=2**39))
    assert fault in refusal(package)


def test_signed_package_is_verified(tmp_path: Path) -> None:
    signed = sign_parts(with_parts(DRAFT, PARTS), Ed25519PrivateKey.generate())
    write_package(tmp_path / "m", signed, PARTS, TENSORS)
    assert read_package(tmp_path / "m").manifest.signer == signed.signer
    forged = msgspec.structs.replace(signed, signature="0" * 128)
    write_package(tmp_path / "forged", forged, PARTS, TENSORS)
    with pytest.raises(PeerError, match="is false"):
        read_package(tmp_path / "forged")


# Paths


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\x00b", "a\nb", "x" * 129, "manifest.json"]
)
def test_path_out_of_the_package_is_refused(package: Path, name: str) -> None:
    (package.parent / "secret").write_bytes(PARTS["graph"])
    change_index(package, lambda index: index["parts"][0].update(file=name))
    message = refusal(package)
    assert "not a plain file name" in message or "manifest of a package" in message


@pytest.mark.parametrize("name", ["graph.bin", "model.safetensors", "manifest.json"])
def test_link_is_refused(package: Path, name: str) -> None:
    os.rename(package / name, package.parent / "elsewhere")
    (package / name).symlink_to(package.parent / "elsewhere")
    assert f"{package / name} is a link" in refusal(package)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
def test_special_file_is_refused_without_waiting(package: Path, make: Callable[[Path], None]) -> None:
    (package / "graph.bin").unlink()
    make(package / "graph.bin")
    assert "is not a plain file" in refusal(package)


def test_missing_things_are_named(package: Path) -> None:
    (package / "graph.bin").unlink()
    assert "graph.bin cannot be opened" in refusal(package)
    (package / "manifest.json").unlink()
    assert "manifest.json cannot be opened" in refusal(package)
    shutil.rmtree(package)
    assert "No such file" in refusal(package)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"format":1}', "\udcff"], ids=range(6))
def test_manifest_that_is_no_manifest_is_refused(package: Path, text: str) -> None:
    (package / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    assert "is not the manifest of a package" in refusal(package)


def test_manifest_of_absurd_size_is_refused_unread(package: Path) -> None:
    os.truncate(package / "manifest.json", 2**33)  # sparse: 8 GB that takes no room
    assert "the limit is" in refusal(package)


# Safetensors made by hand

F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
TWICE = b'{"w":%b,"w":%b}' % (json.dumps(F32).encode(), json.dumps(F32).encode())


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "has at least 8"),
        (b"1234567", "has at least 8"),
        (safetensors({}, header_bytes=2**63), "says its header has 9223372036854775808 bytes"),
        (safetensors({}, header_bytes=100), "says its header has 100 bytes"),
        (safetensors(b"{" + b'"a":' * 50_000), "not a safetensors header"),
        (safetensors(b"\xff\xfe"), "not a safetensors header"),
        (safetensors([]), "not an object"),
        (safetensors({"w": F32}), "lies at 0..16, the file has 0 bytes"),
        (safetensors({"w": F32 | {"data_offsets": [16, 0]}}, bytes(16)), "lies at 16..0"),
        (safetensors({"w": F32 | {"data_offsets": [-16, 0]}}, bytes(16)), "lies at -16..0"),
        (safetensors({"w": F32 | {"data_offsets": [0, 12]}}, bytes(12)), "takes 16 bytes, but has 12"),
        (safetensors({"w": F32 | {"shape": [2**40] * 16}}, bytes(16)), "which takes"),
        (safetensors({"w": F32 | {"shape": [1] * 17}}, bytes(16)), "absurd shape of 17 dimensions"),
        (safetensors({"w": F32 | {"shape": [-4]}}, bytes(16)), "absurd shape"),
        (safetensors({"w": F32 | {"shape": [2**41, 0], "data_offsets": [0, 0]}}), "absurd shape"),
        (safetensors({"w": F32 | {"dtype": "F8_E4M3"}}, bytes(16)), "has the type 'F8_E4M3'"),
        (safetensors({"w": F32 | {"dtype": "PICKLE"}}, bytes(16)), "allowed are F64, F32"),
        (safetensors({"w": F32, "v": F32}, bytes(16)), "overlaps the one before"),
        (safetensors({"w": F32 | {"data_offsets": [16, 32]}}, bytes(32)), "leaves a hole before it"),
        (safetensors({"w": F32}, bytes(17)), "its tensors fill 16"),
        (safetensors(TWICE, bytes(16)), "a name stands in it twice"),
        (safetensors({"w": F32 | {"more": 1}}, bytes(16)), "unknown field"),
        (safetensors({"w": F32, "__metadata__": {"a": 1}}, bytes(16)), "not a safetensors header"),
        (safetensors({"\u202e": F32}, bytes(16)), "do not print"),
        (safetensors({"w": F32}, bytes(16)), "has no role"),
    ],
    ids=range(25),
)  # fmt: skip
def test_safetensors_made_to_harm_is_refused(package: Path, data: bytes, fault: str) -> None:
    replace_tensors(package, data)
    with pytest.raises(InputError) as caught:
        read_package(package)
    assert fault in str(caught.value)
    assert caught.value.todo or fault == "has no role"


def test_safetensors_with_too_many_tensors_is_refused() -> None:
    entry = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(b'"t%d":%b' % (number, entry) for number in range(100_001)) + b"}"
    with pytest.raises(InputError, match="has 100001 tensors"):
        parse_header(header, 0, "file")


def test_huge_file_listed_with_its_size_is_judged_by_its_header_alone(package: Path) -> None:
    """A sparse file of 40 GB: the header is read, nothing else."""
    path = package / "model.safetensors"
    path.write_bytes(safetensors({"w": F32}))
    os.truncate(path, 40 * 10**9)
    change_index(package, lambda index: [each.update(size=40 * 10**9) for each in index["tensors"][:1]])
    assert "its tensors fill 16" in refusal(package)


# Archives


def zipped(*names: str, head: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, head)
    return buffer.getvalue()


ARCHIVES = {
    "made by torch.save": zipped("archive/data.pkl", "archive/version"),
    "torch.export archive": zipped("m/data/weights/model_weights_config.json", "m/archive_format"),
    "a zip archive": zipped("hello.txt"),
    "a numpy archive": zipped("weight.npy"),
    "a pickle": pickle.dumps({"weight": [1.0]}),
    "old format": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
    "a tar archive": b"a".ljust(257, b"\0") + b"ustar\x0000",
    "a gzip archive": b"\x1f\x8b\x08" + bytes(20),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "a GGUF model": b"GGUF" + bytes(20),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archive_is_named_wherever_it_stands(package: Path, what: str) -> None:
    single = package.parent / "model.pt"
    single.write_bytes(ARCHIVES[what])
    assert what in refusal(single)
    assert "safetensors" in refusal(single)
    replace_tensors(package, ARCHIVES[what])
    assert what in refusal(package)


def test_zip_bomb_is_refused_by_its_first_bytes(package: Path) -> None:
    """Nothing is ever unpacked, so what it would unpack to does not matter."""
    replace_tensors(package, zipped("bomb", head=bytes(10_000_000))[:100_000])
    assert "a zip archive" in refusal(package)


def test_archives_of_the_installed_torch_are_recognised(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
    torch.save({"a": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)

    class Plus(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x: Any) -> Any:
            return x + 1

    torch.export.save(torch.export.export(Plus(), (torch.zeros(2),)), tmp_path / "e.pt2")
    found = {name: recognise((tmp_path / name).read_bytes()[:4096]) for name in ("a.pt", "old.pt", "e.pt2")}
    assert "torch.save" in str(found["a.pt"])
    assert "old format" in str(found["old.pt"])
    assert "torch.export" in str(found["e.pt2"])


def test_every_refusal_says_what_to_do(package: Path) -> None:
    (package / "graph.bin").write_bytes(b"other bytes")
    with pytest.raises(DaitnError) as caught:
        read_package(package)
    assert caught.value.todo

"""Layout of payloads, codec of manifests, signatures and grants: what fixes an artifact's identity."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daitn.artifacts.codec import artifact_id, complete_manifest, decode_manifest, encode_manifest
from daitn.artifacts.grants import Grant, check_grant, issue_grant
from daitn.artifacts.layout import (
    TensorSpec,
    check_layout,
    cut_bytes,
    fill_payload,
    hash_chunks,
    hash_tensors,
    plan_layout,
)
from daitn.artifacts.manifest import ChunkRef, Manifest, TensorEntry
from daitn.artifacts.signatures import (
    load_or_create_key,
    public_hex,
    sign_parts,
    sign_report,
    verify_parts,
    verify_report,
)
from daitn.base.errors import BugError, InputError, PeerError, PolicyError
from daitn.base.ids import ArtifactId, DomainId, GrantId, JobId, NodeId
from daitn.base.limits import CHUNK_BYTES, SMALL_TENSOR_BYTES

BIG = (SMALL_TENSOR_BYTES // 4,)


def spec(name: str, *shape: int, role: str = "parameter", dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape, role=role)


def contents(specs: list[TensorSpec]) -> dict[str, bytes]:
    return {each.name: blake3(each.name.encode()).digest(length=each.nbytes) for each in specs}


def manifest_of(specs: list[TensorSpec], **changes: object) -> Manifest:
    draft = Manifest(kind="graph", name="m", parts=(), tensors=plan_layout(specs).entries, payload_bytes=0, chunks=())
    made = complete_manifest(draft, {"graph": b"g" * 100, "contract": b"c" * 10}, contents(specs))
    return msgspec.structs.replace(made, **changes)


# Layout


def test_layout_small_neighbours_share_a_chunk() -> None:
    layout = plan_layout([spec(f"bias{i}", 16) for i in range(1000)])
    assert layout.boundaries == (0, 64_000)
    assert all(entry.offset % 64 == 0 for entry in layout.entries)


def test_layout_large_tensor_starts_a_chunk_and_is_cut() -> None:
    layout = plan_layout([spec("a", 10), spec("w", CHUNK_BYTES // 4 + 1), spec("b", 10)])
    assert [entry.name for entry in layout.entries] == ["w", "a", "b"]
    assert layout.boundaries == (0, CHUNK_BYTES, CHUNK_BYTES + 64, CHUNK_BYTES + 64 + 128)


def test_layout_roles_never_share_a_chunk() -> None:
    layout = plan_layout([spec("a", 4), spec("b", 4, role="frozen"), spec("c", 4, role="optimizer")])
    assert [entry.role for entry in layout.entries] == ["frozen", "parameter", "optimizer"]
    assert layout.boundaries == (0, 64, 128, 192)


def test_layout_many_small_tensors_close_chunks_at_the_limit() -> None:
    layout = plan_layout([spec(f"t{i:02}", (SMALL_TENSOR_BYTES - 64) // 4) for i in range(20)])
    sizes = [end - start for start, end in zip(layout.boundaries, layout.boundaries[1:], strict=False)]
    assert max(sizes) <= CHUNK_BYTES
    assert len(sizes) == 3


@pytest.mark.parametrize(
    "specs",
    [[], [spec("nothing", 0, 7)], [spec("scalar")], [spec("x", 3, dtype="bool"), spec("empty", 0)]],
    ids=["none", "empty", "scalar", "both"],
)
def test_layout_of_little_is_consistent(specs: list[TensorSpec]) -> None:
    manifest = manifest_of(specs)
    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_layout_same_name_twice_is_refused() -> None:
    with pytest.raises(InputError, match="two tensors are named"):
        plan_layout([spec("a", 1), spec("a", 2)])


def test_hash_with_and_without_building_the_payload_agree() -> None:
    specs = [spec("w", 5_000_000), spec("v", 3, 333), spec("u", 77, dtype="int8", role="buffer")]
    layout = plan_layout(specs)
    payload = bytearray(layout.payload_bytes)
    fill_payload(layout.entries, contents(specs), memoryview(payload))
    chunks = hash_chunks(payload, layout.boundaries)
    assert chunks == hash_tensors(layout, contents(specs))
    assert chunks[0].id == blake3(payload[:CHUNK_BYTES]).hexdigest()


def test_hash_of_boundaries_that_do_not_cover_is_a_bug() -> None:
    with pytest.raises(BugError):
        hash_chunks(b"12345", (0, 4))


def test_check_layout_lists_all_faults() -> None:
    good = manifest_of([spec("a", *BIG), spec("b", 100)])
    first, second = good.tensors
    overlapping = msgspec.structs.replace(second, offset=first.nbytes - 64)
    with pytest.raises(PeerError, match=r"overlaps 'a'.*stands where"):
        check_layout(msgspec.structs.replace(good, tensors=(first, overlapping)))
    beyond = msgspec.structs.replace(second, offset=good.payload_bytes)
    with pytest.raises(PeerError, match=r"ends at \d+, the payload at"):
        check_layout(msgspec.structs.replace(good, tensors=(first, beyond)))
    with pytest.raises(PeerError, match=r"chunks sum to .*the payload has"):
        check_layout(msgspec.structs.replace(good, chunks=good.chunks[:1]))
    moved = (
        ChunkRef(good.chunks[0].id, good.chunks[0].size - 64),
        ChunkRef(good.chunks[1].id, good.chunks[1].size + 64),
    )
    with pytest.raises(PeerError, match="the first wrong cut between chunks is at byte"):
        check_layout(msgspec.structs.replace(good, chunks=moved))


def test_check_layout_absurd_shape_is_a_fault_not_a_crash() -> None:
    entry = TensorEntry(name="a", dtype="float64", shape=(2**40,) * 16, role="parameter", offset=0)
    with pytest.raises(PeerError, match="ends at"):
        check_layout(Manifest(kind="graph", name="m", parts=(), tensors=(entry,), payload_bytes=0, chunks=()))


# Codec


def test_manifest_id_is_the_digest_of_its_bytes() -> None:
    data = encode_manifest(manifest_of([spec("a", 3)]))
    assert artifact_id(data) == blake3(data).hexdigest()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"parts": ()}, "needs the part 'graph'"),
        ({"kind": "onnx"}, "needs the part 'onnx'"),
        ({"name": "a\nb"}, "do not print"),
        ({"signer": "00"}, "signer and signature"),
        ({"payload_bytes": 128}, "chunks sum to"),
        ({"kind": "sample"}, "has role 'parameter' in an artifact of kind 'sample'"),
    ],
    ids=["parts", "kind", "name", "signature", "payload", "role"],
)
def test_manifest_that_contradicts_itself_is_refused(changes: dict[str, object], fault: str) -> None:
    broken = manifest_of([spec("a", 3)], **changes)
    with pytest.raises(InputError, match=fault):
        encode_manifest(broken)
    with pytest.raises(PeerError, match=fault):
        decode_manifest(msgspec.msgpack.encode(broken))


def test_manifest_part_cut_otherwise_is_refused() -> None:
    good = manifest_of([])
    graph = msgspec.structs.replace(good.parts[0], size=good.parts[0].size + 1)
    with pytest.raises(PeerError, match="chunks of part 'graph'"):
        decode_manifest(msgspec.msgpack.encode(msgspec.structs.replace(good, parts=(graph, good.parts[1]))))


def test_manifest_not_canonical_is_refused() -> None:
    fields = msgspec.msgpack.decode(encode_manifest(manifest_of([spec("a", 3)])))
    del fields["lineage"]
    with pytest.raises(PeerError, match="not in canonical form"):
        decode_manifest(msgspec.msgpack.encode(fields))


def test_manifest_of_a_newer_version_is_refused() -> None:
    fields = msgspec.msgpack.decode(encode_manifest(manifest_of([])))
    with pytest.raises(PeerError, match="unknown field"):
        decode_manifest(msgspec.msgpack.encode(fields | {"colour": "red"}))


def test_part_is_cut_every_chunk() -> None:
    assert cut_bytes(0) == (0,)
    assert cut_bytes(CHUNK_BYTES) == (0, CHUNK_BYTES)
    assert cut_bytes(CHUNK_BYTES + 1) == (0, CHUNK_BYTES, CHUNK_BYTES + 1)


# Signatures


def test_signature_travels_while_weights_change() -> None:
    key = Ed25519PrivateKey.generate()
    signed = sign_parts(manifest_of([spec("a", 3)]), key)
    trained = manifest_of([spec("a", 5)], signer=signed.signer, signature=signed.signature)
    verify_parts(trained)
    assert trained.signer == public_hex(key)


def test_signature_of_other_parts_is_refused() -> None:
    signed = sign_parts(manifest_of([]), Ed25519PrivateKey.generate())
    graph = msgspec.structs.replace(signed.parts[0], chunks=(ChunkRef("0" * 64, 100),))
    with pytest.raises(PeerError, match="is false"):
        verify_parts(msgspec.structs.replace(signed, parts=(graph, *signed.parts[1:])))
    with pytest.raises(PeerError, match="is false"):
        verify_parts(msgspec.structs.replace(signed, kind="python"))


def test_signature_missing_is_refused_by_policy() -> None:
    with pytest.raises(PolicyError, match="is not signed"):
        verify_parts(manifest_of([]))


def test_report_signature_holds_for_these_bytes_and_this_purpose_only() -> None:
    key = Ed25519PrivateKey.generate()
    signature = sign_report(b"visit done", key)
    verify_report(b"visit done", signature, public_hex(key))
    for report, claimed, signer in (
        (b"visit d0ne", signature, public_hex(key)),
        (b"visit done", "zz", public_hex(key)),
        (b"visit done", signature, "not a key"),
        (b"visit done", key.sign(blake3(b"visit done").digest()).hex(), public_hex(key)),
    ):
        with pytest.raises(PeerError):
            verify_report(report, claimed, signer)


def test_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node.key"
    first = load_or_create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public_hex(load_or_create_key(path)) == public_hex(first)
    assert os.listdir(path.parent) == ["node.key"]
    path.chmod(0o644)
    with pytest.raises(PolicyError, match="chmod 600"):
        load_or_create_key(path)
    path.chmod(0o600)
    path.write_text("not a key")
    with pytest.raises(InputError, match="not an Ed25519 key"):
        load_or_create_key(path)


# Grants

CENTER_KEY = Ed25519PrivateKey.generate()
GRANT = Grant(
    id=GrantId("g1"),
    domain=DomainId("north"),
    artifact=ArtifactId("a" * 64),
    requester=NodeId("n0001"),
    job=JobId("j1"),
    expires_unix_s=1000,
)


def check(token: str, **changes: object) -> Grant:
    asked: dict[str, object] = {
        "requester": GRANT.requester,
        "artifact": GRANT.artifact,
        "now_unix_s": 999.0,
        "revoked": frozenset(),
    }
    return check_grant(token, CENTER_KEY.public_key(), **(asked | changes))  # type: ignore[arg-type]


def test_grant_permits_what_it_says() -> None:
    assert check(issue_grant(CENTER_KEY, GRANT)) == GRANT


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"requester": NodeId("n0002")}, "for n0001, n0002 asks"),
        ({"artifact": ArtifactId("b" * 64)}, "for artifact a+, b+ is asked for"),
        ({"now_unix_s": 1000.0}, "ended at 1000 s, it is 1000 s"),
        ({"revoked": {"g1"}}, "revoked"),
        ({"domain": DomainId("south")}, "for domain north, this is south"),
    ],
    ids=["requester", "artifact", "expired", "revoked", "domain"],
)
def test_grant_refuses_with_the_compared_values(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(PolicyError, match=reason):
        check(issue_grant(CENTER_KEY, GRANT), **changes)


def test_grant_lists_every_failed_condition() -> None:
    with pytest.raises(PolicyError, match=r"n0002 asks; .*ended at"):
        check(issue_grant(CENTER_KEY, GRANT), requester=NodeId("n0002"), now_unix_s=2000.0)


def test_grant_of_another_key_is_refused() -> None:
    with pytest.raises(PolicyError, match="not signed by the control centre"):
        check(issue_grant(Ed25519PrivateKey.generate(), GRANT))

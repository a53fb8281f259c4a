"""Laws of the layout: a function of the tensors alone, whose cuts keep equal tensors in equal chunks."""

from __future__ import annotations

import random

import msgspec
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from daitn.artifacts.codec import complete_manifest, decode_manifest, encode_manifest
from daitn.artifacts.layout import TensorSpec, fill_payload, hash_chunks, hash_tensors, layout_faults, plan_layout
from daitn.artifacts.manifest import ITEM_BYTES, Manifest
from daitn.base.limits import CHUNK_BYTES, SMALL_TENSOR_BYTES

ROLES = ("parameter", "frozen", "buffer", "optimizer", "random")
ELEMENTS = st.one_of(
    st.integers(0, 300),
    st.integers(SMALL_TENSOR_BYTES // 4 - 20, SMALL_TENSOR_BYTES // 4 + 20),
    st.sampled_from([CHUNK_BYTES // 4, CHUNK_BYTES // 4 + 1, CHUNK_BYTES // 2 - 1]),
)


@st.composite
def spec_lists(draw: st.DrawFn, max_size: int = 12) -> list[TensorSpec]:
    names = draw(st.lists(st.text("abc.0", min_size=1, max_size=5), unique=True, max_size=max_size))
    return [
        TensorSpec(
            name=name,
            dtype=draw(st.sampled_from(sorted(ITEM_BYTES))),
            shape=(draw(ELEMENTS),),
            role=draw(st.sampled_from(ROLES)),
        )
        for name in names
    ]


def contents(specs: list[TensorSpec], salt: str = "") -> dict[str, bytes]:
    return {each.name: blake3((salt + each.name).encode()).digest(length=each.nbytes) for each in specs}


@settings(max_examples=60, deadline=None)
@given(spec_lists(), st.randoms())
def test_layout_order_of_specs_does_not_matter(specs: list[TensorSpec], rng: random.Random) -> None:
    shuffled = specs[:]
    rng.shuffle(shuffled)
    assert plan_layout(shuffled) == plan_layout(specs)


@settings(max_examples=60, deadline=None)
@given(spec_lists(max_size=40))
def test_layout_slots_are_disjoint_aligned_and_cover(specs: list[TensorSpec]) -> None:
    layout = plan_layout(specs)
    end = 0
    for entry in layout.entries:
        assert entry.offset % 64 == 0
        assert end <= entry.offset < end + 64 or entry.nbytes == 0
        end = entry.offset + entry.nbytes
    assert layout.boundaries[0] == 0
    assert layout.boundaries[-1] == layout.payload_bytes
    sizes = [b - a for a, b in zip(layout.boundaries, layout.boundaries[1:], strict=False)]
    assert all(0 < size <= CHUNK_BYTES and size % 64 == 0 for size in sizes)


@settings(max_examples=60, deadline=None)
@given(spec_lists(max_size=40))
def test_layout_chunk_is_of_one_large_tensor_or_of_small_ones_of_one_role(specs: list[TensorSpec]) -> None:
    layout = plan_layout(specs)
    for start, end in zip(layout.boundaries, layout.boundaries[1:], strict=False):
        inside = [e for e in layout.entries if e.nbytes and e.offset < end and e.offset + e.nbytes > start]
        assert len({entry.role for entry in inside}) == 1
        if any(entry.nbytes >= SMALL_TENSOR_BYTES for entry in inside):
            assert len(inside) == 1


@settings(max_examples=25, deadline=None)
@given(spec_lists(max_size=6), spec_lists(max_size=6))
def test_layout_large_tensors_keep_their_chunks_beside_any_others(
    specs: list[TensorSpec], others: list[TensorSpec]
) -> None:
    """The reason for the rule: what did not change is not sent again, whatever stands beside it."""

    def chunks_of_large(all_specs: list[TensorSpec], name: str) -> set[str]:
        layout = plan_layout(all_specs)
        refs = hash_tensors(layout, contents(all_specs))
        (entry,) = (entry for entry in layout.entries if entry.name == name)
        spans = zip(refs, layout.boundaries, strict=False)
        return {ref.id for ref, start in spans if entry.offset <= start < entry.offset + entry.nbytes}

    names = {each.name for each in specs}
    both = specs + [each for each in others if each.name not in names]
    for each in specs:
        if each.nbytes >= SMALL_TENSOR_BYTES:
            assert chunks_of_large(specs, each.name) == chunks_of_large(both, each.name)


@settings(max_examples=25, deadline=None)
@given(spec_lists(max_size=6))
def test_layout_hash_without_payload_is_the_hash_of_the_payload(specs: list[TensorSpec]) -> None:
    layout = plan_layout(specs)
    payload = bytearray(layout.payload_bytes)
    fill_payload(layout.entries, contents(specs), memoryview(payload))
    assert hash_tensors(layout, contents(specs)) == hash_chunks(payload, layout.boundaries)


@settings(max_examples=25, deadline=None)
@given(spec_lists(max_size=6), st.data())
def test_layout_any_moved_offset_is_a_fault(specs: list[TensorSpec], data: st.DataObject) -> None:
    draft = Manifest(kind="graph", name="m", parts=(), tensors=plan_layout(specs).entries, payload_bytes=0, chunks=())
    good = complete_manifest(draft, {"graph": b"g", "contract": b"c"}, contents(specs))
    assert decode_manifest(encode_manifest(good)) == good
    assert layout_faults(good) == []
    if good.tensors:
        place = data.draw(st.integers(0, len(good.tensors) - 1))
        wrong = data.draw(st.integers(0, 2 * good.payload_bytes + 64).filter(lambda o: o != good.tensors[place].offset))
        moved = list(good.tensors)
        moved[place] = msgspec.structs.replace(moved[place], offset=wrong)
        assert layout_faults(msgspec.structs.replace(good, tensors=tuple(moved)))

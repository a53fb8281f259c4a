"""Frames between node and child: what a child may say travels unchanged, whatever else it says is its fault."""

from __future__ import annotations

import typing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.strategies import same, values_of

from daitn.base.errors import PeerError
from daitn.node.sandbox.protocol import (
    HEADER,
    FromChild,
    PartOut,
    PartTaken,
    decode_answer,
    encode_frame,
)

hostile = settings(deadline=None, derandomize=True, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
few = settings(hostile, max_examples=25)

KINDS = typing.get_args(FromChild)
SEEDS = [encode_frame(PartOut(number=1, slot=3, size=70_000)), encode_frame(PartTaken(number=1, slot=9))]


def decodes_or_blames(body: bytes) -> None:
    try:
        message = decode_answer(body)
    except PeerError:
        return
    assert isinstance(message, KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_frame_of_a_child_travels_unchanged_or_is_refused_for_its_numbers(kind: type) -> None:
    @few
    @given(values_of(kind))
    def round_trip(message: typing.Any) -> None:
        try:
            decoded = decode_answer(encode_frame(message)[HEADER.size :])
        except PeerError as error:
            if "finite" not in error.what:
                raise
        else:
            assert same(decoded, message)

    round_trip()


@hostile
@given(st.binary(max_size=200))
def test_noise_is_the_childs_fault(body: bytes) -> None:
    decodes_or_blames(body)


@hostile
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_part_frames_with_flipped_bytes_are_parts_within_bounds_or_a_fault(
    seed: bytes, flips: list[tuple[int, int]]
) -> None:
    body = bytearray(seed[HEADER.size :])
    for place, value in flips:
        body[place % len(body)] = value
    decodes_or_blames(bytes(body))

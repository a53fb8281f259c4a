"""Every decoder with hostile bytes: a value, or an error that says who must act; never a trace, a hang or our bug.

The table is `tests/decoders.py`. Decoders with a suite of their own (wire, manifest, graph) are driven there.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from tests.decoders import CASES
from tests.hostile import EXTREMES, Case, hostile_bytes, survives

from daitn.base.errors import DaitnError

hostile = settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One folder for all files, in memory where the machine has such."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="hostile-", dir=base) as made:
        yield Path(made)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decoder_survives_what_is_known_to_hurt(case: Case, folder: Path) -> None:
    for data in (*EXTREMES, *case.seeds, *(seed[: len(seed) // 2] for seed in case.seeds)):
        survives(lambda data=data: case.call(data, folder))  # type: ignore[misc]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decoder_survives_hostile_bytes(case: Case, folder: Path) -> None:
    @hostile
    @given(hostile_bytes(case))
    def drive(data: bytes) -> None:
        survives(lambda: case.call(data, folder))

    drive()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decoder_takes_what_is_right(case: Case) -> None:
    """Else the bytes above would only knock at the door."""
    taken = 0
    for seed in case.seeds:
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder, contextlib.suppress(DaitnError):
            case.call(seed, Path(folder))
            taken += 1
    assert taken or case.name in ONLY_REFUSED, "no seed of this case is taken"


ONLY_REFUSED = {
    "oam.proofs.read_proof",
    "sdk.jobs.read_event (error)",
    "node.readers.sources._head",
}
"""Decoders whose good bytes are signed by keys that no test has, or that answer with an error by their nature."""

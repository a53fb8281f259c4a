"""For all tests: no process outlives the module that started it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.leaks import adopt_orphans, left_over, running_children


@pytest.fixture(scope="session", autouse=True)
def _reaper() -> None:
    adopt_orphans()


@pytest.fixture(scope="module", autouse=True)
def _no_process_left(_reaper: None) -> Iterator[None]:
    before = running_children()
    yield
    left = left_over(before)
    assert not left, "processes are left over: " + "; ".join(left)

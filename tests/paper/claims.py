"""Claims of the paper, each with the test that shows it and the names that carry it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

Test = TypeVar("Test", bound=Callable[..., None])


class Claim(NamedTuple):
    """What the paper says, in our words; where; who carries it; which test shows it."""

    section: str
    says: str
    names: tuple[str, ...]
    test: str


CLAIMS: Final[list[Claim]] = []


def claim(section: str, says: str, *names: str) -> Callable[[Test], Test]:
    """Marks a test as the one that shows a claim."""

    def mark(test: Test) -> Test:
        CLAIMS.append(Claim(section, says, names, f"{test.__module__.rpartition('.')[2]}.py::{test.__name__}"))
        return test

    return mark

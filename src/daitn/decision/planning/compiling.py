"""Compiled inner loops, by numba, which is imported with the first module that has some.

Plain Python makes about a thousandth of the search steps. A control centre that plans no whole routes never loads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Compile a function of numbers and arrays, and keep what was compiled beside its module where that can be
    written."""
    import numba

    made: Any = numba.njit(cache=True, nogil=True)(function)
    return made  # type: ignore[no-any-return]

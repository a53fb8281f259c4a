"""Doing several things at once in a demonstration, and waiting for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any, TypeVar

T = TypeVar("T")


def begin(work: Callable[..., T], *arguments: Any) -> Future[T]:
    """Do something beside. Its thread is a daemon: when the play is broken off, nobody waits for its watchers."""
    future: Future[T] = Future()

    def body() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=body, daemon=True).start()
    return future


def results(futures: Sequence[Future[T]]) -> list[T]:
    """All results, or the first error as soon as it happens."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
    return [future.result() for future in futures]

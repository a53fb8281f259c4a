"""Problems of a core, solved on a thread of their own, one after the other (`base.effects.Compute`).

One thread, because what is solved is mostly Python or holds the processor: a second would slow the first and, with it,
the event loop. The oldest key comes first, so no key waits for ever behind one that asks again and again. A problem
that another of its key has replaced is not begun, and where it was under way its answer is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from daitn.base.effects import Compute, Computed, computed


class Computing:
    """See the module's docstring. `answer` takes what was found; `spawn` runs a coroutine whose errors stop the
    node."""

    def __init__(
        self, answer: Callable[[Computed], None], spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        self._answer = answer
        self._spawn = spawn
        self._waiting: dict[str, Compute] = {}
        self._under_way: Compute | None = None
        self._busy = False
        self._thread: ThreadPoolExecutor | None = None

    def begin(self, effect: Compute) -> None:
        """Solve a problem when its turn comes; it takes the place of an earlier one of its key."""
        if self._under_way is not None and self._under_way.key == effect.key:
            self._under_way = None
        self._waiting[effect.key] = effect
        if not self._busy:
            self._busy = True
            self._spawn(self._solve_all())

    async def _solve_all(self) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="computing")
        try:
            while self._waiting:
                effect = self._under_way = self._waiting.pop(next(iter(self._waiting)))
                event = await asyncio.get_running_loop().run_in_executor(self._thread, computed, effect)
                if self._under_way is effect:
                    self._under_way = None
                    self._answer(event)
        finally:
            self._busy = False

    def stop(self) -> None:
        """Begin nothing more; what is under way ends by itself, within its iterations, and is answered to nobody."""
        self._waiting.clear()
        self._under_way = None
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

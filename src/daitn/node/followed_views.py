"""Waiting for what the planner of a job is told next (DRRT-A), for an owner who follows along."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from daitn.descriptors.view import ViewFollowed

WAIT_MOST_S: Final = 20.0
"""Longest wait of one call: below what proxies allow."""


async def when_told(
    told: Callable[[], ViewFollowed], changed: Callable[[], asyncio.Event], wait_s: float
) -> ViewFollowed:
    """What `told` says once there is something new, or as it is when the wait is over; `changed`: the event of the
    job's next change."""
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + (min(wait_s, WAIT_MOST_S) if wait_s > 0 else 0.0)  # NaN is no time to wait
    while True:
        event = changed()
        now = told()
        left_s = give_up_s - loop.time()
        if now.view is not None or now.steps or now.over or left_s <= 0:
            return now
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), left_s)

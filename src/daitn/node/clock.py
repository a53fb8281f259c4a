"""The node's clock: Unix time when the process started, moving with the monotonic clock since.

So deadlines in a journal survive a restart, and a clock that is set while the process runs changes nothing.
"""

from __future__ import annotations

import time


class NodeClock:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_ns(self) -> int:
        """Nanoseconds, never going back within a process."""
        return time.monotonic_ns() + self._offset_ns

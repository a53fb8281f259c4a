"""The node's clock: Unix time when the process started, moving with the monotonic clock since.

So deadlines in a journal survive a restart, and a clock that is set while the process runs changes nothing.
"""

from __future__ import annotations

import time


class NodeClock:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def not_before(self, moment_ns: int) -> None:
        """Never show less than this: what was written at a moment lies in the past, however the machine's clock was
        set between two starts. Without it, waits counted from what was written would last as long as the clock was set
        back."""
        self._offset_ns = max(self._offset_ns, moment_ns - time.monotonic_ns())

    def now_ns(self) -> int:
        """Nanoseconds, never going back within a process."""
        return time.monotonic_ns() + self._offset_ns

"""The first thing a child does: lower its own limits, for good. No import beyond the standard library."""

from __future__ import annotations

import json
import os
import resource
import signal

GRACE_S = 2
"""Processor seconds between the signal that can be told from others (SIGXCPU) and the kernel's final one."""


def confine(limits_json: str) -> None:
    """Set hard limits from the launcher's `Limits` as JSON; a hard limit cannot be raised again without privilege."""
    limits = json.loads(limits_json)
    for kind, soft, hard in (
        (resource.RLIMIT_DATA, limits["memory_bytes"], limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_s"], limits["cpu_s"] + GRACE_S),
        (resource.RLIMIT_FSIZE, limits["file_bytes"], limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["files"], limits["files"]),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(kind, (soft, hard))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)

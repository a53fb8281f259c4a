"""Links that a router refuses in TLS, counted from what its library logs: it tells nobody of them otherwise.

The library writes its log to standard output. A pipe takes that over and a thread reads it: a line about a handshake
that failed, or a certificate that ran out, is counted, and all of them are summed up in the log now and then, since
whoever knocks may knock often; every other line goes to standard error as it is.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Final

from daitn.base.metrics import Counters

LEVELS: Final = "error,zenoh_link_tls=warn,zenoh_link_commons=warn"
"""What the library has to log; `RUST_LOG` overrules it, and a router that logs no warnings counts nothing here."""

_WHY: Final = (
    ("peer sent no certificates", "none"),
    ("certificate expired", "expired"),
    ("certificate chain expired", "expired"),
    ("invalid peer certificate", "wrong"),
)
"""What the library says, and the label it is counted by; the first that fits."""

_HANDSHAKE: Final = ("WARN", "zenoh_link_tls")
"""Marks of any other handshake that failed: who came speaks no TLS, or went away in the middle."""

_OWN_FAULTS: Final = ("Too many open files", "os error 24", "os error 23")
"""Of the same marks, but nobody was refused: this machine is short of something, and the log says so."""


class RefusedLinks:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.counters = Counters()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take over this process's standard output; what Python prints goes where it went before."""
        sys.stdout.flush()
        printed, kept = sys.stdout, os.dup(1)
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(writing)
        reader = threading.Thread(target=self._read, args=(reading,), name="refused-links", daemon=True)
        reader.start()
        try:
            with os.fdopen(os.dup(kept), "w", encoding="utf-8", buffering=1) as sys.stdout:
                yield
        finally:
            sys.stdout = printed
            os.dup2(kept, 1)  # ends the pipe, and with it the thread
            os.close(kept)
            reader.join()

    def _read(self, reading: int) -> None:
        with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                why = refusal_in(line)
                if why is None:
                    sys.stderr.write(line)
                    sys.stderr.flush()
                else:
                    self.counters.count("links_refused", why)


def refusal_in(line: str) -> str | None:
    """Why a link was refused, as a label of `links_refused`, if that is what a line of the library's log says."""
    for words, why in _WHY:
        if words in line:
            return why
    if all(mark in line for mark in _HANDSHAKE) and not any(fault in line for fault in _OWN_FAULTS):
        return "other"
    return None

"""The ledger of links: every connection and stream of this node, from its making to its end, with what it carried.

Whoever makes a link opens an entry and closes it with the link, so the ledger shows what exists and nothing else.
Entries are written by many threads; a snapshot is consistent per entry. Round trip and loss of a direct connection are
the kernel's own (`TCP_INFO`), read when somebody looks, so measuring them costs no byte.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from daitn.base.ids import NodeId
from daitn.descriptors.links import LINKS, LinkKind, LinkState
from daitn.descriptors.places import ROUND_TRIP_MOST_S

_TCP_INFO: Final = struct.Struct("@8B24I4Q8I")
"""`struct tcp_info` of Linux up to `tcpi_data_segs_out` (4.6): eight bytes, 24 counts of which the 16th is the smoothed
round trip in microseconds and the last the segments sent again, four 64-bit figures, eight counts."""

_STATE: Final = 0
_ESTABLISHED: Final = 1
_RTT: Final = 8 + 15
_RETRANSMITTED: Final = 8 + 23
_DATA_SEGMENTS_OUT: Final = 8 + 24 + 4 + 5


class Figures(msgspec.Struct, frozen=True):
    """What the kernel measured of a connection."""

    round_trip_s: float | None = None
    lost_frac: float = 0.0
    standing: bool = True
    """Whether the connection is established; one that its peer closed, or that died, is not."""


class TransferSeen(msgspec.Struct, frozen=True):
    """Chunks came from a peer: how much, in how long, by which way."""

    peer: NodeId
    direct: bool
    moved_bytes: int
    seconds: float


class LinksNow(msgspec.Struct, frozen=True):
    """All links that there are, and the payload carried so far by these and those before."""

    links: tuple[LinkState, ...]
    carried_bytes: int


class Entry:
    """One link while it exists; `sent` and `received` may be called from any thread."""

    def __init__(self, ledger: LinkLedger, state: LinkState, look: Callable[[], Figures] | None) -> None:
        self._ledger = ledger
        self._state = state
        self._look = look
        self._lock = threading.Lock()
        self._sent = self._received = 0

    def sent(self, count: int) -> None:
        """So many bytes of payload went out."""
        with self._lock:
            self._sent += count

    def received(self, count: int) -> None:
        """So many bytes of payload came in."""
        with self._lock:
            self._received += count

    def use_as(self, kind: LinkKind) -> None:
        """The link is used for something else from now on."""
        self._state = msgspec.structs.replace(self._state, kind=kind)
        self._ledger.changed()

    def close(self) -> None:
        """The link is gone; a second call changes nothing."""
        self._ledger.close(self._state.number)

    def carried(self) -> int:
        """Bytes both ways."""
        with self._lock:
            return self._sent + self._received

    def state(self) -> LinkState:
        """The link now."""
        figures = self._look() if self._look is not None else Figures()
        with self._lock:
            sent, received = self._sent, self._received
        return msgspec.structs.replace(
            self._state,
            sent_bytes=sent,
            received_bytes=received,
            round_trip_s=figures.round_trip_s,
            lost_frac=figures.lost_frac,
        )


class LinkLedger:
    """See the module's docstring. `on_change` is called, from any thread, when a link is made or gone; `on_transfer`
    with what was fetched."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.on_transfer: Callable[[TransferSeen], None] = lambda _: None
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._entries: dict[int, Entry] = {}
        self._carried_before = 0

    def open(
        self,
        peer: NodeId,
        kind: LinkKind,
        *,
        direct: bool = False,
        opened_here: bool = True,
        address: str = "",
        look: Callable[[], Figures] | None = None,
    ) -> Entry:
        """A link was made."""
        state = LinkState(
            number=next(self._numbers),
            peer=peer,
            kind=kind,
            direct=direct,
            opened_here=opened_here,
            address=address,
            since_unix_s=time.time(),
        )
        entry = Entry(self, state, look)
        with self._lock:
            self._entries[state.number] = entry
        self.changed()
        return entry

    def close(self, number: int) -> None:
        """A link is gone."""
        with self._lock:
            entry = self._entries.pop(number, None)
            if entry is not None:
                self._carried_before += entry.carried()
        if entry is not None:
            self.changed()

    def changed(self) -> None:
        """Which links there are, or what one is used for, is different now."""
        self.on_change()

    def now(self) -> LinksNow:
        """All links, oldest first, `LINKS` of them at most. O(links)."""
        with self._lock:
            entries, before = list(self._entries.values()), self._carried_before
        carried = before + sum(entry.carried() for entry in entries)
        return LinksNow(tuple(entry.state() for entry in entries[:LINKS]), carried)


def figures_of(connection: socket.socket) -> Figures:
    """What the kernel says of a TCP connection; nothing where it is closed or the system does not tell."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return Figures()
    try:
        return decode_tcp_info(connection.getsockopt(socket.IPPROTO_TCP, option, _TCP_INFO.size))
    except (OSError, ValueError):
        return Figures(standing=False)


def decode_tcp_info(data: bytes) -> Figures:
    """Round trip and loss from `struct tcp_info`; nothing from a shorter one, of an older kernel."""
    if len(data) < _TCP_INFO.size:
        return Figures()
    info = _TCP_INFO.unpack(data[: _TCP_INFO.size])
    sent = info[_DATA_SEGMENTS_OUT]
    lost = info[_RETRANSMITTED] / sent if sent else 0.0
    round_trip_s = info[_RTT] / 1e6
    known = 0 < round_trip_s <= ROUND_TRIP_MOST_S
    return Figures(round_trip_s if known else None, min(1.0, lost), info[_STATE] == _ESTABLISHED)

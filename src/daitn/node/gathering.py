"""Gathering: the chunks of one artifact, pulled from several holders at once.

The receiver cuts what is missing into shares and gives each holder one at a time; who is fast gets more of them. A
share is a part of what is left (guided self-scheduling: C. Polychronopoulos and D. Kuck, IEEE Transactions on Computers
36(12), 1987), so that all end together without many small requests; one holder alone gets all at once. What a holder
that fails had not delivered goes back to the rest. A holder that falls silent or is far slower than the others is left
when these have nothing else to do, and its share taken over. A chunk that was verified is never asked for again; of a
holder that is left, what is in flight is lost.

What it does not do: find holders, or know of grants and manifests (`moving`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from daitn.base.errors import DaitnError, NoRoomError, NotHeldError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import ArtifactId, ChunkId, GrantId, NodeId
from daitn.node.fabric.chunks import WrongChunkError
from daitn.node.fabric.contract import ChunkWant, Fabric, Holder
from daitn.node.store import Receipt

HOLDERS_AT_ONCE: Final = 3
"""Holders pulled from at a time: two outrun most lines of a receiver, the third hides that one of them is slow."""

SHARE_LEAST: Final = 8
"""Chunks in a share at least: 16 MiB, over which one more request is lost in the noise."""

LOOK_S: Final = 0.25
"""How often holders that work are looked at while others have nothing to do."""

SILENT_S: Final = 2.0
"""A holder that delivered nothing for this long is left once others are free: 70 times what a chunk takes at 1 Gbit/s
over 100 ms."""

SLOW: Final = 4.0
"""One that would need this many times as long for what it owes as a free holder would is left, too."""

_log = logging.getLogger(__name__)


class Gathering:
    """See the module's docstring. For one receipt; `moved_bytes` is what has arrived and was verified."""

    def __init__(self, fabric: Fabric, receipt: Receipt, grant: GrantId, holders: Sequence[Holder]) -> None:
        self.moved_bytes = 0
        self._fabric = fabric
        self._receipt = receipt
        self._grant = grant
        self._waiting = deque(ChunkWant(ChunkId(want.id), want.size, want.offset) for want in receipt.wants)
        self._free = deque(_Source(holder) for holder in holders)
        self._left: deque[_Source] = deque()
        """Holders that were too slow: asked again only when nobody else is there."""
        self._working: dict[asyncio.Task[None], _Share] = {}
        self._faults: list[DaitnError] = []
        self._lacking: list[NodeId] = []
        self._fatal: DaitnError | None = None

    async def run(self) -> None:
        """Fetch all that the receipt misses.

        UnavailableError naming what each holder said where they have not all of it together, NotHeldError where some
        answered so, PolicyError where all refuse, NoRoomError where this disk is full. What arrived before is kept in
        the receipt.
        """
        try:
            while True:
                self._give_shares()
                if not self._working:
                    break
                idle = bool(self._free) and not self._waiting
                done, _ = await asyncio.wait(
                    self._working, timeout=LOOK_S if idle else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    self._settle(task)
                if self._fatal is not None:
                    raise self._fatal
                if not self._waiting and self._free:
                    await self._take_over()
        finally:
            await self._stop(list(self._working))
        if self._waiting:
            raise self._failed()

    def _give_shares(self) -> None:
        while self._waiting and len(self._working) < HOLDERS_AT_ONCE:
            if not self._free and self._left and not self._working:
                self._free.append(self._left.popleft())
            if not self._free:
                return
            source = self._free.popleft()
            hands = min(HOLDERS_AT_ONCE, len(self._free) + len(self._working) + 1)
            count = len(self._waiting)
            if hands > 1:
                count = max(SHARE_LEAST, math.ceil(count / (2 * hands)))
            share = _Share(source, [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))])
            self._working[asyncio.ensure_future(self._pull(share))] = share

    async def _pull(self, share: _Share) -> None:
        await self._fabric.fetch_chunks(
            share.source.holder,
            self._receipt.artifact,
            self._grant,
            list(share.owed.values()),
            self._receipt.fileno(),
            on_chunk=lambda chunk: self._arrived(share, chunk),
        )

    def _arrived(self, share: _Share, chunk: ChunkId) -> None:
        """A chunk was verified and written. Called by the fabric: a fault is kept for `run` to raise."""
        want = share.owed.pop(chunk, None)
        if want is None:
            return
        share.heard_s = time.monotonic()
        share.source.took(want.size, share.heard_s - share.began_s, share)
        try:
            self._receipt.mark(chunk)
        except DaitnError as error:
            self._fatal = self._fatal or error
            return
        self.moved_bytes += want.size

    def _settle(self, task: asyncio.Task[None]) -> None:
        """A holder is done with its share, or has failed in it."""
        share = self._working.pop(task)
        self._waiting.extendleft(reversed(share.owed.values()))
        source = share.source
        try:
            task.result()
        except NoRoomError as error:
            self._fatal = self._fatal or error
        except (UnavailableError, PeerError, PolicyError) as error:
            _log.info("holder %s of %s: %s", source.holder.node, self._receipt.artifact[:16], error)
            self._faults.append(error)
            self._lacking += [source.holder.node] if isinstance(error, NotHeldError | WrongChunkError) else []
        else:
            self._free.appendleft(source)

    async def _take_over(self) -> None:
        """Leave those that hold the end up, so that the free ones do what they owe."""
        best = max(source.bytes_per_s for source in self._free)
        now_s = time.monotonic()
        slow = [task for task, share in self._working.items() if share.is_slow(best, now_s)]
        shares = [self._working[task] for task in slow]
        await self._stop(slow)
        for share in shares:
            _log.info("holder %s of %s is left: too slow", share.source.holder.node, self._receipt.artifact[:16])
            self._waiting.extendleft(reversed(share.owed.values()))
            self._left.append(share.source)

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        """End pulls; when this returns, nothing more of them is written."""
        for task in tasks:
            task.cancel()
            self._working.pop(task, None)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _failed(self) -> DaitnError:
        return not_fetched(self._receipt.artifact, self._faults, self._lacking)


def not_fetched(artifact: ArtifactId, faults: Sequence[DaitnError], lacking: Sequence[NodeId]) -> DaitnError:
    """Why an artifact could not be had: what each holder said, and which of them do not hold it, or not undamaged."""
    said = "; ".join(error.what for error in faults) or "nobody that holds it can be reached"
    what = f"artifact {artifact[:16]} cannot be fetched: {said}"
    if lacking:
        return NotHeldError(what, artifact=artifact, holders=tuple(dict.fromkeys(lacking)))
    refused = faults and all(isinstance(error, PolicyError) for error in faults)
    return PolicyError(what) if refused else UnavailableError(what)


class _Source:
    """A holder and how fast it has been."""

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        self.bytes_per_s = 0.0
        self._share: _Share | None = None
        self._bytes = 0

    def took(self, size: int, seconds: float, share: _Share) -> None:
        """Another chunk of its present share came, so long after that began."""
        if share is not self._share:
            self._share, self._bytes = share, 0
        self._bytes += size
        self.bytes_per_s = self._bytes / max(seconds, 1e-6)


class _Share:
    """What one holder was asked for, and what of it has not come yet."""

    def __init__(self, source: _Source, wants: Sequence[ChunkWant]) -> None:
        self.source = source
        self.owed: dict[ChunkId, ChunkWant] = {want.id: want for want in wants}
        self.began_s = self.heard_s = time.monotonic()

    def is_slow(self, best_bytes_per_s: float, now_s: float) -> bool:
        """Whether a holder as fast as that would be done much sooner with what is owed."""
        if not self.owed:
            return False
        if now_s - self.heard_s > SILENT_S:
            return True
        owed = sum(want.size for want in self.owed.values())
        rate = self.source.bytes_per_s if self.heard_s > self.began_s else 0.0
        needs_s = owed / rate if rate else now_s - self.began_s
        return best_bytes_per_s > 0 and needs_s > SILENT_S and needs_s > SLOW * owed / best_bytes_per_s

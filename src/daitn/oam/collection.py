"""Collection: what the parts of a process counted, added up; and at the control centre, what every node counted.

Paper II-A: OAM collects. A process gives its parts' books to one `Collection`; a node tells its sums to the centre as
telemetry and keeps them in a file of its folder, so that `daitn counters` answers at the site without a network. The
centre keeps the newest of each node. Only series that are declared (`base.metrics`) are kept, so a node that
invents names fills nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.ids import NodeId
from daitn.base.metrics import Count, Counters, is_declared
from daitn.wire.oam import Counted

FILE: Final = "counters.json"
"""Where a node keeps its counters, in its folder."""

FILE_BYTES: Final = 64 * 1024
"""Largest such file that is read; ours have at most 12 kB."""

NODES: Final = 100_000
"""Nodes whose counters a centre keeps; each has a slot, so this is never met by members."""

Source = Callable[[], Iterable[Count]]


class Collection:
    """The counters of one process; see the module's docstring."""

    def __init__(self, since_unix_s: float, *books: Counters) -> None:
        self.since_unix_s = since_unix_s
        self._sources: list[Source] = [book.snapshot for book in books]

    def add(self, source: Source) -> None:
        """Also what `source` gives whenever it is asked."""
        self._sources.append(source)

    def counted(self) -> Counted:
        """Sums of all parts, by name."""
        sums: dict[tuple[str, str], int] = {}
        for source in self._sources:
            for one in source():
                sums[one.name, one.value] = sums.get((one.name, one.value), 0) + one.count
        counts = (Count(name=name, value=value, count=count) for (name, value), count in sorted(sums.items()) if count)
        return Counted(since_unix_s=self.since_unix_s, counts=tuple(counts))


def prefixed(prefix: str, counts: Mapping[str, int]) -> tuple[Count, ...]:
    """Counts that a part keeps by names of its own (fabric, store), as those declared with a prefix."""
    return tuple(Count(name=f"{prefix}_{name}", count=count) for name, count in counts.items())


class DomainCounters:
    """The newest counters of every node of a domain."""

    def __init__(self) -> None:
        self._nodes: dict[NodeId, Counted] = {}

    def take(self, node: NodeId, counted: Counted) -> None:
        """Keep what a node told, without the series that are not declared here."""
        if node in self._nodes or len(self._nodes) < NODES:
            known = tuple(one for one in counted.counts if is_declared(one.name, one.value))
            self._nodes[node] = msgspec.structs.replace(counted, counts=known)

    def forget(self, node: NodeId) -> None:
        """The node has left."""
        self._nodes.pop(node, None)

    def all(self) -> tuple[tuple[NodeId, Counted], ...]:
        """Each node that told something, by id."""
        return tuple(sorted(self._nodes.items()))


def read_counters(folder: Path) -> Counted:
    """The counters kept in a node's folder; InputError where there are none or the file is damaged."""
    path = folder / FILE
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(FILE_BYTES), type=Counted)
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no counters", todo="give the folder of a node that was started, or an operator's token"
        ) from None
    except UNDECODABLE as error:
        raise InputError(f"{path} does not decode: {error}", todo="it is written anew while the node runs") from None

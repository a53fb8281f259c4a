"""All peers, one after the other: their rows, their versions, and why one was left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.peers import flower, nvflare
from benchmarks.peers.environments import PeerAbsentError, is_ready
from daitn.base.errors import UnavailableError


class Peer(NamedTuple):
    """How to measure one, and how long that takes on two cores with `--quick`."""

    name: str
    requirement: str
    measure: Callable[..., dict[str, float]]
    quick_s: float


PEERS: Final = (
    Peer(nvflare.NAME, nvflare.REQUIREMENT, nvflare.measure, 60.0),
    Peer(flower.NAME, flower.REQUIREMENT, flower.measure, 80.0),
)


class Measured(NamedTuple):
    """`rows`: figures by peer; `versions`: of those with a row; `said`: one sentence for each that has none."""

    rows: dict[str, dict[str, float]]
    versions: dict[str, str]
    said: list[str]


def measure_peers(folder: Path, sizes_bytes: dict[str, int], *, quick: bool, left_s: float) -> Measured:
    """With `quick` only peers that are installed already, and only where `left_s` seconds are enough for them."""
    give_up = time.monotonic() + left_s
    measured = Measured({}, {}, [])
    for peer in PEERS:
        left = give_up - time.monotonic()
        if quick and not is_ready(peer.name, peer.requirement):
            measured.said.append(f"{peer.name} was left out: not installed, and --quick installs nothing")
        elif quick and left < peer.quick_s:
            measured.said.append(
                f"{peer.name} was left out: it takes {peer.quick_s:.0f} s, {max(0.0, left):.0f} s of --quick are left"
            )
        else:
            try:
                measured.rows[peer.name] = peer.measure(folder / peer.name, sizes_bytes, quick=quick)
            except (PeerAbsentError, UnavailableError, OSError) as error:
                measured.said.append(f"{peer.name} was left out: {error}")
                continue
            package, _, version = peer.requirement.partition("==")
            measured.versions[package] = version
    return measured

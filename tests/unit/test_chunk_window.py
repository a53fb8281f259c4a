"""The window of chunk requests: one piece at first, whole chunks on fast links, a piece again where one turns slow."""

from __future__ import annotations

import pytest

from daitn.base.limits import CHUNK_BYTES
from daitn.node.fabric.chunks import FAST_BYTES_PER_S, PIECE_BYTES, PIECES, WINDOW_MAX, WINDOW_WHOLE, Window


class Link:
    """A link that carries so many bytes a second at most, and answers after so long: what comes when."""

    def __init__(self, bytes_per_s: float, delay_s: float) -> None:
        self.bytes_per_s, self.delay_s = bytes_per_s, delay_s
        self.window = Window()
        self.now_s = 0.0

    def carry(self, seconds: float) -> None:
        """Keep the window full for a while."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            size = CHUNK_BYTES if self.window.size >= WINDOW_WHOLE else PIECE_BYTES
            in_flight = max(1, self.window.size * PIECE_BYTES // size)
            rate = min(self.bytes_per_s, in_flight * size / (self.delay_s + size / self.bytes_per_s))
            self.now_s += size / rate
            self.window.arrived(size, self.now_s)


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("bytes_per_s", [5e4, 2.5e5, 2e6])
def test_what_waits_for_a_slow_link_stays_small(bytes_per_s: float, delay_s: float) -> None:
    link = Link(bytes_per_s, delay_s)
    link.carry(120)
    needed = bytes_per_s * delay_s
    assert link.window.size * PIECE_BYTES <= 4 * max(PIECE_BYTES, needed)


@pytest.mark.parametrize("delay_s", [0.0005, 0.02, 0.1])
def test_fast_links_carry_whole_chunks(delay_s: float) -> None:
    link = Link(1e8, delay_s)
    link.carry(20)
    assert link.window.size >= WINDOW_WHOLE
    assert link.window.size <= WINDOW_MAX


def test_link_that_turns_slow_goes_back_to_a_piece_and_comes_again() -> None:
    link = Link(1e8, 0.001)
    link.carry(5)
    assert link.window.size >= WINDOW_WHOLE
    link.bytes_per_s = 1e6
    link.carry(400)
    assert link.window.size <= PIECES
    link.bytes_per_s = 1e8
    link.carry(5)
    assert link.window.size >= WINDOW_WHOLE


def test_first_request_is_one_piece() -> None:
    assert Window().size == 1
    assert FAST_BYTES_PER_S * 0.25 >= 2 * CHUNK_BYTES * 0.95

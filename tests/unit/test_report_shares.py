"""Shares of reports: within them nothing is cut, beyond them nobody else loses anything."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from daitn.base.ids import NodeId
from daitn.node.fabric.report_shares import REPORT_LEAST, UNASKED_BYTES, WINDOW_S, ReportShares

LOUD, QUIET = NodeId("n0001"), NodeId("n0002")


def test_report_within_its_share_is_handed_on_untouched():
    asked: list[NodeId] = []
    shares = ReportShares(lambda node: asked.append(node) or 0.0)
    senders, payloads = [LOUD, QUIET] * 10, [bytes(100)] * 20

    assert shares.within(senders, payloads, 5.0) == (senders, payloads, {})
    assert not asked


def test_flood_is_cut_by_sender_and_in_order():
    shares = ReportShares(lambda _: 10_000.0)
    payloads = [b"%04d" % number + bytes(996) for number in range(30)]

    senders, kept, cut = shares.within([LOUD] * 30 + [QUIET], [*payloads, b"mine"], 5.0)

    assert (senders, kept) == ([LOUD] * 20 + [QUIET], [*payloads[:20], b"mine"])
    assert cut == {LOUD: 10}


def test_flood_of_empty_reports_is_one_too():
    shares = ReportShares(lambda _: 0.0)

    _, kept, cut = shares.within([LOUD] * 1000, [b""] * 1000, 5.0)

    assert len(kept) == UNASKED_BYTES // REPORT_LEAST
    assert cut == {LOUD: 1000 - len(kept)}


def test_share_is_there_again_in_the_next_window_and_after_a_clock_that_went_back():
    shares = ReportShares(lambda _: 0.0)
    flood = ([LOUD] * 200, [bytes(64)] * 200)
    assert shares.within(*flood, 5.0)[2]
    assert shares.within([LOUD], [b"x"], 5.0 + WINDOW_S - 0.01)[2] == {LOUD: 1}

    assert not shares.within([LOUD], [b"x"], 5.0 + WINDOW_S)[2]
    shares.within(*flood, 5.0 + WINDOW_S)
    assert not shares.within([LOUD], [b"x"], 1.0)[2]


@given(
    batches=st.lists(
        st.tuples(
            st.floats(0, 10),
            st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4000)), max_size=20),
        ),
        max_size=12,
    ),
    rate=st.floats(0, 50_000),
)
def test_nobody_gets_more_than_a_window_and_nothing_is_lost_uncounted(batches, rate):
    shares = ReportShares(lambda _: rate)
    most = max(UNASKED_BYTES, WINDOW_S * rate)
    taken: Counter[str] = Counter()
    began = None
    for moment_s, reports in sorted(batches, key=lambda one: one[0]):
        if began is None or moment_s - began >= WINDOW_S:
            began, taken = moment_s, Counter()
        senders = [NodeId(name) for name, _ in reports]
        kept_senders, kept, cut = shares.within(senders, [bytes(size) for _, size in reports], moment_s)
        for sender, payload in zip(kept_senders, kept, strict=True):
            taken[sender] += max(REPORT_LEAST, len(payload))
        assert all(total <= most for total in taken.values())
        assert Counter(kept_senders) + Counter(cut) == Counter(senders)

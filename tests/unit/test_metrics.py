"""Counters: declared once, bounded whatever happens, added up by process and kept by node at the centre."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import msgspec
import pytest
from tests.builders import JOB, Bench, make_mixer, make_site, make_unit

import daitn
from daitn.base.effects import replay
from daitn.base.errors import BugError, InputError, PeerError
from daitn.base.ids import CENTER, NodeId
from daitn.base.metrics import BLAMES, METRICS, SERIES, Count, Counters, Metric
from daitn.control_center.tools_desk import ToolsDesk
from daitn.node.counting import fabric_counts, write_counters
from daitn.node.fabric.contract import TELEMETRY_BYTES, FabricCounters
from daitn.node.http.tokens import TokenFault
from daitn.node.sandbox.protocol import BLAME, FailReason
from daitn.node.slot_book import RefusalReason
from daitn.oam.collection import FILE, NODES, Collection, DomainCounters, prefixed, read_counters
from daitn.tools.agent import ToolsAgent
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.wire.center_tools import VisitFailed
from daitn.wire.oam import COUNTED_BYTES, SERIES_MOST, Counted, decode_counted, encode_counted

SOURCES = [path.read_text() for path in Path(daitn.__file__).parent.rglob("*.py")]
NODE = NodeId("n0001")


def told(*counts: Count) -> Counted:
    return Counted(since_unix_s=5.0, counts=counts)


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_metric_says_what_a_rise_means_and_tells_apart_what_it_labels(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z_]{2,40}", metric.name)
    assert len(metric.rise) > 20
    assert bool(metric.label) == (metric.values != ("",))
    assert len(set(metric.values)) == len(metric.values) <= 16


def test_metrics_with_words_of_other_modules_know_all_of_them() -> None:
    assert set(METRICS["runs_failed"].values) == {reason.value for reason in FailReason}
    assert set(METRICS["tokens_refused"].values) == {fault.value for fault in TokenFault}
    assert {reason.value for reason in RefusalReason} < set(METRICS["enrolments"].values)
    assert set(BLAME.values()) <= set(BLAMES)
    assert {one.name for one in fabric_counts(FabricCounters())} <= set(METRICS)


def test_metrics_of_the_store_are_those_it_counts() -> None:
    counted = {f"store_{name}" for text in SOURCES for name in re.findall(r'counts\["(\w+)"\] \+= ', text)}
    assert counted == {name for name in METRICS if name.startswith("store_")}


def test_metrics_of_the_tools_are_those_that_the_centre_and_its_terminals_count() -> None:
    counted = {f"tools_{name}" for name in ToolsDesk(KnowledgeMap()).counts()}
    assert {f"tools_{name}" for name in ToolsAgent(CENTER).counts()} < counted
    assert counted == {name for name in METRICS if name.startswith("tools_")}


def test_every_metric_is_counted_somewhere_and_every_count_is_declared() -> None:
    calls = {name for text in SOURCES for name in re.findall(r'count\(\s*"(\w+)"', text)}
    assert calls == {name for name in METRICS if not name.startswith(("fabric_", "store_", "tools_"))}


def test_counters_refuse_what_is_not_declared_so_that_series_are_bounded() -> None:
    counters = Counters()
    for name, value in (("visits", ""), ("visits_failed", "n0001"), ("visits_failed", ""), ("leases_lapsed", "x")):
        with pytest.raises(BugError, match="not declared"):
            counters.count(name, value)
    for metric in METRICS.values():
        for value in metric.values:
            counters.count(metric.name, value)
    assert len(counters.snapshot()) == SERIES <= SERIES_MOST
    assert len(encode_counted(told(*counters.snapshot()))) < min(TELEMETRY_BYTES, COUNTED_BYTES) / 4


def test_counters_add_up_over_labels_and_threads() -> None:
    counters = Counters()
    threads = [
        threading.Thread(target=lambda: [counters.count("visits_failed", "peer") for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters.count("visits_failed", "bug", by=3)
    assert (counters.of("visits_failed"), counters.of("visits_failed", "peer")) == (2003, 2000)
    assert counters.shown() == {"visits_failed[peer]": 2000, "visits_failed[bug]": 3}


def test_collection_adds_up_the_parts_of_a_process() -> None:
    one, other = Counters(), Counters()
    one.count("messages_not_sent")
    other.count("messages_not_sent", by=2)
    collection = Collection(5.0, one, other)
    collection.add(lambda: prefixed("store", {"evicted": 4, "corrupt": 0}))
    assert collection.counted() == told(Count(name="messages_not_sent", count=3), Count(name="store_evicted", count=4))


def test_domain_keeps_the_newest_of_each_node_and_nothing_undeclared() -> None:
    domain = DomainCounters()
    domain.take(NODE, told(Count(name="leases_lapsed", count=1)))
    invented = (Count(name=f"x{number}", count=1) for number in range(100))
    domain.take(NODE, told(Count(name="leases_lapsed", count=2), Count(name="leases_lapsed", value="y"), *invented))
    assert domain.all() == ((NODE, told(Count(name="leases_lapsed", count=2))),)
    domain.forget(NODE)
    assert domain.all() == ()


def test_domain_takes_no_more_nodes_than_it_may() -> None:
    domain = DomainCounters()
    empty = told()
    for number in range(NODES + 10):
        domain.take(NodeId(str(number)), empty)
    assert len(domain.all()) == NODES


def test_counters_that_do_not_decode_are_the_peers_fault() -> None:
    many = told(*(Count(name="x", count=1) for _ in range(SERIES_MOST + 1)))
    for data in (b"", b"\xc1", b"\x91" * 1000, encode_counted(many), bytes(COUNTED_BYTES + 1)):
        with pytest.raises(PeerError):
            decode_counted(data)


def test_counters_of_a_node_are_read_from_its_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no counters"):
        read_counters(tmp_path)
    counted = told(Count(name="leases_lapsed", count=2))
    write_counters(tmp_path, counted)
    assert read_counters(tmp_path) == counted
    (tmp_path / FILE).write_bytes(b"[" * 100_000)
    with pytest.raises(InputError, match="does not decode"):
        read_counters(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_counters_that_cannot_be_written_stop_nothing(tmp_path: Path) -> None:
    write_counters(tmp_path / "gone", told())


def test_centre_counts_facts_as_they_happen_and_not_when_they_are_replayed() -> None:
    made = Bench(make_site(1), make_site(2), make_unit(), make_mixer())
    made.submit()
    made.answer_until(lambda state: state.visits == 1)
    node, order = made.orders()[0]
    made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="broken", blame="input"))
    assert made.center.counters.of("visits_lost", "input") == 1
    restarted = made._make()
    replay(restarted, made.journal)
    assert restarted.jobs[JOB].state.lost == 1
    assert restarted.counters.of("visits_lost") == 0


def test_counted_is_one_plain_document() -> None:
    assert msgspec.json.decode(msgspec.json.encode(told(Count(name="a", count=1)))) == {
        "type": "counted",
        "since_unix_s": 5.0,
        "counts": [{"name": "a", "value": "", "count": 1}],
    }

"""The reports of the demonstration, made from a recorded run: promised keys, true figures, a page that stands alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daitn.base.ids import ArtifactId, DataSetId, JobId, NodeId, OwnerId, VisitId
from daitn.demo.hospitals.closing import fulfilled, write_reports
from daitn.demo.hospitals.page import page
from daitn.demo.recording import Baseline, Compared, JobRecord, Recording, Refusal, curve, hops
from daitn.demo.report import report
from daitn.descriptors.job import JobStatus, LogEntry, Phase, TargetState
from daitn.descriptors.outcome import Change, Condition, CounterOffer, Expectation, ReasonCode, Verdict
from daitn.descriptors.plan import Choice, Plan
from daitn.descriptors.request import Request, parse_target
from daitn.descriptors.work import Measurement, Training

NAMES = {"n1": "alder", "n2": "harbour", "n3": "notary"}


def measured(value: float) -> tuple[Measurement, ...]:
    return (Measurement(name="accuracy", value=value, low=value - 0.05, high=min(1.0, value + 0.05), records=200),)


def plan() -> Plan:
    return Plan(
        method="tram-fl",
        training=Training(batch_size=8, batches=16, learning_rate=0.02),
        verify_every=2,
        verifier=NodeId("n3"),
        aggregator=None,
        route=(),
        expected=Expectation(seconds_low=0.1, seconds=2.0, transfer_bytes=1e5, visits=9),
        choices=(Choice(what="method", chosen="tram-fl", why="mixes <differ>", rejected=("cyclic: blind",)),),
        view_version=1,
    )


def request(**changes: Any) -> Request:
    values = {"name": "job", "package": ArtifactId("a" * 64), "purpose": "p", "deadline_s": 60.0} | changes
    return Request(targets=(parse_target("accuracy >= 0.9"),), **values)


def status(phase: Phase = Phase.DELIVERED, verdict: Verdict | None = None) -> JobStatus:
    target = TargetState(
        name="accuracy", wanted=">= 0.9", reached=0.95, low=0.9, high=1.0, met=True, sure=True, untrained=0.4
    )
    return JobStatus(
        job=JobId("job-1"),
        owner=OwnerId("mira"),
        name="job",
        phase=phase,
        reason="all targets are reached",
        submitted_unix_s=1000.0,
        ended_unix_s=1010.0,
        request=request(),
        verdict=verdict,
        plan=plan(),
        targets=(target,),
        untrained=measured(0.4),
        reached=measured(0.95),
        model=ArtifactId("b" * 64),
        visits=3,
        rounds=3,
        verifications=2,
        rolled_back=1,
        lost=0,
        transfer_bytes=12_345,
        now=(),
        log_length=9,
    )


def entry(number: int, kind: str, text: str, node: str = "", visit: str = "", **more: Any) -> LogEntry:
    return LogEntry(
        number=number,
        unix_s=1000.0 + number,
        kind=kind,
        text=text,
        node=NodeId(node) if node else None,
        visit=VisitId(visit) if visit else None,
        **more,
    )


def visit(number: int, node: str, dataset: str, why: str) -> tuple[LogEntry, LogEntry]:
    name = f"job-1/{number}"
    proof = msgspec.json.encode({"dataset": dataset}).decode()
    ordered = entry(number, "ordered", f"visit {number} ordered: train; at x; why: {why}", node, name)
    return ordered, entry(number + 1, "trained", "trained", node, name, proof=proof)


LOG = (
    *visit(1, "n1", "alder/cells", "it lacks <benign>"),
    *visit(3, "n2", "grove/cells", "evens out"),
    entry(5, "rolled-back", "worse", measurements=measured(0.3)),
    *visit(6, "n1", "alder/cells", "again"),
    entry(8, "kept", "better", measurements=measured(0.95)),
)


def refused(admitted_after_s: float | None = 2.5) -> Refusal:
    failed = Condition(code=ReasonCode.TIME, what="least time", required="at most 0.2 s", available="0.5 s", met=False)
    change = Change(what="deadline", asked="0.2 s", offered="5 s", because=ReasonCode.TIME)
    offer = CounterOffer(request=request(deadline_s=5.0), changes=(change,))
    verdict = Verdict(outcome="refused", conditions=(failed,), counter_offer=offer)
    return Refusal(
        title="wants it <now>",
        status=status(Phase.REFUSED, verdict),
        taken=status(Phase.CANCELLED),
        admitted_after_s=admitted_after_s,
    )


@pytest.fixture
def recording() -> Recording:
    cycle = Baseline(
        name="cycle", what="in turn", inside=True, visits=3, batches=48, seconds=4.0, measurements=measured(0.7)
    )
    central = Baseline(
        name="central", what="together", inside=False, visits=0, batches=48, seconds=1.0, measurements=measured(0.97)
    )
    job = JobRecord(key="breast", title="breast cancer", status=status(), log=LOG)
    return Recording(
        version="0.1.0",
        began_unix_s=990.0,
        seconds=42.0,
        jobs=(Compared(job=job, baselines=(cycle, central)),),
        refusals=(refused(),),
        names=NAMES,
        processes=10,
        left=0,
        predicted="19 of 20 right",
    )


def test_report_has_the_promised_keys(recording: Recording) -> None:
    made = report(recording)
    assert {"targets", "baselines", "hops", "bytes", "seconds", "refused"} <= set(made)
    promised = {"name", "wanted", "reached", "low", "high", "met", "sure", "untrained"}
    assert all(promised <= set(target) for target in made["targets"])
    assert all({"reason", "counter_offer", "admitted_after"} <= set(one) for one in made["refused"])


def test_report_tells_the_figures_of_the_recording(recording: Recording) -> None:
    made = report(recording)
    assert made["hops"] == 3
    assert made["bytes"] == 12_345
    assert made["targets"][0]["reached"] == 0.95
    assert made["targets"][0]["others"] == {"cycle": 0.7, "central": 0.97}
    assert made["baselines"]["breast"]["cycle"]["batches"] == 48
    assert made["baselines"]["breast"]["central"]["inside_network"] is False
    assert made["refused"][0]["reason"].startswith("time: ")
    assert made["refused"][0]["counter_offer"][0]["offered"] == "5 s"
    assert made["refused"][0]["admitted_after"] is True


def test_hops_carry_reasons_and_mark_what_was_rolled_back(recording: Recording) -> None:
    found = hops(recording.jobs[0].job, NAMES)
    assert [(hop.site, hop.dataset, hop.kept) for hop in found] == [
        ("alder", DataSetId("alder/cells"), False),
        ("harbour", DataSetId("grove/cells"), False),
        ("alder", DataSetId("alder/cells"), True),
    ]
    assert [hop.streamed for hop in found] == [False, True, False]
    assert found[0].why == "it lacks <benign>"


def test_curve_begins_untrained_and_has_every_verification(recording: Recording) -> None:
    points = curve(recording.jobs[0].job)
    assert [(point.visits, point.kept) for point in points] == [(0, True), (2, False), (3, True)]


class Balanced(HTMLParser):
    """Refuses a page whose tags do not match, and gathers addresses."""

    VOID = frozenset({"meta", "line", "rect", "circle", "polyline", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_is_whole_self_contained_and_in_both_schemes(recording: Recording) -> None:
    text = page(recording)
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert parser.addresses == []
    assert "://" not in text
    assert parser.counts["svg"] == 3
    assert "prefers-color-scheme: dark" in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_page_escapes_what_came_from_elsewhere(recording: Recording) -> None:
    text = page(recording)
    for hostile in ("<benign>", "<differ>", "<now>"):
        assert hostile not in text
        assert hostile.replace("<", "&lt;").replace(">", "&gt;") in text


def test_reports_are_written_and_can_be_made_again(recording: Recording, tmp_path: Path) -> None:
    shown = write_reports(recording, tmp_path)
    assert len(shown) == 2
    again = msgspec.json.decode((tmp_path / "recording.json").read_bytes(), type=Recording)
    assert again == recording
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes())["hops"] == 3
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page(again)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"left": 1}, False),
        ({"refusals": (refused(None),)}, False),
    ],
)
def test_word_is_kept_only_if_all_is_as_promised(recording: Recording, change: dict[str, Any], kept: bool) -> None:
    assert fulfilled(msgspec.structs.replace(recording, **change)) is kept

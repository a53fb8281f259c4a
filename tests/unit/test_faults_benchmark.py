"""The fault matrix's bookkeeping: what is kept of each run, what is still to come, what is told of a miss."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from benchmarks.faults import namespaces
from benchmarks.faults.cells import CASES
from benchmarks.faults.evidence import keep_evidence
from benchmarks.faults.keeping import Kept, counts, put, table
from benchmarks.faults.matrix import Row
from benchmarks.faults.told import COUNTS, Told, faults_of_log

from daitn.base.ids import ArtifactId, NodeId, VisitId
from daitn.descriptors.job import LogEntry
from daitn.oam.proofs import Proof

FIRST, SECOND = CASES[:2]


def row(case=FIRST, seconds=1.0, *, ok=True, outcome="next step: trained") -> Row:
    return Row(case.point, case.kind, seconds, case.bound_s, outcome, ok, "signal")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "faults.json"


def test_runs_kept_are_not_played_again_and_first_runs_come_before_second_ones(results: Path) -> None:
    kept = Kept(results)
    kept.add(row())
    kept.save(CASES)

    wanting = Kept(results).wanting((FIRST, SECOND), 2)

    assert wanting == [SECOND, FIRST, SECOND]


def test_runs_of_another_source_do_not_count(results: Path) -> None:
    kept = Kept(results)
    kept.add(row())
    kept.save(CASES)
    document = json.loads(results.read_text())
    results.write_text(json.dumps(document | {"source": "0" * 40}))

    assert Kept(results).runs(FIRST) == []


def test_figures_are_median_and_worst_and_a_miss_is_counted_and_told(results: Path) -> None:
    kept = Kept(results)
    for seconds in (1.0, 2.0, 9.0):
        kept.add(row(seconds=seconds, ok=seconds < 5))
    kept.add(row(SECOND, math.nan, ok=False, outcome="it did not come"))
    kept.save(CASES)

    document = json.loads(results.read_text())
    figures = document["figures"]
    assert (figures["site_training_kill_median_s"], figures["site_training_kill_worst_s"]) == (2.0, 9.0)
    assert (figures["missed"], figures["runs"], figures["runs_least"]) == (2.0, 4.0, 1.0)
    first, second = table(list(document["cells"].values())).splitlines()[2:]
    told = "next step: trained (2 of 3); or **missed**: next step: trained (1 of 3)"
    assert first == f"| site, training | kill | signal | 3 | 2.00 | 9.00 | 5 | {told} |"
    assert second.endswith("| 1 | – | – | 5 | **missed**: it did not come |")


def test_counts_tell_how_much_was_played_and_what_was_missed(results: Path) -> None:
    kept = Kept(results)
    kept.add(row())
    kept.add(row(seconds=9.0, ok=False))
    kept.add(row(SECOND))
    kept.save(CASES)
    cells = list(json.loads(results.read_text())["cells"].values())

    said = " ".join(counts(cells, len(CASES)).split())

    assert said.startswith(f"3 plays of one state of the source: 2 of {len(CASES)} cells, each 1 to 2 times, on a")
    assert said.endswith(f'Beyond their bounds: 1 (in "{FIRST.name}").')


def test_marks_in_the_docs_are_filled_and_what_stands_around_them_stays() -> None:
    text = "before <!-- counts: begin -->old<!-- counts: end --> after"

    assert put(text, "counts", "new") == "before <!-- counts: begin -->\n\nnew\n\n<!-- counts: end --> after"


def entry(unix_s: float, kind: str, visit: str = "", node: str = "n0001") -> LogEntry:
    return LogEntry(number=0, unix_s=unix_s, kind=kind, text=f"{kind} {visit}", visit=VisitId(visit), node=NodeId(node))


def test_timeline_of_a_miss_tells_which_visit_was_waited_for(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "north.log").write_text("12:00:01.500 INFO daitn.node: it began\nno moment\n")
    fault_unix_s = float(subprocess.check_output(["date", "-d", "today 12:00:00", "+%s"]))
    entries = (entry(fault_unix_s - 1, "ordered", "j/7"), entry(fault_unix_s + 5, "lost", "j/7"))

    kept = keep_evidence(tmp_path / "kept", "site, training, kill", logs, entries, fault_unix_s)

    lines = (kept / "timeline.txt").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["job", "job", "north", "job", "job"]
    assert "silent for 6.00 s; open: 7 at n0001, ordered 6.00 s before" in lines[3]
    assert (kept / "north.log").exists()


@pytest.mark.skipif(bool(namespaces.why_not()), reason="namespaces need root")
def test_leftovers_of_a_run_that_was_killed_are_removed_and_those_of_a_live_one_are_not() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead, live = f"{namespaces.PREFIX}{gone.pid}-north", f"{namespaces.PREFIX}{os.getpid()}-north"
    for name in (dead, live):
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        removed = namespaces.remove_leftovers()

        listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
        assert dead in removed
        assert dead not in listed
        assert live in listed
    finally:
        subprocess.run(["ip", "netns", "delete", live], check=False)


@pytest.mark.skipif(bool(namespaces.why_not()), reason="namespaces need root")
def test_namespaces_are_gone_when_their_run_fails() -> None:
    def run() -> None:
        with namespaces.open_namespaces(["north"]) as made:
            assert not isinstance(made, str)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()

    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    assert f"{namespaces.PREFIX}{os.getpid()}-" not in listed


# --- what was told ----------------------------------------------------------------------------------------------------


def told_entry(number: int, kind: str, visit: str = "j/1", node: str = "n0001", fence: int = 1) -> LogEntry:
    """A log entry as the centre serves it; an accepted step carries its proof."""
    proof = Proof(
        visit=VisitId(visit),
        fence=fence,
        node=NodeId(node),
        node_name="north",
        package=ArtifactId("p"),
        dataset="",
        data_version="",
        models_in=(),
        model_out=None,
        test_set="",
        report="",
        signature="",
    )
    shown = msgspec.json.encode(proof).decode() if kind in ("trained", "measured", "averaged", "shared") else ""
    return LogEntry(
        number=number,
        unix_s=float(number),
        kind=kind,
        text=kind,
        visit=VisitId(visit),
        node=NodeId(node),
        proof=shown,
    )


def raw_status(**changed: int) -> dict[str, int]:
    return dict.fromkeys(COUNTS, 5) | changed


def test_log_that_grows_is_told_whole_and_without_a_fault() -> None:
    log = [told_entry(0, "ordered")]
    told = Told("j")
    told.read(lambda start: log[start:])
    log.append(told_entry(1, "trained"))

    assert told.read(lambda start: log[start:]) == tuple(log)
    assert told.reread(lambda start: log[start:]) == tuple(log)
    assert told.take_faults() == []


def test_step_that_was_told_and_is_gone_is_a_fault() -> None:
    log = [told_entry(0, "ordered"), told_entry(1, "trained")]
    told = Told("j")
    told.read(lambda start: log[start:])

    told.read(lambda start: log[:1][start:])

    assert told.take_faults() == ["the log of j had an entry 1 and has none now"]


def test_step_in_whose_place_there_is_another_is_a_fault_and_told_once() -> None:
    log = [told_entry(0, "ordered"), told_entry(1, "trained"), told_entry(2, "ordered", "j/2", fence=2)]
    told = Told("j")
    told.read(lambda start: log[start:])
    log[1] = told_entry(1, "lost")

    told.reread(lambda start: log[start:])

    assert told.take_faults() == ["entry 1 of the log of j was trained j/1 and is lost j/1 now"]
    told.reread(lambda start: log[start:])
    assert told.take_faults() == []


def test_status_that_goes_back_is_a_fault_on_its_own_way_only() -> None:
    told = Told("j")
    told.status("stream", raw_status(visits=6))
    told.status("answers", raw_status(visits=5))
    assert told.take_faults() == []

    told.status("stream", raw_status(visits=7))
    told.status("stream", raw_status(visits=6))

    assert told.take_faults() == ["the stream of j told visits 7 and then 6"]


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ([("ordered", "j/1", "n0001", 1), ("trained", "j/1", "n0001", 1)], ""),
        ([("trained", "j/1", "n0001", 1)], "was accepted and never ordered"),
        ([("ordered", "j/1", "n0001", 1), ("lost", "j/1", "n0001", 1), ("trained", "j/1", "n0001", 1)], "it was lost"),
        ([("ordered", "j/1", "n0001", 1), *[("trained", "j/1", "n0001", 1)] * 2], "after it was trained"),
        ([("ordered", "j/1", "n0001", 1), ("trained", "j/1", "n0001", 2)], "with fence 2"),
        ([("ordered", "j/1", "n0001", 1), ("trained", "j/1", "n0002", 1)], "at n0002"),
        ([("ordered", "j/2", "n0001", 2), ("ordered", "j/1", "n0001", 1)], "with fence 1 after 2"),
    ],
)
def test_log_with_a_step_that_must_not_be_is_a_fault(entries: list[tuple[str, str, str, int]], fault: str) -> None:
    log = [told_entry(number, *given) for number, given in enumerate(entries)]

    found = faults_of_log(log)

    assert [fault in one for one in found] == ([True] if fault else [])


def test_log_with_a_gap_is_a_fault() -> None:
    assert faults_of_log([told_entry(1, "phase")]) == ["the log has gaps"]

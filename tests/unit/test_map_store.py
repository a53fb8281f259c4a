"""The map on the disk: what was kept comes back, stale; what was cut off, or is of a newer version, is passed over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.builders import START_NS, make_site

from daitn.base.ids import NodeId
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import REGISTRY_VERSION, group_named
from daitn.node import map_store
from daitn.node.map_store import MapStore, write_snapshot
from daitn.topology.image_making import ImageMaking, make_image
from daitn.topology.intake import FactIntake
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.map_entries import ReportsEntry, RosterEntry, apply_entry
from daitn.wire.packed_facts import encode_records, record_dtype

NODE = NodeId("n0001")
INCARNATION = 1_700_000_000_000
THINGS = ("site/t0", "site/t1")
ROSTER = RosterEntry(node=NODE, incarnation=INCARNATION, kind=Kind.TERMINAL, first=0, things=THINGS)


def reports(sequence: int, load: float, number: int = 0) -> ReportsEntry:
    group = group_named("load")
    record = np.zeros(1, record_dtype(group))
    record["number"], record["sequence"], record["generated_ns"], record["load_frac"] = number, sequence, START_NS, load
    data = encode_records(group, record, sequence=sequence, incarnation=INCARNATION)
    return ReportsEntry(received_ns=START_NS, senders=[NODE], payloads=[data])


class Kept:
    """A store, and the map that it keeps."""

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.store = MapStore(folder, lambda name: self.counts.update([name]))

    def snapshot(self, intake: FactIntake) -> None:
        generation = self.store.begin_generation()
        self.store.write_snapshot(generation, *make_image(intake, START_NS))


def load_of(intake: FactIntake, thing: str = THINGS[0]) -> float | bool | str | None:
    table = intake.book[Kind.TERMINAL]
    row = table.row_of(thing)
    return None if row is None else table.value(row, "load_frac")


def test_nothing_kept_is_an_empty_map(tmp_path):
    assert len(Kept(tmp_path / "map").store.load().book[Kind.TERMINAL]) == 0


def test_snapshot_and_what_came_since_give_the_map_again(tmp_path):
    kept = Kept(tmp_path)
    kept.store.begin_generation()
    kept.store.append(ROSTER)
    kept.store.append(reports(1, 0.25))
    intake = kept.store.load()
    assert load_of(intake) == 0.25
    kept.snapshot(intake)
    kept.store.append(reports(2, 0.5, number=1))

    again = Kept(tmp_path).store.load()

    assert (load_of(again), load_of(again, THINGS[1])) == (0.25, 0.5)
    assert again.sources.things.sum() == 2
    replayed = again.take_messages([NODE], reports(1, 0.9).payloads, START_NS)
    assert replayed.records == 0


def test_snapshot_of_a_map_with_short_reports_in_it_is_read_again(tmp_path):
    """A report that told what moved alone makes columns of its own, which a snapshot keeps too."""
    kept = Kept(tmp_path)
    kept.store.begin_generation()
    kept.store.append(ROSTER)
    kept.store.append(reports(1, 0.25))
    intake = kept.store.load()
    part, _ = intake.book[Kind.TERMINAL].ensure("load").parts()
    part[0] = 1
    kept.snapshot(intake)

    again = Kept(tmp_path)
    table = again.store.load().book[Kind.TERMINAL]

    assert table.ensure("load").parts()[0][0] == 1
    assert not again.counts


def test_image_is_torn_by_what_comes_or_leaves_and_by_nothing_else():
    intake = FactIntake(KnowledgeMap().facts)
    apply_entry(intake, ROSTER)

    making = ImageMaking(intake, START_NS)
    apply_entry(intake, reports(1, 0.25))
    while making.step():
        pass
    assert making.image() is not None

    making = ImageMaking(intake, START_NS)
    making.step()
    intake.announce(NODE, Kind.TERMINAL, 2, ["site/t2"])
    assert not making.step()
    assert making.image() is None


def test_everything_that_is_described_comes_back(tmp_path):
    knowledge = KnowledgeMap()
    knowledge.describe(make_site(1, region="north"), 1, START_NS)
    knowledge.describe(make_site(2), 1, START_NS)
    knowledge.remove(NodeId("n0002"), "left")
    kept = Kept(tmp_path)
    kept.snapshot(knowledge.intake)

    book = Kept(tmp_path).store.load().book

    for kind, table in knowledge.facts.tables.items():
        assert book[kind].ids() == table.ids()
        for group in table.groups():
            before, after = table.group(group.name), book[kind].group(group.name)
            assert before is not None
            assert after is not None
            for name, column in before.arrays().items():
                np.testing.assert_array_equal(after.arrays()[name][: table.high], column[: table.high])
    assert book[Kind.TERMINAL].value(0, "region") == "north"


def test_after_a_restart_all_is_stale_until_it_is_confirmed(tmp_path):
    knowledge = KnowledgeMap()
    knowledge.describe(make_site(1), 1, START_NS)
    knowledge.intake.begin(NODE, INCARNATION)
    knowledge.intake.announce(NODE, Kind.TERMINAL, 0, [NODE])
    knowledge.intake.take_messages([NODE], reports(1, 0.5).payloads, START_NS)
    kept = Kept(tmp_path)
    kept.snapshot(knowledge.intake)
    again = KnowledgeMap()
    again.apply(knowledge.describe(make_site(1), 2, START_NS))  # type: ignore[arg-type]

    again.adopt(Kept(tmp_path).store.load(), START_NS + NS_PER_S)

    table, row = again.facts[Kind.TERMINAL], again.node(NODE).row
    assert table.value(row, "load_frac") == 0.5
    assert table.stale("load")[row]
    assert not again.node(NODE).reachable
    assert again.intake.to_ask(START_NS + 2 * NS_PER_S) == (NODE,)
    again.intake.take_messages([NODE], reports(2, 0.75).payloads, START_NS + 2 * NS_PER_S)
    assert not table.stale("load")[row]


def test_node_that_left_meanwhile_is_not_brought_back(tmp_path):
    knowledge = KnowledgeMap()
    knowledge.describe(make_site(1), 1, START_NS)
    kept = Kept(tmp_path)
    kept.snapshot(knowledge.intake)
    again = KnowledgeMap()

    again.adopt(kept.store.load(), START_NS)

    assert len(again.facts[Kind.TERMINAL]) == len(again.facts[Kind.DATA]) == 0


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_snapshot_that_was_cut_off_is_named_and_the_one_before_is_used(tmp_path, share, caplog):
    kept = Kept(tmp_path)
    kept.store.begin_generation()
    kept.store.append(ROSTER)
    kept.store.append(reports(1, 0.25))
    kept.snapshot(kept.store.load())
    kept.store.append(reports(2, 0.5))
    kept.snapshot(kept.store.load())
    kept.store.append(reports(3, 0.75))
    newest = max(tmp_path.glob("snapshot-*.map"))
    newest.write_bytes(newest.read_bytes()[: round(share * newest.stat().st_size)])

    again = Kept(tmp_path)

    assert load_of(again.store.load()) == 0.75
    assert again.counts == {"map_snapshots_damaged": 1}
    assert newest.name in caplog.text
    (said,) = again.store.damages
    assert newest.name in said


@pytest.mark.parametrize("place", [3, 60, -5, -40])
def test_snapshot_that_was_changed_is_passed_over(tmp_path, place):
    kept = Kept(tmp_path)
    knowledge = KnowledgeMap()
    knowledge.describe(make_site(1), 1, START_NS)
    kept.snapshot(knowledge.intake)
    (path,) = tmp_path.glob("snapshot-*.map")
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)

    again = Kept(tmp_path)

    assert len(again.store.load().book[Kind.TERMINAL]) == 0
    assert again.counts == {"map_snapshots_damaged": 1}


def test_journal_that_was_cut_off_gives_what_came_before(tmp_path):
    kept = Kept(tmp_path)
    kept.store.begin_generation()
    for entry in (ROSTER, reports(1, 0.25), reports(2, 0.5)):
        kept.store.append(entry)
    kept.store.close()
    (path,) = tmp_path.glob("entries-*.log")
    path.write_bytes(path.read_bytes()[:-3])

    again = Kept(tmp_path)

    assert load_of(again.store.load()) == 0.25
    assert again.counts == {"map_journals_damaged": 1}


def test_snapshot_of_a_newer_registry_is_counted_named_left_alone_and_the_one_before_is_used(tmp_path):
    kept = Kept(tmp_path)
    kept.store.begin_generation()
    kept.store.append(ROSTER)
    kept.store.append(reports(1, 0.25))
    intake = kept.store.load()
    kept.snapshot(intake)
    kept.store.append(reports(2, 0.5))
    head, arrays = make_image(kept.store.load(), START_NS)
    path = tmp_path / "snapshot-0000000009.map"
    write_snapshot(path, msgspec.structs.replace(head, registry=REGISTRY_VERSION + 1), arrays)
    data = path.read_bytes()

    again = Kept(tmp_path)

    assert load_of(again.store.load()) == 0.5
    assert again.counts == {"map_snapshots_newer": 1}
    (said,) = again.store.damages
    assert f"its registry of facts is {REGISTRY_VERSION + 1}, ours is {REGISTRY_VERSION}" in said
    assert path.read_bytes() == data
    assert again.store.begin_generation() == 10


def test_snapshot_of_a_newer_format_is_counted_and_named_and_the_map_begins_anew(tmp_path, monkeypatch):
    kept = Kept(tmp_path)
    monkeypatch.setattr(map_store, "FORMAT", map_store.FORMAT + 1)
    kept.snapshot(FactIntake(KnowledgeMap().facts))
    monkeypatch.undo()

    again = Kept(tmp_path)

    assert len(again.store.load().book[Kind.TERMINAL]) == 0
    assert again.counts == {"map_snapshots_newer": 1}
    assert f"its format is {map_store.FORMAT + 1}, ours is {map_store.FORMAT}" in again.store.damages[0]


def test_only_the_last_two_generations_are_kept(tmp_path):
    kept = Kept(tmp_path)
    for _ in range(4):
        kept.snapshot(FactIntake(KnowledgeMap().facts))

    assert len(list(tmp_path.glob("snapshot-*.map"))) == 2
    assert len(list(tmp_path.glob("entries-*.log"))) == 2
    assert list(tmp_path.glob("*.new")) == []

"""Things that come and go, processes that begin anew, and snapshots in between: no report reaches another's row."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from daitn.base.ids import NodeId
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import group_named
from daitn.node.map_store import MapStore, read_snapshot, write_snapshot
from daitn.topology import image_making
from daitn.topology.fact_book import FactBook
from daitn.topology.image_making import ImageMaking, make_image
from daitn.topology.intake import FactIntake
from daitn.topology.map_entries import ReportsEntry, apply_entry
from daitn.topology.map_image import load_image
from daitn.wire.packed_facts import encode_records, record_dtype

NOW = 2 * 10**18
NODES = st.sampled_from([NodeId("n0001"), NodeId("n0002"), NodeId("n0003")])
LOAD = group_named("load")


class Churn(RuleBasedStateMachine):
    """The map beside a dictionary: by thing, the last value reported of it."""

    @initialize()
    def begin(self) -> None:
        self.intake = FactIntake(FactBook())
        self.held: dict[str, float | None] = {}
        self.rosters: dict[NodeId, list[str]] = {}
        self.incarnations: dict[NodeId, int] = {}
        self.sequences: dict[tuple[NodeId, int], int] = {}
        self.made = 0
        self.value = 0.0
        self.making: ImageMaking | None = None
        self.entries: list[ReportsEntry] = []

    @rule(node=NODES, count=st.integers(1, 5))
    def announce(self, node: NodeId, count: int) -> None:
        if node not in self.incarnations:
            self.incarnations[node] = 1
            assert self.intake.begin(node, 1)
        roster = self.rosters.setdefault(node, [])
        things = [f"{node}/t{self.made + number}" for number in range(count)]
        self.made += count
        self.intake.announce(node, Kind.TERMINAL, len(roster), things)
        roster += things
        self.held |= dict.fromkeys(things)

    @rule(node=NODES)
    def restart(self, node: NodeId) -> None:
        if node not in self.incarnations:
            return
        self.incarnations[node] += 1
        assert self.intake.begin(node, self.incarnations[node])
        for key in [key for key in self.sequences if key[0] == node]:
            del self.sequences[key]
        kept = [thing for thing in reversed(self.rosters.get(node, [])) if thing in self.held]
        self.rosters[node] = kept
        if kept:
            self.intake.announce(node, Kind.TERMINAL, 0, kept)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if not self.held:
            return
        gone = data.draw(st.lists(st.sampled_from(sorted(self.held)), min_size=1, max_size=3, unique=True))
        table = self.intake.book[Kind.TERMINAL]
        self.intake.withdraw(Kind.TERMINAL, [row for thing in gone if (row := table.row_of(thing)) is not None])
        for thing in gone:
            del self.held[thing]

    @rule(node=NODES, number=st.integers(0, 12), old=st.booleans())
    def report(self, node: NodeId, number: int, old: bool) -> None:
        sequence = self.sequences.get((node, number), 0) + (0 if old else 1)
        self.value = (self.value + 0.013) % 1.0
        record = np.zeros(1, record_dtype(LOAD))
        record["number"], record["sequence"], record["generated_ns"] = number, sequence, NOW
        record["load_frac"] = self.value
        incarnation = self.incarnations.get(node, 1)
        data = encode_records(LOAD, record, sequence=1, incarnation=incarnation)
        seen = self.intake.take_messages([node], [data], NOW)
        self.entries.append(ReportsEntry(received_ns=NOW, senders=[node], payloads=[data]))
        roster = self.rosters.get(node, [])
        thing = roster[number] if number < len(roster) else ""
        taken = thing in self.held and not old
        assert seen.records == taken
        if taken:
            self.held[thing] = self.value
            self.sequences[node, number] = sequence

    @rule()
    def keep_and_load(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "snapshot.map"
            write_snapshot(path, *make_image(self.intake, NOW))
            self.intake = load_image(*read_snapshot(path), str(path))
            self.making = None  # it was of the map as it was

    @rule(node=NODES, share=st.floats(0, 0.999))
    def newest_snapshot_is_cut_off(self, node: NodeId, share: float) -> None:
        with tempfile.TemporaryDirectory() as folder:
            damaged: list[str] = []
            store = MapStore(Path(folder), damaged.append)
            store.write_snapshot(store.begin_generation(), *make_image(self.intake, NOW))
            self.report(node, 0, old=False)
            store.append(self.entries[-1])
            store.write_snapshot(store.begin_generation(), *make_image(self.intake, NOW))
            store.close()
            newest = max(Path(folder).glob("snapshot-*.map"))
            newest.write_bytes(newest.read_bytes()[: int(share * newest.stat().st_size)])
            again = MapStore(Path(folder), damaged.append)
            self.intake = again.load()
            assert damaged == ["map_snapshots_damaged"]
            assert newest.name in again.damages[0]
            self.making = None  # it was of the map as it was

    @rule()
    def begin_image(self) -> None:
        self.making, self.entries = ImageMaking(self.intake, NOW), []

    @rule(steps=st.integers(1, 6))
    def copy_some(self, steps: int) -> None:
        with mock.patch.object(image_making, "STEP_BYTES", 64), mock.patch.object(image_making, "STEP_NAMES", 1):
            for _ in range(steps if self.making is not None else 0):
                self.making.step()

    @rule()
    def load_image_and_what_came_since(self) -> None:
        making, self.making = self.making, None
        if making is None:
            return
        while making.step():
            pass
        image = making.image()
        assert (image is None) == making.torn
        if image is not None:
            self.intake = load_image(*image, "the image")
            for entry in self.entries:
                apply_entry(self.intake, entry)

    @invariant()
    def map_holds_what_the_dictionary_does(self) -> None:
        table = self.intake.book[Kind.TERMINAL]
        shown = {thing: table.value(row, "load_frac") for row, thing in enumerate(table.ids()) if thing}
        assert shown.keys() == self.held.keys()
        for thing, value in self.held.items():
            found = shown[thing]
            assert (found is None) == (value is None), thing
            if value is not None and found is not None:
                assert found == np.float32(value)
        things = self.intake.sources.things
        assert int(things.sum()) == len(self.held)


Churn.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestChurn = Churn.TestCase

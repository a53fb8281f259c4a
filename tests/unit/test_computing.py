"""Problems of a core on a thread of their own: the newest of a key is answered, and none holds up the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from daitn.base.effects import Compute, Computed, Problem, Solution, computed
from daitn.base.errors import BugError, InputError
from daitn.node.computing import Computing


class Told(Solution, frozen=True, kw_only=True):
    text: str


class Asked(Problem, frozen=True, kw_only=True):
    """Tells its text once its gate is open."""

    text: str
    gate: threading.Event
    begun: threading.Event
    error: Exception | None = None

    def solve(self) -> Told:
        self.begun.set()
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return Told(text=self.text)


class Table:
    """A computing whose answers lie here, and problems that are let go on by name."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Computed] = asyncio.Queue()
        self.tasks: list[asyncio.Task[None]] = []
        self.gates: dict[str, tuple[threading.Event, threading.Event]] = {}
        self.computing = Computing(self.answers.put_nowait, self.spawn)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    def ask(self, key: str, text: str, *, error: Exception | None = None, basis: int = 0) -> None:
        gate, begun = self.gates[text] = threading.Event(), threading.Event()
        problem = Asked(text=text, gate=gate, begun=begun, error=error)
        self.computing.begin(Compute(key=key, basis=basis, problem=problem))

    async def begun(self, text: str) -> None:
        assert await asyncio.to_thread(self.gates[text][1].wait, 20)

    def open(self, text: str) -> None:
        self.gates[text][0].set()

    async def answer(self) -> Computed:
        return await asyncio.wait_for(self.answers.get(), 20)


def played(run: Callable[[Table], Awaitable[None]]) -> Table:
    async def play() -> Table:
        table = Table()
        try:
            await run(table)
        finally:
            for gate, _ in table.gates.values():
                gate.set()
            table.computing.stop()
        return table

    return asyncio.run(play())


def test_answer_carries_key_and_basis_while_the_loop_goes_on():
    async def run(table: Table) -> None:
        table.ask("route j1", "north first", basis=7)
        await table.begun("north first")  # the loop is free: it is here while the problem is being solved
        table.open("north first")
        assert await table.answer() == Computed(key="route j1", basis=7, solution=Told(text="north first"))

    played(run)


def test_newer_problem_of_a_key_takes_the_place_of_one_under_way_and_of_one_that_waits():
    async def run(table: Table) -> None:
        table.ask("route j1", "old")
        await table.begun("old")
        table.ask("route j1", "newer")
        table.ask("route j1", "newest")
        for text in ("old", "newest"):
            table.open(text)
        assert (await table.answer()).solution == Told(text="newest")
        assert table.answers.empty()
        assert not table.gates["newer"][1].is_set()

    played(run)


def test_key_that_asks_again_and_again_does_not_go_before_another_that_waits():
    async def run(table: Table) -> None:
        table.ask("route j1", "first")
        await table.begun("first")
        table.ask("tune", "tuning")
        table.ask("route j1", "again")
        for text in ("first", "tuning", "again"):
            table.open(text)
        assert [(await table.answer()).key for _ in range(2)] == ["tune", "route j1"]

    played(run)


def test_problem_without_a_solution_is_answered_with_its_fault():
    async def run(table: Table) -> None:
        table.ask("route j1", "none", error=InputError("no stop is left", todo="ask for fewer"))
        table.open("none")
        event = await table.answer()
        assert event.solution is None
        assert event.fault == "no stop is left; ask for fewer"

    played(run)


@pytest.mark.parametrize("error", [BugError("it contradicts itself"), ZeroDivisionError("by nothing")])
def test_fault_of_ours_in_a_problem_stops_whoever_runs_it(error):
    async def run(table: Table) -> None:
        table.ask("route j1", "broken", error=error)
        table.open("broken")
        with pytest.raises(type(error)):
            await asyncio.wait_for(table.tasks[0], 20)

    played(run)


def test_nothing_is_begun_or_answered_once_stopped():
    async def run(table: Table) -> None:
        table.ask("route j1", "under way")
        await table.begun("under way")
        table.ask("tune", "waits")
        table.computing.stop()
        table.open("under way")
        await asyncio.wait_for(table.tasks[0], 20)
        assert table.answers.empty()
        assert not table.gates["waits"][1].is_set()

    played(run)


def test_problem_that_names_no_way_to_solve_it_is_a_fault_of_ours():
    with pytest.raises(BugError, match="does not say how it is solved"):
        computed(Compute(key="x", basis=0, problem=Problem()))

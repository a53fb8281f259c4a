"""Members of a group that exchange in memory, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from daitn.base.errors import DaitnError
from daitn.learning.numerics.exchange import PartnerError


class Meeting:
    """An exchange in memory between threads. `tamper` may change what one member gives, by rank and tag."""

    def __init__(self, members: int, tamper: Callable[[int, str, dict[str, Any]], dict[str, Any]] | None = None):
        self.members = members
        self.tamper = tamper
        self.given: dict[tuple[str, int], dict[str, Any]] = {}
        self.changed = threading.Condition()
        self.broken = False

    def place(self, rank: int) -> Place:
        return Place(self, rank)


class Place:
    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting = meeting
        self.rank = rank
        self.members = meeting.members
        self.moved_bytes = 0

    def exchange(self, tag: str, tensors: Mapping[str, Any], *, alike: bool = False) -> tuple[dict[str, Any], ...]:
        mine = {name: array.copy() for name, array in tensors.items()}
        self.moved_bytes += sum(array.nbytes for array in mine.values())
        if self._meeting.tamper is not None:
            mine = self._meeting.tamper(self.rank, tag, mine)
        meeting = self._meeting
        wanted = [(tag, rank) for rank in range(self.members)]
        with meeting.changed:
            meeting.given[(tag, self.rank)] = mine
            meeting.changed.notify_all()
            meeting.changed.wait_for(lambda: meeting.broken or all(one in meeting.given for one in wanted), 20)
        if not all(one in meeting.given for one in wanted):
            raise PartnerError(1 - self.rank, "a partner broke")
        found = tuple(meeting.given[one] for one in wanted)
        if alike:
            forms = [{name: (array.dtype, array.shape) for name, array in one.items()} for one in found]
            assert all(form == forms[0] for form in forms)
        return found


def play(members: int, work: Callable[[int, Place], Any], tamper: Any = None) -> list[Any]:
    """Run one member per thread; what each returned or raised."""
    meeting = Meeting(members, tamper)
    found: list[Any] = [None] * members

    def run(rank: int) -> None:
        try:
            found[rank] = work(rank, meeting.place(rank))
        except (DaitnError, ArithmeticError) as error:
            found[rank] = error
            with meeting.changed:
                meeting.broken = True
                meeting.changed.notify_all()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found

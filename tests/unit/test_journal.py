"""The journal: what was appended is there after kill -9, in order, once, and never from two writers."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from tests.postgres import postgres_server, why_not

from daitn.base.effects import Record
from daitn.base.errors import BugError, InputError, UnavailableError
from daitn.node import journal as journal_module
from daitn.node.journal import Entry, Journal, open_database


class Opened(Record, frozen=True, kw_only=True):
    name: str


class Counted(Record, frozen=True, kw_only=True):
    number: int
    note: str = ""


KINDS = [Opened, Counted]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server of this module's own."""
    if reason := why_not():
        pytest.skip(reason)
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: a file, or a server's."""
    if request.param == "sqlite":
        return str(tmp_path / "journal.sqlite")
    url: str = request.getfixturevalue("server")
    engine = open_database(url)
    journal_module._metadata.drop_all(engine)
    engine.dispose()
    return url


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def damage(where: str, statement: str, **values: Any) -> None:
    engine = open_database(where)
    with engine.begin() as connection:
        connection.execute(text(statement), values)
    engine.dispose()


def read(where: str, stream: str = "s") -> list[Record]:
    journal = Journal(where, KINDS)
    try:
        return list(journal.read(stream))
    finally:
        journal.close()


def test_journal_replays_records_in_order(where: str) -> None:
    journal = Journal(where, KINDS)
    assert journal.append("s", [Opened(name="a"), Counted(number=1)]) == 2
    assert journal.append("other", [Counted(number=7)]) == 1
    assert journal.append("s", [Counted(number=2)]) == 3
    journal.close()
    assert read(where) == [Opened(name="a"), Counted(number=1), Counted(number=2)]
    assert Journal(where, KINDS).streams() == ("other", "s")


def test_journal_continues_after_reopening(where: str) -> None:
    Journal(where, KINDS).append("s", [Counted(number=1)])
    assert Journal(where, KINDS).append("s", [Counted(number=2)]) == 2
    assert len(read(where)) == 2


def test_journal_entries_have_sequence_and_time_and_begin_where_asked(where: str) -> None:
    journal = Journal(where, KINDS)
    journal.append("s", [Counted(number=1), Counted(number=2)], time_ns=5)
    assert list(journal.entries("s", after=1)) == [Entry(sequence=2, time_ns=5, record=Counted(number=2))]


def test_journal_reads_more_than_a_page(where: str) -> None:
    journal = Journal(where, KINDS)
    journal.append("s", [Counted(number=number) for number in range(2500)])
    assert [record.number for record in journal.read("s") if isinstance(record, Counted)] == list(range(2500))


def test_journal_append_of_nothing_is_nothing(where: str) -> None:
    assert Journal(where, KINDS).append("s", []) == 0


def test_journal_of_two_writers_only_one_appends(where: str) -> None:
    first, second = Journal(where, KINDS), Journal(where, KINDS)
    first.append("s", [Counted(number=1)])
    assert list(second.read("s")) == [Counted(number=1)]
    first.append("s", [Counted(number=2)])
    with pytest.raises(UnavailableError, match="another process wrote to stream 's' after 1"):
        second.append("s", [Counted(number=3), Counted(number=4)])
    with pytest.raises(UnavailableError):
        second.append("s", [Counted(number=3)])
    assert read(where) == [Counted(number=1), Counted(number=2)]
    list(second.read("s"))
    assert second.append("s", [Counted(number=3)]) == 3


def test_journal_threads_append_whole_batches(where: str) -> None:
    journal = Journal(where, KINDS)

    def work(number: int) -> None:
        for _ in range(10):
            journal.append("s", [Counted(number=number)] * 3)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    numbers = [record.number for record in journal.read("s") if isinstance(record, Counted)]
    assert len(numbers) == 120
    assert all(len(set(numbers[start : start + 3])) == 1 for start in range(0, 120, 3))


KILLED = """
import sys
from daitn.base.effects import Record
from daitn.node.journal import Journal

class Counted(Record, frozen=True, kw_only=True):
    number: int
    note: str = ""

journal = Journal(sys.argv[1], [Counted])
number = 0
while True:
    number += 2
    journal.append("s", [Counted(number=number - 1, note="x" * 3000), Counted(number=number)])
    print(number, flush=True)
"""


def test_journal_keeps_every_acknowledged_batch_whole_after_kill_9(where: str) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, where], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(25)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout.read().splitlines()]
    records = read(where)
    numbers = [record.number for record in records if isinstance(record, Counted)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) % 2 == 0
    assert len(numbers) in (acknowledged[-1], acknowledged[-1] + 2)
    assert Journal(where, KINDS).append("s", [Counted(number=0)]) == len(numbers) + 1


def test_journal_record_of_a_newer_version_tells_to_upgrade(where: str) -> None:
    Journal(where, KINDS).append("s", [Counted(number=1), Opened(name="a")])
    older = Journal(where, [Counted]).read("s")
    assert next(older) == Counted(number=1)
    with pytest.raises(UnavailableError, match=r"record 2 of stream 's' is a 'Opened'.*upgrade"):
        next(older)


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE journal SET body = checksum WHERE sequence = 2", "record 2 of stream 's' does not match its checksum"),
        ("UPDATE journal SET time_ns = time_ns + 1 WHERE sequence = 2", "record 2 .* checksum"),
        ("UPDATE journal SET stream = 's', sequence = 9 WHERE sequence = 3", "record 3 of stream 's' is missing"),
        ("DELETE FROM journal WHERE sequence = 1", "record 1 of stream 's' is missing; the next one is 2"),
    ],
    ids=["body", "time", "moved", "deleted"],
)
def test_journal_damage_is_named_by_its_sequence(where: str, statement: str, fault: str) -> None:
    journal = Journal(where, KINDS)
    journal.append("s", [Counted(number=number) for number in range(3)])
    journal.close()
    damage(where, statement)
    with pytest.raises(UnavailableError, match=fault):
        read(where)


def test_journal_body_that_does_not_decode_is_named(where: str) -> None:
    Journal(where, KINDS).append("s", [Counted(number=1)])
    body = msgspec.msgpack.encode({"record": "Counted", "number": "one"})
    (entry,) = Journal(where, KINDS).entries("s")
    checksum = journal_module._checksum("s", 1, entry.time_ns, "Counted", body)
    damage(where, "UPDATE journal SET body = :body, checksum = :checksum", body=body, checksum=checksum)
    with pytest.raises(UnavailableError, match="record 1 of stream 's' does not decode as 'Counted'"):
        read(where)


def test_journal_type_that_is_not_registered_is_our_bug(where: str) -> None:
    with pytest.raises(BugError, match="not registered"):
        Journal(where, [Counted]).append("s", [Counted(number=1), Opened(name="a")])
    assert read(where) == []


def test_journal_same_tag_twice_is_our_bug(where: str) -> None:
    class Other(Record, frozen=True, kw_only=True, tag="Counted"):
        pass

    with pytest.raises(BugError, match="two record types have the tag 'Counted'"):
        Journal(where, [Counted, Other])


def test_journal_file_that_is_no_database_is_unavailable(path: Path) -> None:
    path.write_bytes(b"this is not a database, it is a text of more than a hundred bytes " * 4)
    with pytest.raises(UnavailableError, match="file is not a database"):
        Journal(path, KINDS)


def test_journal_url_that_is_no_database_is_the_users_fault() -> None:
    for url in ("nonsense://x", "postgresql+nodriver://a:secret@b/c"):
        with pytest.raises(InputError, match="not a database this node can use") as caught:
            Journal(url, KINDS)
        assert "secret" not in str(caught.value)

"""The journal: what was appended is there after kill -9, in order, once, and never from two writers."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from daitn.base.effects import Record
from daitn.base.errors import BugError, InputError, UnavailableError
from daitn.node import journal as journal_module
from daitn.node.journal import Entry, Journal, Outbox, OutboxItem


class Opened(Record, frozen=True, kw_only=True):
    name: str


class Counted(Record, frozen=True, kw_only=True):
    number: int
    note: str = ""


KINDS = [Opened, Counted]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def damage(path: Path, statement: str, *values: Any) -> None:
    database = sqlite3.connect(path)
    database.execute(statement, values)
    database.commit()
    database.close()


def read(path: Path, stream: str = "s") -> list[Record]:
    journal = Journal(path, KINDS)
    try:
        return list(journal.read(stream))
    finally:
        journal.close()


def test_journal_replays_records_in_order(path: Path) -> None:
    journal = Journal(path, KINDS)
    assert journal.append("s", [Opened(name="a"), Counted(number=1)]) == 2
    assert journal.append("other", [Counted(number=7)]) == 1
    assert journal.append("s", [Counted(number=2)]) == 3
    journal.close()
    assert read(path) == [Opened(name="a"), Counted(number=1), Counted(number=2)]
    assert Journal(path, KINDS).streams() == ("other", "s")


def test_journal_continues_after_reopening(path: Path) -> None:
    Journal(path, KINDS).append("s", [Counted(number=1)])
    assert Journal(path, KINDS).append("s", [Counted(number=2)]) == 2
    assert len(read(path)) == 2


def test_journal_entries_have_sequence_and_time_and_begin_where_asked(path: Path) -> None:
    journal = Journal(path, KINDS)
    journal.append("s", [Counted(number=1), Counted(number=2)], time_ns=5)
    assert list(journal.entries("s", after=1)) == [Entry(sequence=2, time_ns=5, record=Counted(number=2))]


def test_journal_reads_more_than_a_page(path: Path) -> None:
    journal = Journal(path, KINDS)
    journal.append("s", [Counted(number=number) for number in range(2500)])
    assert [record.number for record in journal.read("s") if isinstance(record, Counted)] == list(range(2500))


def test_journal_append_of_nothing_is_nothing(path: Path) -> None:
    assert Journal(path, KINDS).append("s", []) == 0


def test_journal_of_two_writers_only_one_appends(path: Path) -> None:
    first, second = Journal(path, KINDS), Journal(path, KINDS)
    first.append("s", [Counted(number=1)])
    assert list(second.read("s")) == [Counted(number=1)]
    first.append("s", [Counted(number=2)])
    with pytest.raises(UnavailableError, match="another process wrote to stream 's' after 1"):
        second.append("s", [Counted(number=3), Counted(number=4)])
    with pytest.raises(UnavailableError):
        second.append("s", [Counted(number=3)])
    assert read(path) == [Counted(number=1), Counted(number=2)]
    list(second.read("s"))
    assert second.append("s", [Counted(number=3)]) == 3


def test_journal_threads_append_whole_batches(path: Path) -> None:
    journal = Journal(path, KINDS)

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
from pathlib import Path
from daitn.base.effects import Record
from daitn.node.journal import Journal

class Counted(Record, frozen=True, kw_only=True):
    number: int
    note: str = ""

journal = Journal(Path(sys.argv[1]), [Counted])
number = 0
while True:
    number += 2
    journal.append("s", [Counted(number=number - 1, note="x" * 3000), Counted(number=number)])
    print(number, flush=True)
"""


def test_journal_keeps_every_acknowledged_batch_whole_after_kill_9(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(25)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout.read().splitlines()]
    records = read(path)
    numbers = [record.number for record in records if isinstance(record, Counted)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) % 2 == 0
    assert len(numbers) in (acknowledged[-1], acknowledged[-1] + 2)
    assert Journal(path, KINDS).append("s", [Counted(number=0)]) == len(numbers) + 1


def test_journal_record_of_a_newer_version_tells_to_upgrade(path: Path) -> None:
    Journal(path, KINDS).append("s", [Counted(number=1), Opened(name="a")])
    older = Journal(path, [Counted]).read("s")
    assert next(older) == Counted(number=1)
    with pytest.raises(UnavailableError, match=r"record 2 of stream 's' is a 'Opened'.*upgrade"):
        next(older)


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE journal SET body = X'00' WHERE sequence = 2", "record 2 of stream 's' does not match its checksum"),
        ("UPDATE journal SET time_ns = time_ns + 1 WHERE sequence = 2", "record 2 .* checksum"),
        ("UPDATE journal SET stream = 's', sequence = 9 WHERE sequence = 3", "record 3 of stream 's' is missing"),
        ("DELETE FROM journal WHERE sequence = 1", "record 1 of stream 's' is missing; the next one is 2"),
    ],
    ids=["body", "time", "moved", "deleted"],
)
def test_journal_damage_is_named_by_its_sequence(path: Path, statement: str, fault: str) -> None:
    journal = Journal(path, KINDS)
    journal.append("s", [Counted(number=number) for number in range(3)])
    journal.close()
    damage(path, statement)
    with pytest.raises(UnavailableError, match=fault):
        read(path)


def test_journal_body_that_does_not_decode_is_named(path: Path) -> None:
    Journal(path, KINDS).append("s", [Counted(number=1)])
    body = msgspec.msgpack.encode({"record": "Counted", "number": "one"})
    database = sqlite3.connect(path)
    (time_ns,) = database.execute("SELECT time_ns FROM journal").fetchone()
    database.close()
    checksum = journal_module._checksum("s", 1, time_ns, "Counted", body)
    damage(path, "UPDATE journal SET body = ?, checksum = ?", body, checksum)
    with pytest.raises(UnavailableError, match="record 1 of stream 's' does not decode as 'Counted'"):
        read(path)


def test_journal_type_that_is_not_registered_is_our_bug(path: Path) -> None:
    with pytest.raises(BugError, match="not registered"):
        Journal(path, [Counted]).append("s", [Counted(number=1), Opened(name="a")])
    assert read(path) == []


def test_journal_same_tag_twice_is_our_bug(path: Path) -> None:
    class Other(Record, frozen=True, kw_only=True, tag="Counted"):
        pass

    with pytest.raises(BugError, match="two record types have the tag 'Counted'"):
        Journal(path, [Counted, Other])


def test_journal_file_that_is_no_database_is_unavailable(path: Path) -> None:
    path.write_bytes(b"this is not a database, it is a text of more than a hundred bytes " * 4)
    with pytest.raises(UnavailableError, match="file is not a database"):
        Journal(path, KINDS)


def test_journal_url_that_is_no_database_is_the_users_fault() -> None:
    for url in ("nonsense://x", "postgresql+nodriver://a:secret@b/c"):
        with pytest.raises(InputError, match="not a database this node can use") as caught:
            Journal(url, KINDS)
        assert "secret" not in str(caught.value)


def test_journal_tables_are_made_on_postgresql_too() -> None:
    texts = [
        str(CreateTable(table).compile(dialect=postgresql.dialect()))
        for table in journal_module._metadata.sorted_tables
    ]
    assert "sequence BIGINT NOT NULL" in texts[0]
    assert "BIGSERIAL" in texts[1]


# Outbox


def test_outbox_keeps_messages_in_order_until_acknowledged(path: Path) -> None:
    outbox = Outbox(path)
    for name in ("b", "a", "c"):
        assert outbox.put(name, "n1" if name != "c" else "n2", name.encode())
    assert not outbox.put("a", "n1", b"again")
    assert outbox.acknowledge("b")
    assert not outbox.acknowledge("b")
    outbox.attempted(["a", "ghost"])
    reopened = Outbox(path)
    assert reopened.pending() == (
        OutboxItem(id="a", receiver="n1", body=b"a", attempts=1),
        OutboxItem(id="c", receiver="n2", body=b"c", attempts=0),
    )
    assert [item.id for item in reopened.pending(receiver="n2")] == ["c"]
    assert [item.id for item in reopened.pending(limit=1)] == ["a"]


def test_outbox_that_is_full_refuses(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "OUTBOX_MESSAGES", 2)
    outbox = Outbox(Journal(path, KINDS).engine)
    outbox.put("1", "n", b"")
    outbox.put("2", "n", b"")
    assert not outbox.put("2", "n", b"")
    with pytest.raises(UnavailableError, match="2 messages wait"):
        outbox.put("3", "n", b"")
    outbox.acknowledge("1")
    assert outbox.put("3", "n", b"")

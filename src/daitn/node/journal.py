"""The journal: facts in the order they happened, durable before anyone acts on them.

A core's state is what its records say, so a killed process is rebuilt by replaying its stream. Records are appended in
one transaction that is on the disk when `append` returns (SQLite: WAL with `synchronous=FULL`; PostgreSQL: by URL, with
the same statements). Two processes that both believe they own a stream cannot both append: each record's sequence
number is a key, and the second insert of a number fails. Rows carry a checksum, since a flipped bit may still decode.

There are no snapshots: a job writes hundreds of records, and replaying 100,000 takes under a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from blake3 import blake3
from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.effects import Record
from daitn.base.errors import BugError, InputError, UnavailableError

RECORD_BYTES: Final = limits.MANIFEST_BYTES
"""Largest record: nothing a core notes is larger than a manifest."""

STREAM_CHARS: Final = 200
"""Longest name of a stream: a word and an id."""

PAGE_ROWS: Final = 1000
"""Rows read at once when replaying: constant memory, and no reader holds a transaction open for long."""

BUSY_MS: Final = 10_000
"""How long SQLite waits for another process that is writing."""

_CHECK_BYTES: Final = 8

_metadata = MetaData()
_journal = Table(
    "journal",
    _metadata,
    Column("stream", String(STREAM_CHARS), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("type", String(200), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("checksum", LargeBinary(_CHECK_BYTES), nullable=False),
)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A record with its place in the stream (from 1) and the time it was appended."""

    sequence: int
    time_ns: int
    record: Record


def open_database(where: str | Path) -> Engine:
    """The database at a path (SQLite, made if missing) or URL, with its tables. InputError for a URL that is none."""
    url = str(where) if isinstance(where, str) and "://" in where else f"sqlite:///{where}"
    try:
        is_sqlite = make_url(url).get_backend_name() == "sqlite"
        engine = create_engine(url, connect_args={"timeout": BUSY_MS / 1000} if is_sqlite else {})
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise InputError(
            f"{url.split('@')[-1]!r} is not a database this node can use: {error}",
            todo="give a path for SQLite or postgresql+psycopg://user@host/name (needs the psycopg package)",
        ) from None
    if is_sqlite:
        event.listen(engine, "connect", _set_pragmas)
    with _database_errors(engine):
        _metadata.create_all(engine)
    return engine


class Journal:
    """See the module's docstring. `records` are all record types that streams of this journal may hold.

    Thread-safe. One process per stream appends; a second one is noticed (`append`).
    """

    def __init__(self, where: str | Path | Engine, records: Iterable[type[Record]]) -> None:
        self._engine = where if isinstance(where, Engine) else open_database(where)
        self._decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {}
        for kind in records:
            tag = _tag(kind)
            if tag in self._decoders:
                raise BugError(f"two record types have the tag {tag!r}", todo="rename one of them")
            self._decoders[tag] = msgspec.msgpack.Decoder(kind)
        self._encoder = msgspec.msgpack.Encoder()
        self._lock = threading.Lock()
        self._last: dict[str, int] = {}

    def append(self, stream: str, records: Sequence[Record], *, time_ns: int | None = None) -> int:
        """Add records in order, all or none; durable when it returns. Returns the sequence of the last one.

        UnavailableError if another process appended to the stream since this one last read or wrote it (then this one
        must stop: its state is stale), or if the database has no room or is gone. 1 ms, most of it the disk's.
        """
        if not 0 < len(stream) <= STREAM_CHARS:
            raise BugError(f"stream name {stream[:80]!r} has {len(stream)} characters, 1 to {STREAM_CHARS} are allowed")
        now_ns = time.time_ns() if time_ns is None else time_ns
        bodies = [(_tag(type(record)), self._encoder.encode(record)) for record in records]
        for tag, body in bodies:
            if tag not in self._decoders:
                raise BugError(f"record type {tag!r} is not registered with this journal")
            if len(body) > RECORD_BYTES:
                raise BugError(f"a record {tag!r} has {len(body)} bytes, the limit is {RECORD_BYTES}")
        with self._lock:
            last = self._last[stream] if stream in self._last else self._read_last(stream)
            rows = [
                {
                    "stream": stream,
                    "sequence": sequence,
                    "time_ns": now_ns,
                    "type": tag,
                    "body": body,
                    "checksum": _checksum(stream, sequence, now_ns, tag, body),
                }
                for sequence, (tag, body) in enumerate(bodies, last + 1)
            ]
            if rows:
                with (
                    _database_errors(self._engine, f"stream {stream!r} after {last}"),
                    self._engine.begin() as connection,
                ):
                    connection.execute(_journal.insert(), rows)
            self._last[stream] = last + len(rows)
            return self._last[stream]

    def read(self, stream: str) -> Iterator[Record]:
        """All records of a stream, oldest first; errors as `entries`."""
        return (entry.record for entry in self.entries(stream))

    def entries(self, stream: str, after: int = 0) -> Iterator[Entry]:
        """Records with sequence and time, from the one after `after`.

        UnavailableError for a record type of a newer version, or a row that is missing, damaged or does not decode.
        """
        expected = after
        while page := self._read_page(stream, expected):
            for sequence, time_ns, tag, body, checksum in page:
                expected += 1
                if sequence != expected:
                    raise _damaged(stream, expected, f"is missing; the next one is {sequence}")
                yield Entry(
                    sequence=sequence,
                    time_ns=time_ns,
                    record=self._decode(stream, sequence, time_ns, tag, bytes(body), checksum),
                )
        with self._lock:
            self._last[stream] = max(expected, self._last.get(stream, 0))

    def streams(self) -> tuple[str, ...]:
        """Names of all streams, sorted."""
        with _database_errors(self._engine), self._engine.connect() as connection:
            return tuple(connection.scalars(select(_journal.c.stream).distinct().order_by(_journal.c.stream)))

    def close(self) -> None:
        """Close the database's connections."""
        self._engine.dispose()

    def _read_last(self, stream: str) -> int:
        with _database_errors(self._engine), self._engine.connect() as connection:
            last = connection.scalar(select(func.max(_journal.c.sequence)).where(_journal.c.stream == stream))
        return last or 0

    def _read_page(self, stream: str, after: int) -> Sequence[Any]:
        columns = (_journal.c.sequence, _journal.c.time_ns, _journal.c.type, _journal.c.body, _journal.c.checksum)
        query = (
            select(*columns)
            .where(_journal.c.stream == stream, _journal.c.sequence > after)
            .order_by(_journal.c.sequence)
            .limit(PAGE_ROWS)
        )
        with _database_errors(self._engine), self._engine.connect() as connection:
            return connection.execute(query).all()

    def _decode(self, stream: str, sequence: int, time_ns: int, tag: str, body: bytes, checksum: bytes) -> Record:
        if _checksum(stream, sequence, time_ns, tag, body) != bytes(checksum):
            raise _damaged(stream, sequence, "does not match its checksum")
        decoder = self._decoders.get(tag)
        if decoder is None:
            raise UnavailableError(
                f"record {sequence} of stream {stream!r} is a {tag!r}, which this version does not know",
                todo="upgrade this node to the version that wrote the journal, or newer",
            )
        try:
            record: Record = decoder.decode(body)
        except UNDECODABLE as error:
            raise _damaged(stream, sequence, f"does not decode as {tag!r}: {error}") from None
        return record


def _tag(kind: type[Record]) -> str:
    return str(kind.__struct_config__.tag)


def _checksum(stream: str, sequence: int, time_ns: int, tag: str, body: bytes) -> bytes:
    head = f"{stream}\0{sequence}\0{time_ns}\0{tag}\0".encode()
    return blake3(head + body).digest(_CHECK_BYTES)


def _damaged(stream: str, sequence: int, what: str) -> UnavailableError:
    return UnavailableError(
        f"record {sequence} of stream {stream!r} {what}",
        todo="the database is damaged: restore it from a backup, or start this node anew",
    )


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


@contextmanager
def _database_errors(engine: Engine, subject: str = "") -> Iterator[None]:
    """Turn what the database says into errors that tell who must act."""
    name = engine.url.render_as_string(hide_password=True)
    try:
        yield
    except IntegrityError:
        raise UnavailableError(
            f"another process wrote to {subject or 'the same rows'} in {name}: this one's state is stale",
            todo="stop one of the two; the one that stays replays the journal when it starts",
        ) from None
    except DBAPIError as error:
        raise UnavailableError(
            f"the database {name} cannot be used: {error.orig}", todo="check that it runs, and room and rights there"
        ) from None
    except SQLAlchemyError as error:
        raise UnavailableError(f"the database {name} cannot be used: {error}") from None

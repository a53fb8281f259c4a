"""Queries that nobody waits for, on disk: what was asked, what came of it, where it goes, and until when it is kept.

One SQLite file beside the gateway's node, readable by its owner only. A query is on disk before it is acknowledged, its
outcome before it is told; both are overwritten with zeros when they are deleted (`secure_delete`), which is when the
client says so or their time is over, and the base's log beside it is emptied then. Times are Unix seconds. Thread-safe;
each call is one transaction.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any, Final, NamedTuple

from daitn.base.errors import UnavailableError

BUSY_MS: Final = 5_000
"""A backup program may hold the file for a moment."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS later (
    query TEXT PRIMARY KEY, owner TEXT NOT NULL, key TEXT NOT NULL, again TEXT NOT NULL, digest TEXT NOT NULL,
    model TEXT NOT NULL, version TEXT NOT NULL, headers TEXT NOT NULL, asked BLOB NOT NULL,
    answer_to TEXT NOT NULL, asked_s REAL NOT NULL, until_s REAL NOT NULL,
    expires_s REAL NOT NULL, status INTEGER NOT NULL DEFAULT 0, told TEXT NOT NULL DEFAULT '{}',
    kind TEXT NOT NULL DEFAULT '', answer BLOB NOT NULL DEFAULT x'', delivered TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS again ON later (owner, again) WHERE again != '';
"""

_FIELDS: Final = (
    "query, owner, key, again, digest, model, version, headers, asked, answer_to, asked_s, until_s, "
    "expires_s, status, told, kind, answer, delivered"
)


class Later(NamedTuple):
    """One query. `status` 0: not answered yet; else as HTTP says it. `delivered`: empty, `done`, or why it was not."""

    query: str
    owner: str
    key: str
    """Digest of the key that asked."""
    again: str
    """By which its client repeats it; empty: it does not."""
    digest: str
    """Of the request, to know a repetition by."""
    model: str
    version: str
    headers: dict[str, str]
    asked: bytes
    answer_to: str
    asked_s: float
    until_s: float
    """It is not tried any more after this."""
    expires_s: float
    """It is deleted then, whatever became of it."""
    status: int = 0
    told: dict[str, str] = {}  # noqa: RUF012  # never changed in place
    kind: str = ""
    answer: bytes = b""
    delivered: str = ""


class LaterStore:
    """See the module's docstring. UnavailableError where the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._base = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for line in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
                self._base.execute(f"PRAGMA {line}")
            self._base.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise UnavailableError(f"{path} cannot keep answers: {error}") from None

    def add(self, one: Later) -> Later:
        """Keep a query; the one that is there already where its client repeats it."""
        row = (*one[:7], json.dumps(one.headers), *one[8:14], json.dumps(one.told), *one[15:])
        marks = ", ".join("?" * len(row))
        with self._lock:
            try:
                self._run(f"INSERT INTO later ({_FIELDS}) VALUES ({marks})", row)
            except sqlite3.IntegrityError:
                found = self._run(f"SELECT {_FIELDS} FROM later WHERE owner = ? AND again = ?", (one.owner, one.again))
                return _read(found[0])
        return one

    def find(self, query: str) -> Later | None:
        """A query by its name."""
        with self._lock:
            found = self._run(f"SELECT {_FIELDS} FROM later WHERE query = ?", (query,))
        return _read(found[0]) if found else None

    def open(self) -> list[Later]:
        """What is not answered yet, or not where it shall go; the oldest first."""
        undelivered = "answer_to != '' AND delivered = ''"
        with self._lock:
            found = self._run(f"SELECT {_FIELDS} FROM later WHERE status = 0 OR {undelivered} ORDER BY asked_s")
        return [_read(row) for row in found]

    def answered(
        self, query: str, status: int, told: dict[str, str], kind: str, answer: bytes, expires_s: float
    ) -> None:
        """What came of a query; what it asked is let go."""
        with self._lock:
            self._run(
                "UPDATE later SET status = ?, told = ?, kind = ?, answer = ?, expires_s = ?, asked = x'', "
                "headers = '{}' WHERE query = ?",
                (status, json.dumps(told), kind, answer, expires_s, query),
            )
            self._wipe_log()

    def delivered(self, query: str, how: str) -> None:
        """Where its answer should go it went, or will not."""
        with self._lock:
            self._run("UPDATE later SET delivered = ? WHERE query = ?", (how, query))

    def forget(self, query: str) -> None:
        """Its client needs it no more."""
        with self._lock:
            self._run("DELETE FROM later WHERE query = ?", (query,))
            self._wipe_log()

    def expire(self, now_s: float) -> list[str]:
        """Delete what was kept long enough; its names."""
        with self._lock:
            gone = self._run("DELETE FROM later WHERE expires_s <= ? RETURNING query", (now_s,))
            self._wipe_log()  # also what could not be wiped when it was deleted, since a program read the file
        return [str(row[0]) for row in gone]

    def held(self, owner: str) -> tuple[int, int, int]:
        """How many queries of an owner are kept, and how many and how many bytes of all."""
        with self._lock:
            mine = self._run("SELECT COUNT(*) FROM later WHERE owner = ?", (owner,))
            ours = self._run("SELECT COUNT(*), COALESCE(SUM(LENGTH(asked) + LENGTH(answer)), 0) FROM later")
        return int(mine[0][0]), int(ours[0][0]), int(ours[0][1])

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._base.close()

    def _wipe_log(self) -> None:
        """What was deleted stands in the log of the base until that is written back and cut off."""
        self._run("PRAGMA wal_checkpoint(TRUNCATE)")

    def _run(self, line: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return list(self._base.execute(line, values))
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise UnavailableError(f"answers cannot be kept: {error}") from None


def _read(row: tuple[Any, ...]) -> Later:
    one = Later(*row)
    return one._replace(headers=json.loads(str(row[7])), told=json.loads(str(row[14])))

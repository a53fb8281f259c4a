"""SQL on the map for people: DuckDB over the map's own columns, read-only, shut off from files and network.

Paper II-A, G-KRRM: complex questions. The kinds of things are views in a database in memory, made for each question of
the columns that it names; nothing can be written, loaded or reached from it, memory and time are bounded, and its
settings are locked.
DuckDB answers operators' questions only; it is never in the way of updates.

A question is read while the map goes on changing: each value is one that the map held during it.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from daitn.base.errors import InputError, UnavailableError
from daitn.base.nearest import nearest_known
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.questions import Shown
from daitn.descriptors.sql_answer import ROWS_MOST, SqlAnswer, SqlColumn
from daitn.topology.fact_book import FactBook

if TYPE_CHECKING:
    import duckdb

SQL_CHARS: Final = 16_384
"""Longest question: more than people write."""

MEMORY: Final = "1GB"
"""Memory of one question: a sort of a million rows takes 100 MB."""

SECONDS_MOST: Final = 10.0
"""A question that takes longer is ended: those on a million things take 0.1 s."""

CELL_CHARS: Final = 4096

SETTINGS: Final[dict[str, Any]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": MEMORY,
    "threads": "2",
    "temp_directory": "",
}

FORBIDDEN: Final = re.compile(r"\b(arrow_scan\w*|pandas_scan|python_map_function|getenv|query|query_table)\b", re.I)
"""Functions that take addresses of memory, read the environment, or would hide from the checks here what is asked."""

_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STAR: Final = re.compile(
    r"(?:\bselect|\bdistinct|\ball|,|\.)\s*\*|^\s*from\b|\bcolumns\s*\(|\bdescribe\b|\bsummarize\b"
    r"|\bnatural\b",
    re.I,
)
"""Questions that mean all columns without naming them; one too many only costs time."""

_COLUMN: Final = re.compile(r'(?:column(?: named)?|column with name) "?([\w.]+)"?', re.I)
_TABLE: Final = re.compile(r"(?:Table|View)(?: Function)? with name \"?(\w+)\"?", re.I)


class Prepared(NamedTuple):
    """A question with the columns that it names, as they were at a moment; tables by kind."""

    sql: str
    now_ns: int
    version: int
    tables: dict[str, Any]


class MapSql:
    """Answers SQL on a book of facts; one question at a time."""

    def __init__(self, book: FactBook, *, seconds_most: float = SECONDS_MOST) -> None:
        self._book = book
        self._seconds_most = seconds_most
        self._tables: Any = None
        self._database: Any = None
        self._one = threading.Lock()

    def close(self) -> None:
        """Let the database go."""
        with self._one:
            self._drop()

    def _drop(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def ask(self, sql: str, now_ns: int) -> SqlAnswer:
        """`prepare` and `run` in one."""
        return self.run(self.prepare(sql, now_ns))

    def prepare(self, sql: str, now_ns: int) -> Prepared:
        """The columns that a question names, as they are now: about 1 ms a million values. InputError for a question
        that is too long, or uses what it may not; UnavailableError where DuckDB or Arrow is not installed."""
        if len(sql) > SQL_CHARS:
            raise InputError(f"the question has {len(sql)} characters, the limit is {SQL_CHARS}")
        if (refused := FORBIDDEN.search(sql)) is not None:
            raise InputError(f"{refused[0]} may not be used in questions on the map")
        try:
            from daitn.node.map_tables import MapTables, column_names
        except ImportError:
            raise UnavailableError("pyarrow is not installed here", todo="install daitn[map]") from None
        if self._tables is None:
            self._tables = MapTables(self._book)
        words = {word.lower() for word in _WORD.findall(sql)}
        every = _STAR.search(sql) is not None
        tables = {
            kind.value: self._tables.table(
                kind, [name for name in column_names(kind) if every or name in words] or ["id"], now_ns
            )
            for kind in Kind
            if kind.value in words
        }
        return Prepared(sql, now_ns, self._book.version, tables)

    def run(self, prepared: Prepared) -> SqlAnswer:
        """The answer to one SELECT; may run on another thread than `prepare`, one question at a time.

        InputError naming what is wrong and the nearest known columns or tables; UnavailableError for a question that
        took too long or too much memory, or where DuckDB is not installed.
        """
        try:
            import duckdb
        except ImportError:
            raise UnavailableError("DuckDB is not installed here", todo="install daitn[map]") from None
        with self._one:
            try:
                if self._database is None:
                    self._database = duckdb.connect(":memory:", config=SETTINGS)
                    self._database.execute("SET lock_configuration = true")
                try:
                    _lay_out(self._database, prepared.tables)
                    return self._run(self._database, prepared)
                finally:
                    for name in prepared.tables:
                        self._database.unregister(f"_{name}")
            except duckdb.FatalException as error:
                self._drop()
                raise UnavailableError(f"DuckDB failed: {str(error)[:200]}", todo="ask again") from None
            except duckdb.InterruptException:
                raise UnavailableError(
                    f"the question took longer than {self._seconds_most:g} s",
                    todo="ask for less: a filter, fewer joins",
                ) from None
            except duckdb.OutOfMemoryException:
                raise UnavailableError(f"the question needs more than {MEMORY}", todo="ask for fewer rows") from None
            except duckdb.Error as error:
                raise _ours(error, prepared.sql) from None

    def _run(self, database: duckdb.DuckDBPyConnection, prepared: Prepared) -> SqlAnswer:
        import duckdb

        statements = database.extract_statements(prepared.sql)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise InputError(
                f"{len(statements)} statements were given" if len(statements) != 1 else "this is no SELECT",
                todo="ask with one SELECT",
            )
        timer = threading.Timer(self._seconds_most, database.interrupt)
        timer.start()
        try:
            done = database.execute(statements[0])
            rows = done.fetchmany(ROWS_MOST + 1)
            columns = tuple(SqlColumn(name=one[0], type=str(one[1])) for one in done.description or ())
        finally:
            timer.cancel()
        return SqlAnswer(
            version=prepared.version,
            made_at_unix_s=prepared.now_ns / NS_PER_S,
            columns=columns,
            rows=tuple(tuple(_cell(value) for value in row) for row in rows[:ROWS_MOST]),
            more=len(rows) > ROWS_MOST,
        )


def _lay_out(database: duckdb.DuckDBPyConnection, tables: dict[str, Any]) -> None:
    """A view for each kind that the question names; none for the others."""
    from daitn.node.map_tables import ALIVE

    for kind in Kind:
        table = tables.get(kind.value)
        if table is None:
            database.execute(f'DROP VIEW IF EXISTS "{kind.value}"')
            continue
        database.register(f"_{kind.value}", table)
        listed = ", ".join(f'"{name}"' for name in table.column_names if name != ALIVE)
        view = f'CREATE OR REPLACE VIEW "{kind.value}" AS SELECT {listed} FROM "_{kind.value}" WHERE {ALIVE}'
        database.execute(view)


def _cell(value: Any) -> Shown:
    """A value that JSON can say; anything that is neither number nor flag as text."""
    if value is None or isinstance(value, bool | str):
        return value[:CELL_CHARS] if isinstance(value, str) else value
    if isinstance(value, int | float):
        return float(value) if value == value and abs(value) != float("inf") else None
    return str(value)[:CELL_CHARS]


def _ours(error: Exception, sql: str) -> InputError:
    """DuckDB's error as ours: the column or table that is not there with the nearest known ones."""
    from daitn.node.map_tables import column_names

    said = str(error)
    kinds = [kind for kind in Kind if re.search(rf"\b{kind.value}\b", sql, re.I)]
    if (found := _TABLE.search(said)) is not None:
        return InputError(
            f"the map has no table {found[1]!r}", todo=nearest_known(found[1], [kind.value for kind in Kind])
        )
    if (found := _COLUMN.search(said)) is not None:
        name = found[1].rpartition(".")[2]
        known = {column for kind in kinds for column in column_names(kind)}
        where = " or ".join(kind.value for kind in kinds) or "the question"
        return InputError(f"{where} has no column {name!r}", todo=nearest_known(name, known))
    first = " ".join(said.split())
    return InputError(f"the question cannot be answered: {first[:300]}", todo="docs/map.md has examples")

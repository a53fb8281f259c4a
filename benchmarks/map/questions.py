"""`query_ms`, `sql_ms`: questions on all terminals, beside networkx, DuckDB alone and SQLite on the same ones.

The questions: *best*, filter by five facts, score by two, the first 50; *regions*, a count and mean by region. Answers
of all are compared before the clock runs: same terminals in the same order, same figures. Peers hold the same values in
their own form, loaded before the clock: DuckDB alone and SQLite in tables of their own (SQLite with an index on what
selects most), networkx in the attributes of its nodes, which is how that library keeps facts. `delta_ms`: from a report
to the saved question's change. Each is repeated; medians and spread
are told, by the clock and of the processors.
"""

from __future__ import annotations

import math
import sqlite3
import statistics
import time
from collections.abc import Callable
from typing import Any

import duckdb
import networkx
import numpy as np

from benchmarks.map.world import START_NS
from daitn.base.effects import Compute, Effect, TimerFired, computed
from daitn.base.units import NS_PER_S
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.question_text import parse_question
from daitn.node.map_sql import MapSql
from daitn.topology.fact_book import FactBook
from daitn.topology.questions.answering import answer_question
from daitn.topology.questions.saved import TIMER, SaveAsked, SavedQuestions, TellChange

NOW_NS = START_NS + 10 * NS_PER_S
LIMIT = 50
FACTS = ("computes", "load_frac", "trust", "battery_frac", "available_frac", "price_per_hour", "region")

BEST = parse_question(
    "terminal where computes and trust >= 0.8 and load_frac < 0.5 and battery_frac >= 0.2 and available_frac >= 0.6 "
    f"score raw 0.7 trust - 0.3 load_frac top {LIMIT}"
)
BEST_SQL = (
    "SELECT id, 0.7 * CAST(trust AS DOUBLE) - 0.3 * CAST(load_frac AS DOUBLE) AS score FROM terminal "
    "WHERE computes AND trust >= 0.8 AND load_frac < 0.5 AND battery_frac >= 0.2 AND available_frac >= 0.6 "
    f"ORDER BY score DESC LIMIT {LIMIT}"
)
REGIONS = parse_question("summarise terminal by region count, mean(trust) where load_frac < 0.5 top 100")
REGIONS_SQL = (
    "SELECT region, count(*) AS n, avg(trust) FROM terminal WHERE load_frac < 0.5 GROUP BY region ORDER BY region"
)

Rows = list[tuple[Any, ...]]


def ask(book: FactBook, repeats: int) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Figures of ours and of the peers, in milliseconds."""
    sql = MapSql(book)

    def ours_best() -> Rows:
        return [(row.id, row.score) for row in answer_question(book, BEST, NOW_NS).rows]

    def ours_regions() -> Rows:
        return sorted((row.id, *row.values) for row in answer_question(book, REGIONS, NOW_NS).rows)

    expected_best, expected_regions = ours_best(), ours_regions()
    if len(expected_best) != LIMIT:
        raise SystemExit(f"{len(expected_best)} terminals were found, the question has to select more than {LIMIT}")
    figures: dict[str, float] = {}
    figures |= _timed("query", ours_best, expected_best, repeats)
    figures |= _timed("query_regions", ours_regions, expected_regions, repeats)
    figures |= _timed("sql", lambda: list(sql.ask(BEST_SQL, NOW_NS).rows), expected_best, repeats)
    figures |= _timed("sql_regions", lambda: list(sql.ask(REGIONS_SQL, NOW_NS).rows), expected_regions, repeats)
    sql.close()
    figures |= delta(book, max(5, repeats))
    peers: dict[str, dict[str, float]] = {}
    values = _values(book)
    for name, make in (("duckdb alone", _duckdb), ("sqlite", _sqlite), ("networkx", _networkx)):
        best, regions, close = make(values)
        times = max(2, repeats // 5) if name == "networkx" else max(3, repeats // 2)
        peers[name] = _timed("query", best, expected_best, times) | _timed("regions", regions, expected_regions, times)
        close()
    return figures, peers


def _answered(saved: SavedQuestions, effects: list[Effect], now_ns: int) -> list[Effect]:
    """What follows once a question that takes long is solved, as its thread does it."""
    problems = [effect for effect in effects if isinstance(effect, Compute)]
    return [*effects, *(one for problem in problems for one in saved.handle(computed(problem), now_ns))]


def delta(book: FactBook, repeats: int) -> dict[str, float]:
    """From a report that changes an answer to what is told of it: noted, evaluated anew, compared."""
    saved = SavedQuestions(book)
    now_ns = NOW_NS
    _answered(
        saved, saved.handle(SaveAsked(name="best", owner="benchmark", question=BEST, every_s=0.25), now_ns), now_ns
    )
    table = book[Kind.TERMINAL]
    last = saved.since("best", 0).answer
    assert last is not None
    row = table.row_of(last.rows[-1].id)
    assert row is not None
    trust, group = float(table.column("trust")[row]), table.group("trust")
    evidence = float(table.column("trust_evidence")[row])
    took: list[float] = []
    spent: list[float] = []
    for number in range(repeats):
        now_ns += NS_PER_S
        told = {"trust": 0.0 if number % 2 == 0 else trust, "trust_evidence": evidence}
        start, before = time.perf_counter(), time.process_time()
        table.note(row, "trust", told, source=0, generated_ns=now_ns, received_ns=now_ns)
        effects = _answered(saved, saved.handle(TimerFired(name=TIMER), now_ns), now_ns)
        took.append(1000 * (time.perf_counter() - start))
        spent.append(1000 * (time.process_time() - before))
        if not any(isinstance(effect, TellChange) for effect in effects):
            raise SystemExit("a change of an answer was not told")
    assert group is not None
    table.note(
        row, "trust", {"trust": trust, "trust_evidence": evidence}, source=0, generated_ns=now_ns, received_ns=now_ns
    )
    return _spread("delta", took, spent)


def _timed(name: str, run: Callable[[], Rows], expected: Rows, repeats: int) -> dict[str, float]:
    found = run()
    same = len(found) == len(expected) and all(
        one[0] == other[0] and all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(one[1:], other[1:], strict=True))
        for one, other in zip(found, expected, strict=True)
    )
    if not same:
        raise SystemExit(f"{name} answers otherwise: {found[:3]} for {expected[:3]}")
    took: list[float] = []
    spent: list[float] = []
    for _ in range(repeats):
        start, before = time.perf_counter(), time.process_time()
        run()
        took.append(1000 * (time.perf_counter() - start))
        spent.append(1000 * (time.process_time() - before))
    return _spread(name, took, spent)


def _spread(name: str, took: list[float], spent: list[float]) -> dict[str, float]:
    """Milliseconds by the clock, and of the processors (others' work on the machine is in the first only)."""
    by_clock = {f"{name}_ms": statistics.median(took), f"{name}_ms_min": min(took), f"{name}_ms_max": max(took)}
    return by_clock | {f"{name}_cpu_ms": statistics.median(spent)}


def _values(book: FactBook) -> dict[str, list[Any]]:
    """All values as Python has them, by column."""
    table = book[Kind.TERMINAL]
    values: dict[str, list[Any]] = {"id": list(table.ids())}
    for fact in FACTS:
        column = table.column(fact)
        values[fact] = [book.words.text(code) for code in column.tolist()] if fact == "region" else column.tolist()
    return values


Peer = tuple[Callable[[], Rows], Callable[[], Rows], Callable[[], None]]


def _duckdb(values: dict[str, list[Any]]) -> Peer:
    database = duckdb.connect(":memory:", config={"threads": 2})
    import pyarrow as pa

    columns = {
        name: pa.array(np.asarray(column, np.float32) if name not in ("id", "region", "computes") else column)
        for name, column in values.items()
    }
    columns["computes"] = pa.array([bool(one) for one in values["computes"]])
    database.register("loaded", pa.table(columns))
    database.execute("CREATE TABLE terminal AS SELECT * FROM loaded")
    database.unregister("loaded")
    return (
        lambda: database.execute(BEST_SQL).fetchall(),
        lambda: database.execute(REGIONS_SQL).fetchall(),
        database.close,
    )


def _sqlite(values: dict[str, list[Any]]) -> Peer:
    database = sqlite3.connect(":memory:")
    database.execute(f"CREATE TABLE terminal ({', '.join(values)})")
    marks = ", ".join("?" * len(values))
    database.executemany(f"INSERT INTO terminal VALUES ({marks})", zip(*values.values(), strict=True))
    database.execute("CREATE INDEX by_trust ON terminal (trust)")
    database.execute("ANALYZE")
    return (
        lambda: database.execute(BEST_SQL).fetchall(),
        lambda: database.execute(REGIONS_SQL).fetchall(),
        database.close,
    )


def _networkx(values: dict[str, list[Any]]) -> Peer:
    graph: Any = networkx.Graph()
    names = [name for name in values if name != "id"]
    for place, node in enumerate(values["id"]):
        graph.add_node(node, **{name: values[name][place] for name in names})

    def best() -> Rows:
        found = [
            (0.7 * told["trust"] - 0.3 * told["load_frac"], node)
            for node, told in graph.nodes(data=True)
            if told["computes"]
            and told["trust"] >= 0.8
            and told["load_frac"] < 0.5
            and told["battery_frac"] >= 0.2
            and told["available_frac"] >= 0.6
        ]
        found.sort(key=lambda one: -one[0])
        return [(node, score) for score, node in found[:LIMIT]]

    def regions() -> Rows:
        totals: dict[str, list[float]] = {}
        for _, told in graph.nodes(data=True):
            if told["load_frac"] < 0.5:
                total = totals.setdefault(told["region"], [0, 0.0])
                total[0] += 1
                total[1] += told["trust"]
        rows = [(region, count, total / count) for region, (count, total) in totals.items()]
        return sorted(rows)

    return best, regions, graph.clear

"""Fit: a site's own rows become a table in contract columns, and everything that does not fit is counted.

The report comes before anything runs: per column how many values are missing, outside the vocabulary or range, not
readable, of the wrong size; which records are dropped and why; what looks wrong as a whole. Examples of bad values are
in the report for the site's own eyes; `FitReport.without_values` is what others may see.

A missing number, category or text stays in the table as missing. A record is dropped where nothing can stand for what
is missing: its label, its group, an image, a vector, or a text that is itself the task. Records whose content was seen
before are counted but kept: splits keep them together (`describe.splits`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.describe.column_map import ColumnMap, ColumnSource, resolve
from daitn.describe.conversion import (
    Converted,
    FaultKind,
    LocalValues,
    convert_categories,
    convert_identifiers,
    convert_images,
    convert_numbers,
    convert_texts,
    convert_vectors,
    digest_texts,
    identifier_texts,
    join_numbers,
)
from daitn.describe.report import ColumnFault, FitReport, Tally
from daitn.describe.splits import field_matrix, held_out_mask
from daitn.describe.table import MappedTable, TableWriter, TextArray
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    Column,
    DataContract,
    EmbeddedInput,
    IdentifierColumn,
    ImageColumn,
    LanguageModelling,
    NumberColumn,
    Regression,
    Retrieval,
    TextColumn,
    TokensInput,
    VectorColumn,
)

Batch = Mapping[str, LocalValues]
"""Rows as a reader gives them: local column → values, all of one length."""


class Fitted(NamedTuple):
    """The table and the report on it."""

    table: MappedTable
    report: FitReport


def fit(
    contract: DataContract,
    local: Mapping[str, str],
    batches: Iterable[Batch],
    column_map: ColumnMap,
    parent: Path,
    site_secret: bytes,
) -> Fitted:
    """Map rows to contract columns and write the table below `parent`, in constant memory (8 bytes a record).

    `local`: the data's own columns and their types. `site_secret`: 32 bytes. InputError, leaving nothing behind, where
    the map or the data cannot serve: unknown columns, no rows, no usable record, text where numbers are due, labels
    all outside the vocabulary.
    """
    sources = resolve(contract, column_map, local)
    words = frozenset(column_map.missing)
    needed = _indispensable(contract)
    tally = Tally()
    rows = with_missing = out_of_vocabulary = 0
    dropped: dict[str, int] = {}
    with TableWriter(parent, contract.columns, contract.group, site_secret) as writer:
        for batch in _checked(batches):
            count = len(next(iter(batch.values())))
            converted = {
                column.name: _convert(column, sources[column.name], batch, count, words, site_secret)
                for column in contract.columns
            }
            missing, outside = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
            for name, result in converted.items():
                own = batch.get(sources[name].column)
                tally.present[name] = tally.present.get(name, 0) + int(np.count_nonzero(~result.absent))
                for kind, mask in result.faults.items():
                    tally.add(name, kind, mask, rows + 1, own)
                missing |= result.absent
                outside |= result.faults.get(FaultKind.OUT_OF_VOCABULARY, np.False_)
            keep = np.ones(count, dtype=bool)
            for name, reason in needed.items():
                lost = keep & converted[name].absent
                if lost.any():
                    dropped[reason] = dropped.get(reason, 0) + int(np.count_nonzero(lost))
                    keep &= ~lost
            rows += count
            with_missing += int(np.count_nonzero(missing))
            out_of_vocabulary += int(np.count_nonzero(outside))
            if keep.any():
                groups = _group_digests(contract, sources, batch, count, words)
                _write(writer, contract, converted, groups, keep)
        faults = tally.faults()
        _refuse_hopeless(contract, sources, tally, faults, rows, sum(dropped.values()))
        table = writer.finish()
    report = FitReport(
        contract=contract.name,
        version=table.version,
        rows=rows,
        records=table.rows,
        held_out=int(np.count_nonzero(held_out_mask(table, contract))),
        groups=len(np.unique(table.groups)),
        duplicates=table.rows - len(np.unique(table.contents)),
        rows_with_missing=with_missing,
        rows_out_of_vocabulary=out_of_vocabulary,
        dropped=dropped,
        faults=faults,
        labels=_label_counts(table, contract),
        fields=dict(zip(contract.field_names(), field_matrix(table, contract).sum(axis=0).tolist(), strict=True)),
        straddling_groups=_straddling_groups(table, contract),
    )
    return Fitted(table, msgspec.structs.replace(report, warnings=_warnings(contract, report)))


def _checked(batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        lengths = {len(values) for values in batch.values()}
        if len(lengths) > 1:
            raise InputError(f"a batch of the data has columns of different lengths: {sorted(lengths)}")
        if lengths and lengths != {0}:
            yield batch


def _indispensable(contract: DataContract) -> dict[str, str]:
    """Columns without which a record is dropped, and the reason to give."""
    needed: dict[str, str] = {}
    texts = {spec.name: spec.column for spec in contract.inputs if isinstance(spec, TokensInput | EmbeddedInput)}
    match contract.task:
        case Classification(label=label) | Regression(label=label):
            needed[label] = "no usable label"
        case LanguageModelling(input=name):
            needed |= {texts[key]: "no text" for key in (name,) if key in texts}
        case Retrieval(query=query, answer=answer):
            needed |= {texts[key]: f"no {what}" for key, what in ((query, "query"), (answer, "answer")) if key in texts}
        case _:
            pass
    if contract.group:
        needed[contract.group] = f"no group ({contract.group})"
    for column in contract.columns:
        if isinstance(column, ImageColumn | VectorColumn):
            kind = "image" if isinstance(column, ImageColumn) else "vector"
            needed.setdefault(column.name, f"no usable {kind} ({column.name})")
    return needed


def _convert(
    column: Column, source: ColumnSource, batch: Batch, count: int, words: frozenset[str], site_secret: bytes
) -> Converted:
    if source.columns and isinstance(column, VectorColumn):
        return join_numbers([batch[name] for name in source.columns], source, words)
    values = batch[source.column] if source.constant is None else [source.constant or None] * count
    match column:
        case NumberColumn():
            return convert_numbers(values, column, source, words)
        case CategoryColumn():
            return convert_categories(values, column, source, words)
        case TextColumn():
            return convert_texts(values)
        case IdentifierColumn():
            return convert_identifiers(values, words, site_secret)
        case VectorColumn():
            return convert_vectors(values, column, source)
        case ImageColumn():
            return convert_images(values, column)


def _group_digests(
    contract: DataContract, sources: Mapping[str, ColumnSource], batch: Batch, count: int, words: frozenset[str]
) -> NDArray[np.uint64] | None:
    """Unkeyed digests (B,) of the group values, equal at all sites; None: each record's content is its group."""
    if not contract.group:
        return None
    source = sources[contract.group]
    values = batch[source.column] if source.constant is None else [source.constant] * count
    return digest_texts(identifier_texts(values, words))


def _content_digests(contract: DataContract, kept: Mapping[str, NDArray[Any] | TextArray]) -> NDArray[np.uint64]:
    """64-bit BLAKE3 (B,) of each record over its columns, label and identifiers left out.

    The label is left out because two equal records with different labels must not be split either; it is used where
    there is nothing else.
    """
    label = contract.task.label if isinstance(contract.task, Classification | Regression) else ""
    names = [column.name for column in contract.columns if not isinstance(column, IdentifierColumn)]
    names = [name for name in names if name != label] or names or [column.name for column in contract.columns]
    fixed: list[NDArray[np.uint8]] = []
    texts: list[TextArray] = []
    for name in names:
        values = kept[name]
        if isinstance(values, TextArray):
            texts.append(values)
        else:
            flat = np.ascontiguousarray(values).reshape(len(values), -1)
            fixed.append(flat.view(np.uint8))
    count = len(texts[0].offsets) - 1 if texts else len(fixed[0])
    block = np.concatenate(fixed, axis=1) if fixed else np.zeros((count, 0), dtype=np.uint8)
    digests = np.empty(count, dtype=np.uint64)
    for row in range(count):
        digest = blake3(block[row].tobytes())
        for text in texts:
            piece = text.blob[text.offsets[row] : text.offsets[row + 1]].tobytes()
            digest.update(len(piece).to_bytes(8, "little") + piece)
        digests[row] = int.from_bytes(digest.digest(8), "little")
    return digests


def _write(
    writer: TableWriter,
    contract: DataContract,
    converted: Mapping[str, Converted],
    groups: NDArray[np.uint64] | None,
    keep: NDArray[np.bool_],
) -> None:
    kept = {
        name: _pick_texts(result.values, keep) if isinstance(result.values, TextArray) else result.values[keep]
        for name, result in converted.items()
    }
    contents = _content_digests(contract, kept)
    writer.append(kept, contents if groups is None else groups[keep], contents)


def _pick_texts(texts: TextArray, keep: NDArray[np.bool_]) -> TextArray:
    if keep.all():
        return texts
    lengths = np.diff(texts.offsets)
    offsets = np.zeros(int(np.count_nonzero(keep)) + 1, dtype=np.int64)
    np.cumsum(lengths[keep], out=offsets[1:])
    return TextArray(texts.blob[np.repeat(keep, lengths)], offsets)


def _refuse_hopeless(
    contract: DataContract,
    sources: Mapping[str, ColumnSource],
    tally: Tally,
    faults: tuple[ColumnFault, ...],
    rows: int,
    dropped: int,
) -> None:
    """InputError listing every column that has no usable value although something is written there."""
    if not rows:
        raise InputError("the data has no rows", todo="check that the path names the right file or folder")
    hopeless: list[str] = []
    for fault in faults:
        if tally.present[fault.column] or fault.kind in (FaultKind.MISSING,):
            continue
        column = contract.column(fault.column)
        local = sources[fault.column].column or ", ".join(sources[fault.column].columns[:3]) or "a constant"
        shown = ", ".join(repr(value) for value in fault.examples)
        wanted = (
            f"one of {', '.join(column.values[:8])}" if isinstance(column, CategoryColumn) else type(column).__name__
        )
        hopeless.append(
            f"column {column.name!r} (from {local}): all {fault.count:,} values are {fault.kind.value}"
            f"{f', such as {shown}' if shown else ''}; expected {wanted}"
        )
    if hopeless:
        raise InputError("; ".join(hopeless), todo="correct the column map (column, values, multiply, add)")
    if dropped == rows:
        reasons = ", ".join(f"{fault.column}: {fault.count:,} {fault.kind.value}" for fault in faults)
        raise InputError(f"none of {rows:,} rows can be used ({reasons})", todo="correct the column map or the data")


def _label_counts(table: MappedTable, contract: DataContract) -> dict[str, int]:
    labels = contract.labels()
    if not labels or not isinstance(contract.task, Classification):
        return {}
    counts = np.bincount(table.categories(contract.task.label), minlength=len(labels))
    return dict(zip(labels, counts.tolist(), strict=True))


def _straddling_groups(table: MappedTable, contract: DataContract) -> int:
    """How many groups have records of different field membership; O(N log N)."""
    if not contract.group or not contract.fields:
        return 0
    _, group_of = np.unique(table.groups, return_inverse=True)
    membership = field_matrix(table, contract)
    order = np.argsort(group_of, kind="stable")
    same_group = group_of[order][1:] == group_of[order][:-1]
    differs = (membership[order][1:] != membership[order][:-1]).any(axis=1)
    return len(np.unique(group_of[order][1:][same_group & differs]))


def _warnings(contract: DataContract, report: FitReport) -> tuple[str, ...]:
    warnings: list[str] = []
    present = [label for label, count in report.labels.items() if count]
    if len(present) == 1:
        warnings.append(f"all records have the same label, {present[0]!r}")
    if report.straddling_groups:
        warnings.append(
            f"{report.straddling_groups:,} of {report.groups:,} groups ({contract.group}) have records of different "
            "fields; they stay whole in every split"
        )
    if not report.held_out or report.held_out == report.records:
        part = "held out for verification" if not report.held_out else "left for training"
        warnings.append(f"no record is {part}: {report.groups:,} groups are too few to split")
    if report.records and report.duplicates * 10 > report.records:
        warnings.append(f"{report.duplicates:,} of {report.records:,} records repeat the content of another")
    for name, count in report.fields.items():
        if not count:
            warnings.append(f"no record belongs to field {name!r}")
    return tuple(warnings)

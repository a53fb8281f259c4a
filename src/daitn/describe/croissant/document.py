"""A descriptor as a Croissant 1.1 document: columns as fields, vocabularies as enumerations, statistics as annotations.

Only what the descriptor says is in it, so nothing leaves that `daitn data describe` does not show. The records
themselves are not to be had: the distribution names the data set in its domain, and `isLiveDataset` says that it has
no fixed bytes. Statistics are annotations with terms of the DDI vocabulary where it has them; each names the deviation
of its noise.
"""

from __future__ import annotations

from typing import Any, Final

from daitn.describe.croissant import CONTEXT, VERSION
from daitn.describe.croissant.conditions import usage_info
from daitn.descriptors.contract import (
    CategoryColumn,
    Column,
    IdentifierColumn,
    ImageColumn,
    NumberColumn,
    TextColumn,
    VectorColumn,
)
from daitn.descriptors.descriptions import Moments, Quantiles, Sketch, Synthetic
from daitn.descriptors.terminals import DataDescriptor

RECORDS: Final = "records"
"""The record set of the records themselves."""

TABLE: Final = "table"
"""The distribution that stands for the mapped table."""


def croissant_of(descriptor: DataDescriptor, *, label: str = "", license_url: str = "") -> dict[str, Any]:
    """The document of a descriptor. `label`: the column that is one; `license_url`: where its owner gives one."""
    document: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "@id": f"urn:daitn:dataset:{descriptor.dataset}",
        "name": str(descriptor.dataset).replace("/", "_"),
        "description": f"Data of contract {descriptor.contract_name!r} that stays at its site; models travel to it.",
        "conformsTo": VERSION,
        "isLiveDataset": True,
        "version": "1.0.0",
        "daitn:version": descriptor.version,
        "url": f"urn:daitn:dataset:{descriptor.dataset}",
        "usageInfo": usage_info(descriptor.policy),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": TABLE,
                "name": TABLE,
                "contentUrl": f"urn:daitn:dataset:{descriptor.dataset}",
                "encodingFormat": "application/x-daitn-table",
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": RECORDS,
                "name": RECORDS,
                "field": [_field(column, label) for column in descriptor.columns],
                "annotation": _about_all(descriptor),
            },
            *(_enumeration(column) for column in descriptor.columns if isinstance(column, CategoryColumn)),
        ],
        "daitn:contract": descriptor.contract_name,
        "daitn:group": descriptor.group,
    }
    if license_url:
        document["license"] = license_url
    _annotate(document, descriptor, label)
    synthetic = [one for one in descriptor.descriptions if isinstance(one, Synthetic)]
    document["recordSet"] += [_synthetic(one, number) for number, one in enumerate(synthetic)]
    return document


def _field(column: Column, label: str) -> dict[str, Any]:
    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{RECORDS}/{column.name}",
        "name": f"{RECORDS}/{column.name}",
        "description": f"column {column.name}",
        "source": {"fileObject": {"@id": TABLE}, "extract": {"column": column.name}},
    }
    kinds: list[str]
    match column:
        case NumberColumn():
            kinds = ["sc:Float"]
            if column.unit:
                field["unitText"] = column.unit
            if column.low is not None:
                field["minValue"] = column.low
            if column.high is not None:
                field["maxValue"] = column.high
        case CategoryColumn():
            kinds = ["sc:Text"]
            field["references"] = {"field": {"@id": f"{column.name}-values/name"}}
        case ImageColumn():
            kinds = ["sc:ImageObject"]
            field["daitn:shape"] = f"{column.channels},{column.height},{column.width}"
        case VectorColumn():
            kinds = ["sc:Float"]
            field |= {"isArray": True, "arrayShape": str(column.length)}
            if column.unit:
                field["unitText"] = column.unit
        case TextColumn():
            kinds = ["sc:Text"]
        case IdentifierColumn():
            kinds = ["sc:Text"]
            field["daitn:identifier"] = True
    field["dataType"] = [*kinds, "cr:Label"] if column.name == label else kinds[0]
    return field


def _enumeration(column: CategoryColumn) -> dict[str, Any]:
    name = f"{column.name}-values"
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "dataType": "sc:Enumeration",
        "key": {"@id": f"{name}/name"},
        "field": [{"@type": "cr:Field", "@id": f"{name}/name", "name": f"{name}/name", "dataType": "sc:Text"}],
        "data": [{f"{name}/name": value} for value in column.values],
    }


def _statistic(owner: str, name: str, value: Any, noise_std: float, term: str = "") -> dict[str, Any]:
    said = {"@id": f"{owner}/{name}", "@type": "cr:Field", "name": f"{owner}/{name}", "value": value}
    said |= {"dataType": term or f"daitn:{name}", "daitn:noiseDeviation": noise_std}
    return said


def _about_all(descriptor: DataDescriptor) -> list[dict[str, Any]]:
    found = [
        _statistic(RECORDS, "count", descriptor.records, 0.0, "http://www.wikidata.org/entity/Q4049983"),
        _statistic(RECORDS, "groups", descriptor.groups, 0.0),
    ]
    for name in descriptor.quality.__struct_fields__:
        found.append(_statistic(RECORDS, name, getattr(descriptor.quality, name), 0.0))
    if descriptor.field_counts is not None:
        found.append(
            _statistic(RECORDS, "fieldCounts", descriptor.field_counts.counts, descriptor.field_counts.noise_std)
        )
    return found


def _annotate(document: dict[str, Any], descriptor: DataDescriptor, label: str) -> None:
    """Put what is said of a column at its field."""
    fields = {field["@id"]: field for field in document["recordSet"][0]["field"]}

    def say(column: str, *said: dict[str, Any]) -> None:
        field = fields.get(f"{RECORDS}/{column}")
        if field is not None:
            field.setdefault("annotation", []).extend(said)

    for one in descriptor.descriptions:
        match one:
            case Moments():
                owner = f"{RECORDS}/{one.column}"
                say(
                    one.column,
                    _statistic(owner, "mean", one.mean, one.noise_std, "sc:Float"),
                    _statistic(owner, "deviation", one.deviation, one.noise_std, "sc:Float"),
                )
            case Quantiles():
                values = {f"{share:g}": value for share, value in zip(one.shares, one.values, strict=True)}
                say(one.column, _statistic(f"{RECORDS}/{one.column}", "quantiles", values, 0.0))
            case Sketch():
                numbers = " ".join(f"{value:.9g}" for value in one.mean)
                said = _statistic(f"{RECORDS}/{one.column}", "sketch", numbers, one.noise_std)
                say(one.column, said | {"daitn:basis": one.basis})
            case _:
                pass
    if descriptor.labels is not None and label:
        counts = descriptor.labels
        say(label, _statistic(f"{RECORDS}/{label}", "histogram", counts.counts, counts.noise_std))


def _synthetic(one: Synthetic, number: int) -> dict[str, Any]:
    name = f"synthetic-{number}" if number else "synthetic"
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": "records that never were, drawn from noisy marginals",
        "field": [
            {"@type": "cr:Field", "@id": f"{name}/{column}", "name": f"{name}/{column}", "dataType": "sc:Text"}
            for column in one.columns
        ],
        "data": [
            {f"{name}/{column}": cell for column, cell in zip(one.columns, row, strict=True)} for row in one.cells
        ],
    }

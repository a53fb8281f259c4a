"""Records of each field of a contract that a data set is expected to have, by what its site has published of it."""

from __future__ import annotations

from daitn.descriptors.contract import Classification, DataContract, FieldByColumn, FieldByValues
from daitn.descriptors.terminals import DataDescriptor


def field_counts(contract: DataContract, data: DataDescriptor) -> dict[str, float]:
    """Records per field of the contract, from the label histogram where the rule speaks of the label."""
    counts: dict[str, float] = {}
    published = data.field_counts.counts if data.field_counts is not None else {}
    label = contract.task.label if isinstance(contract.task, Classification) else ""
    labels = data.labels.counts if data.labels is not None else {}
    for rule in contract.fields:
        if isinstance(rule, FieldByValues):
            if rule.column == label:
                counts[rule.name] = sum(labels.get(value, 0.0) for value in rule.values)
            else:
                counts[rule.name] = published.get(rule.name, 0.0)
        elif isinstance(rule, FieldByColumn):
            source = labels if rule.column == label else published
            counts.update({name: source.get(name, 0.0) for name in contract.field_names() if name in source})
    # A mean can be taught as far as its fields can: what counts is that any of them is there.
    return counts | {one.name: sum(counts.get(name, 0.0) for name in one.fields) for one in contract.means}


def held_out_frac(contract: DataContract, field: str) -> float:
    """Share of a field's groups that is held out, as far as the contract's rules tell."""
    rule = next((one for one in contract.fields if isinstance(one, FieldByValues) and one.name == field), None)
    shares = [
        share.frac
        for share in contract.held_out_shares
        if rule is not None and rule.column == share.column and set(rule.values) <= set(share.values)
    ]
    return max(shares, default=contract.test_frac)

"""The data contract: what a model eats, exactly, so that sites, models and verifiers can agree without meeting.

A contract has two halves. *Columns* say what a record is: name, kind, unit, vocabulary, and which column holds the
label, the group (patient, document: never split over train and test) or a field (a subject a target speaks of). A site
maps its own files to columns once. *Inputs* say how columns become the named tensors of one model. Two models with
different inputs can therefore train on the same mapped data.

The task comes from a closed family; each has its loss, sampler and metrics in `learning.tasks`.
Array legend: B records in a batch; a shape here never names the batch dimension.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec
from blake3 import blake3

from daitn.base import limits
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS)]
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS)]


class NumberColumn(msgspec.Struct, frozen=True, kw_only=True, tag="number"):
    """A real number per record. Values outside `low..high` are reported and treated as missing."""

    name: Name
    unit: str = ""
    low: float | None = None
    high: float | None = None


DATE_UNIT: Final = "unix_s"
"""Unit of a number column that holds moments: seconds since 1970, UTC. Local dates in ISO form become such numbers."""


class CategoryColumn(msgspec.Struct, frozen=True, kw_only=True, tag="category"):
    """One of a closed vocabulary per record; other values are reported and treated as missing."""

    name: Name
    values: Annotated[tuple[Label, ...], msgspec.Meta(min_length=1, max_length=limits.CLASSES)]


class TextColumn(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """Unicode text per record."""

    name: Name


class ImageColumn(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """An image per record: `channels` × `height` × `width`, 8 bits a value; other sizes are reported, not resized."""

    name: Name
    channels: Literal[1, 3]
    height: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    width: Annotated[int, msgspec.Meta(ge=1, le=8192)]


class VectorColumn(msgspec.Struct, frozen=True, kw_only=True, tag="vector"):
    """A fixed number of real numbers per record, for data whose columns have no names of their own (arrays)."""

    name: Name
    length: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    unit: str = ""


class IdentifierColumn(msgspec.Struct, frozen=True, kw_only=True, tag="identifier"):
    """Text or number that only tells records apart, such as a patient's pseudonym; never a model input."""

    name: Name


Column = NumberColumn | CategoryColumn | TextColumn | ImageColumn | VectorColumn | IdentifierColumn


def date_column(columns: Iterable[Column]) -> str | None:
    """The column that says when a record was made: the first of numbers whose unit is `DATE_UNIT`."""
    return next((one.name for one in columns if isinstance(one, NumberColumn) and one.unit == DATE_UNIT), None)


class NumbersInput(msgspec.Struct, frozen=True, kw_only=True, tag="numbers"):
    """float32 tensor of shape (len(columns),): each number column as `(value - center) / scale`.

    `center` and `scale` have one entry per column, in its unit; missing values become `missing` after scaling.
    """

    name: Name
    columns: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=100_000)]
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    missing: float = 0.0


class VectorInput(msgspec.Struct, frozen=True, kw_only=True, tag="vector"):
    """float32 tensor of shape (length,), or `shape` if given (same product): `(value - center) / scale`."""

    name: Name
    column: Name
    center: float = 0.0
    scale: float = 1.0
    shape: tuple[int, ...] = ()


class CategoryInput(msgspec.Struct, frozen=True, kw_only=True, tag="category"):
    """int64 tensor of shape (): index in the column's vocabulary; missing is `len(values)`."""

    name: Name
    column: Name


class ImageInput(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """float32 tensor of shape (channels, height, width): `(value / 255 - center) / scale`."""

    name: Name
    column: Name
    center: float = 0.0
    scale: float = 1.0


class TokensInput(msgspec.Struct, frozen=True, kw_only=True, tag="tokens"):
    """int64 tensor of shape (length,): token ids of a text column, right-padded with `padding`.

    `tokenizer` is the BLAKE3 of a `tokenizer.json` that travels with the package or is already at the site; the
    builtin `bytes` maps UTF-8 byte b to id b + 1. With `mask` a second input of that name, same shape, int64, holds 1
    where a token stands.
    """

    name: Name
    column: Name
    tokenizer: str = "bytes"
    length: Annotated[int, msgspec.Meta(ge=1, le=1_048_576)] = 128
    padding: Annotated[int, msgspec.Meta(ge=0)] = 0
    mask: str = ""


class EmbeddedInput(msgspec.Struct, frozen=True, kw_only=True, tag="embedded"):
    """float32 tensor of shape (width,): a text as a frozen base encodes it, kept in float16 at the site.

    The base lies at the site already (`daitn base add`) and never travels: `base` is its digest. A text is cut to
    `length` tokens; the vectors of the base's last layer are averaged over the tokens (`mean`) or the first is taken.
    """

    name: Name
    column: Name
    base: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    width: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    length: Annotated[int, msgspec.Meta(ge=1, le=1_048_576)] = 128
    pooling: Literal["mean", "first"] = "mean"


ModelInput = NumbersInput | VectorInput | CategoryInput | ImageInput | TokensInput | EmbeddedInput


class FieldByColumn(msgspec.Struct, frozen=True, kw_only=True, tag="by_column"):
    """Each value of a category column is a field of that name: a record belongs to exactly one."""

    column: Name


class FieldByValues(msgspec.Struct, frozen=True, kw_only=True, tag="by_values"):
    """A record belongs to field `name` if its `column` (a category column, the label included) is one of `values`."""

    name: Name
    column: Name
    values: Annotated[tuple[Label, ...], msgspec.Meta(min_length=1, max_length=limits.CLASSES)]


FieldRule = FieldByColumn | FieldByValues


class FieldMean(msgspec.Struct, frozen=True, kw_only=True):
    """A target may speak of `name`: the mean of a metric over `fields`, each counting the same whatever its size."""

    name: Name
    fields: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=limits.FIELDS)]


class HeldOutShare(msgspec.Struct, frozen=True, kw_only=True):
    """Of the groups with a record whose category `column` is one of `values`, `frac` are held out.

    The column should say something of the whole group: a group without such a record at one site and with one at
    another may train at the first and be held out at the second. Where several shares speak of a group the largest
    holds.
    """

    column: Name
    values: Annotated[tuple[Label, ...], msgspec.Meta(min_length=1, max_length=limits.CLASSES)]
    frac: Annotated[float, msgspec.Meta(gt=0, lt=1)]


class Classification(msgspec.Struct, frozen=True, kw_only=True, tag="classification"):
    """Softmax over the label vocabulary; the model returns logits of shape (B, C). Loss: cross-entropy.

    Metrics: accuracy, balanced_accuracy, recall[label], precision[label], f1, auc, loss.
    """

    label: Name
    label_smoothing: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


class Regression(msgspec.Struct, frozen=True, kw_only=True, tag="regression"):
    """A real number; the model returns shape (B,) or (B, 1) in scaled units. Loss: mean squared error.

    Metrics: mse, mae, r2, loss, in the label's unit.
    """

    label: Name
    center: float = 0.0
    scale: float = 1.0


class LanguageModelling(msgspec.Struct, frozen=True, kw_only=True, tag="language_modelling"):
    """Next token of `input`; the model returns logits of shape (B, length, V). Loss: cross-entropy, padding left out.

    Metrics: loss, perplexity, accuracy (next token).
    """

    input: Name


class Retrieval(msgspec.Struct, frozen=True, kw_only=True, tag="retrieval"):
    """The right answer among others: the model maps either side to a vector of shape (B, D).

    `query` and `answer` name two inputs of like kind; the model is called once with each, under the name `query`.
    Loss: in-batch contrast at `temperature`; an answer equal to the right one is no rival. With `batches` "groups" the
    records of a group come in one batch, so that a question's rivals are the answers nearest to it. Metrics: accuracy
    (top 1 among `candidates` of the same data set), mrr.
    """

    query: Name
    answer: Name
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 0.05
    candidates: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = 20
    batches: Literal["mixed", "groups"] = "mixed"


class Reinforcement(msgspec.Struct, frozen=True, kw_only=True, tag="reinforcement"):
    """A policy for an environment that a site holds; the model maps observations to action logits of shape (B, A).

    Metrics: mean_return.
    """

    environment: Name
    discount: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.99


Task = Classification | Regression | LanguageModelling | Retrieval | Reinforcement


class DataContract(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Columns, inputs, task, group and fields of one kind of data and one model. See the module's docstring."""

    name: Name
    columns: Annotated[tuple[Column, ...], msgspec.Meta(min_length=1, max_length=100_000)]
    inputs: Annotated[tuple[ModelInput, ...], msgspec.Meta(min_length=1, max_length=64)]
    task: Task
    group: str = ""
    """Identifier column whose equal values stay on one side of every split; empty: each record is its own group."""
    fields: Annotated[tuple[FieldRule, ...], msgspec.Meta(max_length=limits.FIELDS)] = ()
    test_frac: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    """Share of groups, chosen by hash, that never train: they are what a site may give to a verification unit."""
    held_out_shares: Annotated[tuple[HeldOutShare, ...], msgspec.Meta(max_length=limits.FIELDS)] = ()
    """Other shares for some groups: a field with few records needs more of them to be measured at all."""
    means: Annotated[tuple[FieldMean, ...], msgspec.Meta(max_length=limits.FIELDS)] = ()

    def column(self, name: str) -> Column:
        """The column of that name; InputError listing the known ones."""
        for column in self.columns:
            if column.name == name:
                return column
        known = ", ".join(column.name for column in self.columns[:12])
        raise InputError(f"contract {self.name!r} has no column {name!r}", todo=f"it has: {known}")

    def digest(self) -> str:
        """BLAKE3 (hex) of the canonical encoding: equal contracts have equal digests."""
        return blake3(msgspec.json.encode(self, order="deterministic")).hexdigest()

    def labels(self) -> tuple[str, ...]:
        """The label vocabulary of a classification task, else empty."""
        if isinstance(self.task, Classification):
            column = self.column(self.task.label)
            if isinstance(column, CategoryColumn):
                return column.values
        return ()

    def field_names(self) -> tuple[str, ...]:
        """All fields that records belong to, in the order of the rules."""
        names: list[str] = []
        for rule in self.fields:
            if isinstance(rule, FieldByValues):
                names.append(rule.name)
            else:
                column = self.column(rule.column)
                names.extend(column.values if isinstance(column, CategoryColumn) else ())
        return tuple(names)

    def target_fields(self) -> tuple[str, ...]:
        """All fields a target may speak of: those of records, and their means."""
        return self.field_names() + tuple(one.name for one in self.means)

    def parts_of_field(self, name: str) -> tuple[str, ...]:
        """The fields of records that a target's field is made of: itself, or those of a mean."""
        return next((one.fields for one in self.means if one.name == name), (name,))

    def bases(self) -> tuple[str, ...]:
        """Digests of the frozen bases that must lie at a site."""
        return tuple(dict.fromkeys(spec.base for spec in self.inputs if isinstance(spec, EmbeddedInput)))


def check_contract(contract: DataContract) -> None:
    """InputError listing every fault: names twice, inputs of missing or wrong columns, label, group, fields."""
    faults: list[str] = []
    kinds = {column.name: column for column in contract.columns}
    if len(kinds) != len(contract.columns):
        faults.append("two columns have the same name")
    for column in contract.columns:
        if isinstance(column, CategoryColumn) and len(set(column.values)) != len(column.values):
            faults.append(f"category column {column.name!r} lists a value twice")
    inputs = [spec.name for spec in contract.inputs]
    if len(set(inputs)) != len(inputs):
        faults.append("two inputs have the same name")

    def expect(name: str, kind: type, what: str) -> None:
        if name not in kinds:
            faults.append(f"{what} names column {name!r}, which the contract does not have")
        elif not isinstance(kinds[name], kind):
            faults.append(f"{what} needs a {kind.__name__}, {name!r} is a {type(kinds[name]).__name__}")

    for spec in contract.inputs:
        what = f"input {spec.name!r}"
        match spec:
            case NumbersInput():
                for column_name in spec.columns:
                    expect(column_name, NumberColumn, what)
                for part in ("center", "scale"):
                    values = getattr(spec, part)
                    if values and len(values) != len(spec.columns):
                        faults.append(f"{what} has {len(values)} entries in {part} for {len(spec.columns)} columns")
                if any(value == 0 for value in spec.scale):
                    faults.append(f"{what} has a scale of 0")
            case VectorInput():
                expect(spec.column, VectorColumn, what)
            case CategoryInput():
                expect(spec.column, CategoryColumn, what)
            case ImageInput():
                expect(spec.column, ImageColumn, what)
            case TokensInput() | EmbeddedInput():
                expect(spec.column, TextColumn, what)
    match contract.task:
        case Classification(label=label):
            expect(label, CategoryColumn, "the label")
        case Regression(label=label):
            expect(label, NumberColumn, "the label")
        case LanguageModelling(input=name):
            if name not in inputs:
                faults.append(f"the task names input {name!r}, which the contract does not have")
        case Retrieval(query=query, answer=answer):
            faults += [f"the task names input {n!r}, which is missing" for n in (query, answer) if n not in inputs]
        case Reinforcement():
            pass
    if contract.group:
        expect(contract.group, IdentifierColumn, "the group")
    elif isinstance(contract.task, Retrieval) and contract.task.batches == "groups":
        faults.append("the task asks for batches of groups, and the contract has no group")
    for share in contract.held_out_shares:
        what = f"held-out share for {share.column!r}"
        expect(share.column, CategoryColumn, what)
        split = kinds.get(share.column)
        unknown = [one for one in share.values if isinstance(split, CategoryColumn) and one not in split.values]
        if unknown:
            faults.append(f"{what} lists values outside the vocabulary: {', '.join(unknown[:5])}")
    for rule in contract.fields:
        what = f"field rule for {rule.name if isinstance(rule, FieldByValues) else rule.column!r}"
        expect(rule.column, CategoryColumn, what)
        tagged = kinds.get(rule.column)
        if isinstance(rule, FieldByValues) and isinstance(tagged, CategoryColumn):
            unknown = [value for value in rule.values if value not in tagged.values]
            if unknown:
                faults.append(f"{what} lists values outside the vocabulary: {', '.join(unknown[:5])}")
    if not faults:
        names, known = contract.target_fields(), contract.field_names()
        if len(set(names)) != len(names):
            faults.append("two fields have the same name")
        for one in contract.means:
            missing = [name for name in one.fields if name not in known]
            if missing:
                faults.append(f"mean {one.name!r} names fields the contract does not have: {', '.join(missing[:5])}")
    if faults:
        raise InputError(
            f"contract {contract.name!r} is not consistent: " + "; ".join(faults),
            todo="correct the contract where it says so (docs/contract.md)",
        )


def decode_contract(data: bytes, what: str = "contract") -> DataContract:
    """Decode JSON bytes and check; InputError with the place of the first syntax fault or the list of all others."""
    if len(data) > limits.MANIFEST_BYTES:
        raise InputError(f"{what} has {len(data)} bytes, the limit is {limits.MANIFEST_BYTES}")
    try:
        contract = msgspec.json.decode(data, type=DataContract)
    except UNDECODABLE as error:
        raise InputError(
            f"{what} is not a data contract: {error}", todo="see docs/contract.md for an example"
        ) from None
    check_contract(contract)
    return contract

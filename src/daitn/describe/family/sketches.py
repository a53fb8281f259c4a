"""Sketches: the mean of a feature map over groups, by which sites can be compared without meeting.

Each group counts once, with the mean of its records' features (`describe.family.features`): so the noise hides a whole
patient at the price of one record. A group's features are cut to `BOUND · D` in L1 and summed in fixed point; how many
numbers D a site publishes follows from the published number of groups: sixteen numbers of forty groups would be noise.

Where the contract's inputs are embedded by a frozen base whose vectors are at hand, these are what is sketched; a text
column without one is sketched by its words, an image by its filters, a vector by itself.

The mean of a field's records alone is not published: it would cost each field its own noise. `topology.relevance` finds
what a field is like from many sites' means and their shares of the field.

Legend: N records kept, G groups, D numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import BugError
from daitn.describe.family.contract import UNIT, Facts, Item, Measured, Part, Source
from daitn.describe.family.features import EDITION, image_features, text_features, vector_features
from daitn.descriptors.contract import (
    DataContract,
    EmbeddedInput,
    ImageColumn,
    Retrieval,
    TextColumn,
    TokensInput,
    VectorColumn,
)
from daitn.descriptors.descriptions import SKETCH_NUMBERS, Description, Sketch

BOUND: Final = 0.2
"""L1 of a group's D features is cut to this times D: sixteen random numbers of unit length together have a mean
magnitude of 0.2, and so have the contrasts of handwriting."""

SKETCHES_MOST: Final = 8
"""Columns sketched of one data set: each more takes its part of the budget."""

GROUPS_PER_NUMBER: Final = 12
"""Published groups for each number of a sketch, at least: at half the default budget the noise of all numbers together
is then below a fifth of the length of a typical sketch."""

NUMBERS_LEAST: Final = 4


def numbers_for(groups: int) -> int:
    """How many numbers so many groups publish: 4, 8 or 16."""
    wanted = max(NUMBERS_LEAST, groups // GROUPS_PER_NUMBER)
    return min(SKETCH_NUMBERS, 1 << (wanted.bit_length() - 1))


def base_basis(spec: EmbeddedInput) -> str:
    """The basis of what a frozen base makes of a column: base, cut and pooling."""
    return f"base-{EDITION}-{spec.base}-{spec.length}-{spec.pooling}"


def _answers(contract: DataContract) -> frozenset[str]:
    """Text columns of a retrieval task that only answer: they would take half of the budget, and by themselves told
    less than the questions of what a site's records teach (MedQuAD, without noise: 0.40 against 0.46)."""
    if not isinstance(contract.task, Retrieval):
        return frozenset()
    columns = {one.name: one.column for one in contract.inputs if isinstance(one, EmbeddedInput | TokensInput)}
    asked, answering = columns.get(contract.task.query), columns.get(contract.task.answer)
    return frozenset({answering}) - {asked} if answering is not None and asked is not None else frozenset()


class SketchMember:
    """See the module; the contract is `describe.family.contract.Member`."""

    name = "sketch"
    weight = 1.0
    what = "random features of texts, images and vectors, by which sites are compared"

    def items(self, contract: DataContract, bases: Iterable[str]) -> tuple[Item, ...]:
        """One for each text, image and vector column, by a base where its vectors are at hand."""
        at_hand = set(bases)
        found: list[Item] = []
        left_out = _answers(contract)
        embedded = {one.column: one for one in contract.inputs if isinstance(one, EmbeddedInput)}
        for column in contract.columns:
            if column.name in left_out:
                continue
            spec = embedded.get(column.name)
            match column:
                case TextColumn() if spec is not None and base_basis(spec) in at_hand:
                    found.append(Item(self.name, column.name, base_basis(spec)))
                case TextColumn():
                    found.append(Item(self.name, column.name, f"words-{EDITION}"))
                case ImageColumn():
                    found.append(Item(self.name, column.name, f"pixels-{EDITION}"))
                case VectorColumn():
                    found.append(Item(self.name, column.name, f"vector-{EDITION}-{column.length}"))
        return tuple(found[:SKETCHES_MOST])

    def measure(self, item: Item, source: Source, groups: int) -> Measured:
        """Sum over groups of their mean features, cut in L1."""
        count = numbers_for(groups)
        features = self._features(item, source)[:, :count]
        total = int(source.group_of.max()) + 1 if len(source.group_of) else 0
        means = np.zeros((total, count))
        np.add.at(means, source.group_of, features)
        means /= np.maximum(np.bincount(source.group_of, minlength=total), 1)[:, None]
        bound = int(UNIT * BOUND * count)
        lengths = np.abs(means).sum(axis=1, keepdims=True) * UNIT
        # Towards zero, so that rounding never carries a group over the bound.
        whole = np.trunc(means * UNIT * np.minimum(1.0, bound / np.maximum(lengths, 1.0))).astype(np.int64)
        return Measured([int(value) for value in whole.sum(axis=0)], bound)

    def publish(self, part: Part, facts: Facts) -> Description | None:
        """The mean over the published number of groups."""
        if facts.groups < max(1, facts.policy.min_count):
            return None
        mean = np.clip(np.array(part.integers, dtype=np.float64) / UNIT / facts.groups, -2.0, 2.0)
        return Sketch(
            column=part.column,
            basis=part.basis,
            mean=tuple(float(value) for value in mean),
            noise_std=part.share.noise_std / UNIT / facts.groups,
            groups=float(facts.groups),
            epsilon=part.share.epsilon,
        )

    def explain(self, description: Description) -> str:
        """`text: 16 numbers of basis words-1`."""
        assert isinstance(description, Sketch)
        basis = description.basis if len(description.basis) < 24 else f"{description.basis[:24]}…"
        numbers = ", ".join(f"{value:+.2f}" for value in description.mean)
        return f"{description.column}: {numbers} (basis {basis}, noise ± {description.noise_std:.2g} on each)"

    def _features(self, item: Item, source: Source) -> NDArray[np.float64]:
        kind = item.basis.partition("-")[0]
        match kind:
            case "words":
                texts = source.table.texts(item.column)
                return text_features([texts.text(row) for row in source.rows.tolist()])
            case "pixels":
                return image_features(source.table.images(item.column)[source.rows])
            case "vector":
                return vector_features(source.table.vectors(item.column)[source.rows])
            case "base":
                return vector_features(source.vectors[item.basis][source.rows])
        raise BugError(f"no feature map is called {item.basis}")

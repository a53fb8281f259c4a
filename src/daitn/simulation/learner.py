"""Learning as the simulation sees it: what a model has been through decides how good it is.

No numbers are trained. A model is its lineage; each visit adds what the data set's labels can teach, with shrinking
gains, and a little of what is not seen is forgotten. It only has to be lawful (more even lineages score higher),
because what is tested here are the cores, never the learning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from blake3 import blake3

from daitn.base.ids import ArtifactId, DataSetId
from daitn.descriptors.work import Measurement, UpdateRef

FORGETTING = 0.995


class Learner:
    """Skill per label of every model made in one simulated world; ids are digests of lineage."""

    def __init__(self) -> None:
        self._skill: dict[ArtifactId, dict[str, float]] = {}
        self.parents: dict[ArtifactId, tuple[ArtifactId, ...]] = {}
        self.spoilt: set[ArtifactId] = set()
        """Models that have learnt nothing and never will."""

    def submit(self, name: str) -> ArtifactId:
        """An untrained model."""
        model = ArtifactId(blake3(f"package {name}".encode()).hexdigest())
        self._skill[model] = {}
        self.parents[model] = ()
        return model

    def train(self, model: ArtifactId, dataset: DataSetId, labels: Mapping[str, int], records: int) -> ArtifactId:
        """The model after a visit; the same visit of the same model gives the same id."""
        trained = ArtifactId(blake3(f"{model} {dataset} {records}".encode()).hexdigest())
        total = sum(labels.values()) or 1
        skill = {label: value * FORGETTING for label, value in self._skill[model].items()}
        for label, count in labels.items():
            skill[label] = skill.get(label, 0.0) + records * count / total
        self._skill[trained] = skill
        self.parents[trained] = (model,)
        if model in self.spoilt:
            self.spoil(trained)
        return trained

    def spoil(self, model: ArtifactId) -> None:
        """A model is finite and of the right shape, but deaf: neither it nor what is made of it learns."""
        self._skill[model] = {}
        self.spoilt.add(model)

    def train_together(
        self, model: ArtifactId, parts: Sequence[tuple[DataSetId, Mapping[str, int], int]], odd: str
    ) -> ArtifactId:
        """The model after a round in lock step: what each site teaches, added up. `odd` sets one member's apart."""
        made = model
        for dataset, labels, records in parts:
            made = self.train(made, dataset, labels, records)
        together = ArtifactId(blake3(f"together {made} {odd}".encode()).hexdigest())
        self._skill[together] = dict(self._skill[made])
        self.parents[together] = (model,)
        return together

    def average(self, updates: Sequence[UpdateRef]) -> ArtifactId:
        """The weighted mean of models."""
        text = " ".join(f"{update.model}:{update.weight:.6f}" for update in updates)
        mean = ArtifactId(blake3(text.encode()).hexdigest())
        total = sum(update.weight for update in updates)
        skill: dict[str, float] = {}
        for update in updates:
            for label, value in self._skill[update.model].items():
                skill[label] = skill.get(label, 0.0) + value * update.weight / total
        self._skill[mean] = skill
        self.parents[mean] = tuple(update.model for update in updates)
        if any(update.model in self.spoilt for update in updates):
            self.spoil(mean)
        return mean

    def move(self, base: ArtifactId, updates: Sequence[UpdateRef]) -> ArtifactId:
        """A model moved by what visits changed that began from models of their own each."""
        text = " ".join(f"{one.model}:{one.base}:{one.weight:.6f}:{one.discount:.6f}" for one in updates)
        moved = ArtifactId(blake3(f"{base} {text}".encode()).hexdigest())
        total = sum(update.weight for update in updates)
        skill = dict(self._skill[base])
        for update in updates:
            before = self._skill[update.base] if update.base is not None else {}
            for label, value in self._skill[update.model].items():
                change = value - before.get(label, 0.0)
                skill[label] = skill.get(label, 0.0) + change * update.discount * update.weight / total
        self._skill[moved] = skill
        self.parents[moved] = (base, *(update.model for update in updates))
        return moved

    def step(self, mean: ArtifactId, how: str) -> tuple[ArtifactId, ArtifactId]:
        """The model that a server's step makes of a mean, as good as that, and what is remembered of it."""
        stepped = ArtifactId(blake3(f"step {how} {mean}".encode()).hexdigest())
        self._skill[stepped] = dict(self._skill[mean])
        self.parents[stepped] = self.parents[mean]
        if mean in self.spoilt:
            self.spoil(stepped)
        return stepped, ArtifactId(blake3(f"state {how} {mean}".encode()).hexdigest())

    def measure(self, model: ArtifactId, labels: Mapping[str, int], names: Sequence[str]) -> tuple[Measurement, ...]:
        """Accuracy over the labels of a test set, and per label; every name gets a figure."""
        skill = self._skill[model]
        right = {label: 0.1 + 0.89 * (1 - math.exp(-skill.get(label, 0.0) / 60)) for label in labels}
        total = sum(labels.values()) or 1
        accuracy = sum(right[label] * count for label, count in labels.items()) / total
        found: list[Measurement] = []
        for name in names:
            label = name.partition("[")[2].rstrip("]")
            value = right.get(label, accuracy) if label else (1 - accuracy if name == "loss" else accuracy)
            half = 1.96 * math.sqrt(max(1e-6, value * (1 - value)) / total)
            found.append(
                Measurement(
                    name=name, value=value, low=max(0.0, value - half), high=min(1.0, value + half), records=total
                )
            )
        return tuple(found)


def control_name(model: ArtifactId) -> ArtifactId:
    """The control variate that came with a trained model."""
    return ArtifactId(blake3(f"control {model}".encode()).hexdigest())

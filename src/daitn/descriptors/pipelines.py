"""Combined models (paper II-B: switched, split, collaborative and multi-modal inference): several models as one.

A pipeline is a tree under a name that is asked as a model is. Leaves are models of the domain; the rest says how their
answers become one. Each leaf is routed as a query of its own, by the same engine and goal, so a stage that is lost is
asked of another host and a host that is slow delays no more than its own leaf.

- `model`: one model; names of tensors may be changed on the way in and out.
- `sequence`: one after the other, each with what was asked and answered before. A model that was cut into parts, each
  on another host, is one.
- `ensemble`: side by side, answers joined by vote or mean, equal or weighted by measured accuracy in the query's field;
  a quorum is enough. With `partial`, branches whose inputs a query does not have are left out, which the answer says:
  models of several modalities.
- `cascade`: the first whose answer is sure enough.
- `splitter`: one of several, drawn by their shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec

from daitn.base import limits
from daitn.base.errors import InputError
from daitn.base.ids import ModelName
from daitn.base.names import check_name
from daitn.descriptors.contract import Name

PIPELINES: Final = 64
"""Pipelines of one gateway."""

STEPS: Final = 64
"""Steps of one pipeline: each leaf is a query."""

DEPTH: Final = 8

BRANCHES: Final = 16

Output = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS)]


class ModelStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="model", tag_field="kind"):
    """One model."""

    model: ModelName
    inputs: Annotated[dict[Name, Name], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)] = {}
    """Of the model's inputs, those that have another name here: `{theirs = "ours"}`."""
    outputs: Annotated[dict[Name, Name], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)] = {}
    """Of its outputs, those that shall have another name here."""


class Sequence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sequence", tag_field="kind"):
    """One step after the other; the last one's outputs are the answer."""

    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=BRANCHES)]


class Ensemble(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ensemble", tag_field="kind"):
    """Side by side."""

    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=2, max_length=BRANCHES)]
    join: Literal["mean", "vote"] = "mean"
    """`mean` of what the output says; `vote`: each row's largest entry gets a vote, the output is the shares."""
    output: Output
    """What is joined; each branch must have it."""
    weights: Literal["equal", "measured"] = "equal"
    """`measured`: by the odds of each model's accuracy, in the query's field, as verification units measured it."""
    quorum: Annotated[int, msgspec.Meta(ge=0, le=BRANCHES)] = 0
    """So many answers are enough; 0: all that come. The others are not waited for."""
    partial: bool = False
    """Branches whose inputs the query does not have are left out."""


class Cascade(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cascade", tag_field="kind"):
    """Cheapest first: a row is asked of the next step only where the answer so far is not sure."""

    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=2, max_length=BRANCHES)]
    output: Output
    """Where an answer says how sure it is: a row's largest share, after softmax where rows do not sum to one."""
    sure: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8


class Splitter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="splitter", tag_field="kind"):
    """One of several, drawn."""

    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=2, max_length=BRANCHES)]
    shares: Annotated[tuple[float, ...], msgspec.Meta(min_length=2, max_length=BRANCHES)]


Step = ModelStep | Sequence | Ensemble | Cascade | Splitter


class Pipeline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A combined model."""

    name: ModelName
    step: Step


class TextSwitch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two models of texts as one: the dearer is asked where that is worth it, told from the text before either is."""

    name: ModelName
    cheap: ModelName
    dear: ModelName
    outcomes: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    """File of JSON lines `{"text": …, "cheap": true, "dear": false}`: who answered earlier texts rightly."""
    worth: Annotated[float, msgspec.Meta(ge=-1, le=1)] = 0.1
    """The dearer one is asked where it is likelier to be right by more than this."""


def steps_of(step: Step) -> tuple[Step, ...]:
    """What is below a step."""
    return () if isinstance(step, ModelStep) else step.steps


def leaves(step: Step) -> Iterator[ModelStep]:
    """The models of a step, in their order."""
    if isinstance(step, ModelStep):
        yield step
    for one in steps_of(step):
        yield from leaves(one)


def check_pipelines(pipelines: tuple[Pipeline, ...]) -> tuple[Pipeline, ...]:
    """The pipelines, if each holds together; InputError listing every fault with its place."""
    faults: list[str] = []
    names = [pipeline.name for pipeline in pipelines]
    if len(names) > PIPELINES:
        faults.append(f"{len(names)} pipelines, the limit is {PIPELINES}")
    faults += [f"pipeline {name} is there twice" for name in sorted({one for one in names if names.count(one) > 1})]
    for pipeline in pipelines:
        try:
            check_name("model", pipeline.name)
        except InputError as error:
            faults.append(error.what)
        count = _check(pipeline.step, f"pipeline {pipeline.name}", frozenset(names), faults, 1)
        if count > STEPS:
            faults.append(f"pipeline {pipeline.name} has {count} steps, the limit is {STEPS}")
    if faults:
        raise InputError("the pipelines are not consistent: " + "; ".join(faults), todo="correct the file")
    return pipelines


def check_switches(switches: tuple[TextSwitch, ...], besides: tuple[Pipeline, ...]) -> tuple[TextSwitch, ...]:
    """The switches, if each holds together; InputError listing every fault."""
    faults: list[str] = []
    names = [switch.name for switch in switches] + [pipeline.name for pipeline in besides]
    for switch in switches:
        try:
            check_name("model", switch.name)
        except InputError as error:
            faults.append(error.what)
        if names.count(switch.name) > 1:
            faults.append(f"switch {switch.name}: the name is there twice")
        if switch.cheap == switch.dear or {switch.cheap, switch.dear} & set(names):
            faults.append(f"switch {switch.name} is between {switch.cheap} and {switch.dear}: two models are wanted")
    if faults:
        raise InputError("the switches are not consistent: " + "; ".join(faults), todo="correct the file")
    return switches


def _check(step: Step, place: str, names: frozenset[str], faults: list[str], depth: int) -> int:
    """Faults of a step and those below; how many steps they are."""
    if depth > DEPTH:
        faults.append(f"{place} is deeper than {DEPTH}")
        return 1
    match step:
        case ModelStep(model=model) if model in names:
            faults.append(f"{place} asks {model}, which is a pipeline: write its steps here")
        case ModelStep(inputs=inputs, outputs=outputs):
            faults += [f"{place} gives two outputs one name"] * (len(set(outputs.values())) != len(outputs))
            faults += [f"{place} takes one tensor for two inputs"] * (len(set(inputs.values())) != len(inputs))
        case Ensemble(steps=steps, quorum=quorum) if quorum > len(steps):
            faults.append(f"{place} wants {quorum} answers of {len(steps)} branches")
        case Ensemble(steps=steps, weights="measured"):
            faults += [
                f"{place}, branch {number}: what is weighted by what was measured must be one model"
                for number, one in enumerate(steps, 1)
                if not isinstance(one, ModelStep)
            ]
        case Splitter(steps=steps, shares=shares):
            if len(shares) != len(steps):
                faults.append(f"{place} has {len(shares)} shares for {len(steps)} steps")
            if not all(math.isfinite(share) and share >= 0 for share in shares) or not sum(shares) > 0:
                faults.append(f"{place} has shares that are no numbers from 0 up, or are all 0")
        case _:
            pass
    return 1 + sum(
        _check(one, f"{place}, {step.__class__.__name__.lower()} step {number}", names, faults, depth + 1)
        for number, one in enumerate(steps_of(step), 1)
    )

"""The catalogue: small untrained models of known families, made for a contract.

Paper II-A (v): the network advises owners on models. A refusal for attainability can name one of these where the
owner's own will not reach the goal (`decision.advising`): a recurrent, a convolutional and a transformer model for
texts, images and other sequences, a perceptron and a transformer for columns. They are `nn.Module`s like any other: the
owner packs and signs them, and the verification unit tries them as it tries every other model. They are small, and by
themselves reach less than what was made for its data with care; that one of them would do says that the data has what
the goal needs.

What it does not do: choose, search widths, or bring weights. A contract whose records come from an environment has none
(no trial is made of it, decision 0013).
"""

from __future__ import annotations

import inspect
import math
from typing import Final

import torch
from torch import Tensor, nn

from daitn.base.errors import InputError
from daitn.descriptors.contract import (
    CategoryInput,
    Classification,
    DataContract,
    LanguageModelling,
    ModelInput,
    Reinforcement,
    Retrieval,
    TokensInput,
)
from daitn.descriptors.fitting import InputSpec, input_specs
from daitn.learning.catalogue.parts import (
    WIDTH,
    Family,
    OfCategory,
    OfImage,
    OfNumbers,
    OfSequence,
    OfTokens,
)
from daitn.learning.tokenizer_file import open_tokenizer

TRANSFORMER_MOST: Final = 1024
"""Places of a sequence up to which there is a transformer: its work grows with their square."""
RECURRENT_MOST: Final = 4096
"""The same for a recurrent layer, which makes one step after another."""
FEATURES_MOST: Final = 256
"""Columns up to which each is a place of a transformer's sequence."""
VECTOR: Final = 64
"""Length of the vectors of retrieval."""


class CatalogueModel(nn.Module):
    """One model of the catalogue: an encoder for each input, their results side by side, and a head for the task.

    Called with the contract's inputs by name. Returns logits (B, labels), a number (B, 1), a vector (B, 64), or logits
    of the next token (B, L, vocabulary).
    """

    def __init__(self, contract: DataContract, family: Family, tokenizer: bytes | None) -> None:
        super().__init__()
        specs = {one.name: one for one in input_specs(contract)}
        self._inputs = _inputs_of(contract)
        self._task = contract.task
        following = contract.task.input if isinstance(contract.task, LanguageModelling) else ""
        self.encoders = nn.ModuleDict(
            {
                f"input{place}": _encoder(one, specs[one.name], family, tokenizer, causal=one.name == following)
                for place, one in enumerate(self._inputs)
            }
        )
        wide = WIDTH if following else WIDTH * len(self._inputs)
        self.norm = nn.LayerNorm(wide)
        self.head = nn.Linear(wide, self._answers(contract, tokenizer))

    def _answers(self, contract: DataContract, tokenizer: bytes | None) -> int:
        match contract.task:
            case Classification():
                return len(contract.labels())
            case Retrieval():
                return VECTOR
            case LanguageModelling(input=name):
                found = next(one for one in self._inputs if one.name == name)
                spec = next(one for one in input_specs(contract) if one.name == name)
                return _vocabulary(found, spec, tokenizer)
            case _:
                return 1

    @property
    def input_names(self) -> tuple[str, ...]:
        """The tensors that it is called with, masks after the tokens they belong to."""
        names: list[str] = []
        for one in self._inputs:
            names += [one.name, one.mask] if isinstance(one, TokensInput) and one.mask else [one.name]
        return tuple(names)

    def forward(self, **inputs: Tensor) -> Tensor:
        """See the class's docstring."""
        following = self._task.input if isinstance(self._task, LanguageModelling) else ""
        found: list[Tensor] = []
        along: Tensor | None = None
        for place, one in enumerate(self._inputs):
            encoder = self.encoders[f"input{place}"]
            if isinstance(one, TokensInput):
                mask = inputs[one.mask] if one.mask else None
                if one.name == following and isinstance(encoder, OfTokens):
                    along = encoder.places(inputs[one.name], mask)[0]
                    continue
                found.append(encoder(inputs[one.name], mask))
            else:
                found.append(encoder(inputs[one.name]))
        if along is not None:
            for each in found:
                along = along + each.unsqueeze(1)
        joined = torch.cat(found, dim=1) if along is None else along
        out: Tensor = self.head(self.norm(joined))
        return out


def families_of(contract: DataContract) -> tuple[Family, ...]:
    """Which families the catalogue has for a contract, by what its inputs are; none where records come from an
    environment."""
    if isinstance(contract.task, Reinforcement):
        return ()
    specs = {one.name: one for one in input_specs(contract)}
    lengths: list[int] = []
    images = False
    features = 0
    for one in _inputs_of(contract):
        shape = specs[one.name].shape
        images = images or len(shape) == 3
        if isinstance(one, TokensInput) or len(shape) == 2:
            lengths.append(shape[0])
        elif len(shape) == 1:
            features = max(features, shape[0])
    found: list[Family] = []
    if lengths or images:
        found.append("convolutional")
        if max(lengths, default=0) <= RECURRENT_MOST:
            found.append("recurrent")
        if max(lengths, default=0) <= TRANSFORMER_MOST:
            found.append("transformer")
    else:
        found.append("perceptron")
        if 1 < features <= FEATURES_MOST:
            found.append("transformer")
    return tuple(found)


def catalogue_model(
    contract: DataContract, family: Family, *, tokenizer: bytes | None = None, seed: int = 0
) -> CatalogueModel:
    """An untrained model of `family` for a contract, the same for the same `seed`; 50 kB to 1 MB, besides tables of
    vocabularies. `tokenizer`: the tokenizer.json that the contract's tokens are of, where it names one. InputError
    where the catalogue has no such family for this contract, or the tokenizer lacks."""
    known = families_of(contract)
    if family not in known:
        raise InputError(
            f"the catalogue has no {family!r} model for contract {contract.name!r}",
            todo=f"it has: {', '.join(known)}" if known else "records of an environment are not tried before a run",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _called_by_name(CatalogueModel(contract, family, tokenizer))


def catalogue_models(
    contract: DataContract, *, tokenizer: bytes | None = None, seed: int = 0
) -> dict[str, CatalogueModel]:
    """All of the catalogue for a contract, by family; see `catalogue_model`."""
    return {one: catalogue_model(contract, one, tokenizer=tokenizer, seed=seed) for one in families_of(contract)}


def _called_by_name(model: CatalogueModel) -> CatalogueModel:
    """The same model, whose `forward` says the names of its inputs: tracing asks for them."""

    def forward(self: CatalogueModel, **inputs: Tensor) -> Tensor:
        return CatalogueModel.forward(self, **inputs)

    places = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    places += [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in model.input_names]
    forward.__signature__ = inspect.Signature(places)  # type: ignore[attr-defined]
    model.__class__ = type(CatalogueModel.__name__, (CatalogueModel,), {"forward": forward})
    return model


def _inputs_of(contract: DataContract) -> tuple[ModelInput, ...]:
    """What a model is called with: all inputs, but of retrieval only the query's side."""
    task = contract.task
    if isinstance(task, Retrieval):
        return tuple(one for one in contract.inputs if one.name != task.answer or one.name == task.query)
    return contract.inputs


def _encoder(one: ModelInput, spec: InputSpec, family: Family, tokenizer: bytes | None, *, causal: bool) -> nn.Module:
    """What makes a vector of one input. Numbers beside texts or images are encoded by a perceptron in every family but
    a transformer, and there too where they are many."""
    shape = spec.shape
    if isinstance(one, TokensInput):
        return OfTokens(family, shape[0], _vocabulary(one, spec, tokenizer), one.padding, causal=causal)
    if isinstance(one, CategoryInput):
        return OfCategory(int(spec.high or 0) + 1)
    if len(shape) == 3:
        return OfImage(family, shape[0], shape[1], shape[2])
    if len(shape) == 2:
        return OfSequence(family, shape[0], shape[1])
    count = math.prod(shape)
    if len(shape) != 1:
        return nn.Sequential(nn.Flatten(1), OfNumbers("perceptron", count))
    return OfNumbers(family if 1 < count <= FEATURES_MOST else "perceptron", count)


def _vocabulary(one: ModelInput, spec: InputSpec, tokenizer: bytes | None) -> int:
    """How many tokens there are."""
    if spec.high is not None:
        return int(spec.high) + 1
    if tokenizer is None:
        raise InputError(
            f"how many tokens input {one.name!r} has is told by its tokenizer, which is not given",
            todo="give its tokenizer.json as `tokenizer`",
        )
    padding = one.padding if isinstance(one, TokensInput) else 0
    return max(int(open_tokenizer(tokenizer, "the tokenizer").get_vocab_size(with_added_tokens=True)), padding + 1)

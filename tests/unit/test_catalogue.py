"""Models of the catalogue: one for each family that suits a contract, answering as its task wants, to be packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.builders import make_contract

from daitn.base.errors import InputError
from daitn.descriptors.contract import (
    CategoryColumn,
    CategoryInput,
    Classification,
    DataContract,
    EmbeddedInput,
    ImageColumn,
    ImageInput,
    LanguageModelling,
    NumberColumn,
    NumbersInput,
    Regression,
    Retrieval,
    TextColumn,
    TokensInput,
    VectorColumn,
    VectorInput,
)
from daitn.learning.catalogue.models import CatalogueModel, catalogue_model, catalogue_models, families_of
from daitn.learning.environments import environment_contract
from daitn.sdk.examples import example_inputs
from daitn.sdk.packaging import load_module, package_module

LABEL = CategoryColumn(name="y", values=("a", "b", "c"))
TEXTS = (TextColumn(name="t"), TextColumn(name="u"))
TOKENS = TokensInput(name="t", column="t", length=24)
NUMBERS = tuple(NumberColumn(name=f"n{place}") for place in range(5))
MIXED = (
    NumbersInput(name="x", columns=tuple(one.name for one in NUMBERS)),
    CategoryInput(name="k", column="k"),
)


def contract(columns, inputs, task=None) -> DataContract:
    return make_contract(columns=(*columns, LABEL), inputs=inputs, task=task or Classification(label="y"), fields=())


CONTRACTS = {
    "columns": contract((*NUMBERS, CategoryColumn(name="k", values=("p", "q"))), MIXED),
    "number": contract(NUMBERS, (NumbersInput(name="x", columns=("n0",)),), Regression(label="n1")),
    "base": contract(TEXTS, (EmbeddedInput(name="e", column="t", base="0" * 64, width=512),)),
    "image": contract((ImageColumn(name="i", channels=3, height=20, width=33),), (ImageInput(name="i", column="i"),)),
    "small image": contract(
        (ImageColumn(name="i", channels=1, height=8, width=8),), (ImageInput(name="i", column="i"),)
    ),
    "large image": contract(
        (ImageColumn(name="i", channels=1, height=200, width=130),), (ImageInput(name="i", column="i"),)
    ),
    "sequence": contract((VectorColumn(name="v", length=60),), (VectorInput(name="v", column="v", shape=(20, 3)),)),
    "text": contract(TEXTS, (TokensInput(name="t", column="t", length=24, mask="m"),)),
    "text and numbers": contract((*TEXTS, *NUMBERS), (TOKENS, NumbersInput(name="x", columns=("n0", "n1")))),
    "next token": contract(TEXTS, (TOKENS,), LanguageModelling(input="t")),
    "retrieval": contract(
        TEXTS, (TOKENS, TokensInput(name="u", column="u", length=24)), Retrieval(query="t", answer="u")
    ),
}
SEQUENCES = ("convolutional", "recurrent", "transformer")
FAMILIES = {
    **dict.fromkeys(CONTRACTS, SEQUENCES),
    "columns": ("perceptron", "transformer"),
    "number": ("perceptron",),
    "base": ("perceptron",),
}
ANSWERS = {**dict.fromkeys(CONTRACTS, (3, 3)), "number": (3, 1), "next token": (3, 24, 257), "retrieval": (3, 64)}


@pytest.mark.parametrize("name", CONTRACTS)
def test_each_family_answers_as_the_task_wants_and_learns_from_every_weight(name):
    models = catalogue_models(CONTRACTS[name])

    assert tuple(models) == families_of(CONTRACTS[name]) == FAMILIES[name]
    for family, model in models.items():
        found = model(**example_inputs(CONTRACTS[name]))
        assert found.shape == ANSWERS[name], family
        found.square().sum().backward()
        assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters()), family


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("columns", "transformer"),
        ("text and numbers", "convolutional"),
        ("text", "recurrent"),
        ("text", "transformer"),
        ("large image", "convolutional"),
        ("image", "transformer"),
        ("next token", "transformer"),
    ],
)
def test_models_are_packed_like_an_owner_s_own_and_compute_the_same(tmp_path: Path, name, family):
    made = catalogue_model(CONTRACTS[name], family).eval()
    package_module(made, CONTRACTS[name], tmp_path / "p", key=Ed25519PrivateKey.generate(), name=family)
    inputs = example_inputs(CONTRACTS[name], records=5)

    assert torch.equal(load_module(tmp_path / "p")(**inputs)["output"], made(**inputs))


def test_same_seed_makes_the_same_weights_and_leaves_the_generator_alone():
    torch.manual_seed(3)
    first = catalogue_model(CONTRACTS["text"], "recurrent")
    drawn = torch.rand(1)
    torch.manual_seed(3)
    again = catalogue_model(CONTRACTS["text"], "recurrent")

    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("family", SEQUENCES)
def test_next_token_is_told_without_seeing_it(family):
    model = catalogue_model(CONTRACTS["next token"], family).eval()
    ids = example_inputs(CONTRACTS["next token"])["t"]
    changed = ids.clone()
    changed[:, 12:] = (changed[:, 12:] + 7) % 256 + 1

    assert torch.allclose(model(t=ids)[:, :12], model(t=changed)[:, :12], atol=1e-5)


@pytest.mark.parametrize("family", SEQUENCES)
def test_padding_says_nothing_and_an_empty_text_is_a_text(family):
    model = catalogue_model(CONTRACTS["text and numbers"], family).eval()
    ids = torch.zeros((2, 24), dtype=torch.int64)
    ids[0, :5] = torch.arange(1, 6)
    found = model(t=ids, x=torch.zeros((2, 2)))

    assert found.isfinite().all()
    alone = model(t=ids[:1], x=torch.zeros((1, 2)))
    assert torch.allclose(found[:1], alone, atol=1e-6)


@pytest.mark.parametrize("family", SEQUENCES)
def test_models_tell_texts_apart_after_a_few_steps(family):
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(1, 200, (96, 24)))
    labels = torch.from_numpy(rng.integers(0, 3, 96))
    ids[:, 3] = 210 + labels
    model: CatalogueModel = catalogue_model(CONTRACTS["text and numbers"], family)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(t=ids, x=torch.zeros((96, 2))), labels)
        loss.backward()
        optimizer.step()

    assert float(loss.detach()) < 0.3


def test_family_that_does_not_suit_is_refused_with_those_that_do():
    with pytest.raises(InputError, match=r"no 'recurrent' model.*it has: perceptron"):
        catalogue_model(CONTRACTS["number"], "recurrent")
    assert families_of(environment_contract("CartPole-v1")) == ()
    long = contract(TEXTS, (TokensInput(name="t", column="t", length=5000),))
    assert families_of(long) == ("convolutional",)


def test_vocabulary_of_a_tokenizer_that_is_not_given_is_asked_for():
    named = contract(TEXTS, (TokensInput(name="t", column="t", tokenizer="0" * 64, length=24),))

    with pytest.raises(InputError, match=r"tokenizer, which is not given"):
        catalogue_models(named)

"""A small world of texts for tests: questions and answers at several sites, and a tiny random encoder as base."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from daitn.descriptors.contract import (
    CategoryColumn,
    DataContract,
    EmbeddedInput,
    FieldByColumn,
    FieldMean,
    IdentifierColumn,
    ModelInput,
    Retrieval,
    TextColumn,
    TokensInput,
)
from daitn.node.processes import DataFiles

INSTITUTES = ("north", "south", "west")
WORDS = 60
POLICY = """
owners = ["ada"]
purposes = ["research"]
sample_frac = 0.3
verification_operators = ["trust"]
epsilon_per_period = 50.0
cache_activations = "{stays}"
"""


def words() -> list[str]:
    """A vocabulary of invented words."""
    rng = np.random.default_rng(5)
    return ["".join(rng.choice(list("abdeiklmnorstu"), 6)) for _ in range(WORDS)]


def write_base(folder: Path, seed: int = 0, vocabulary: Sequence[str] = ()) -> Path:
    """A BERT of two layers with random weights, as transformers saves it; it knows these words or the invented."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    known = list(dict.fromkeys(vocabulary or words()))
    config = BertConfig(
        vocab_size=max(WORDS, len(known)) + 2,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    places = {"[PAD]": 0, "[UNK]": 1} | {word: place + 2 for place, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(places, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def embedded_contract(base: str) -> DataContract:
    """Question and answer as the base's vectors."""
    return _contract(
        EmbeddedInput(name="question", column="question", base=base, width=16, length=16),
        EmbeddedInput(name="answer", column="answer", base=base, width=16, length=16),
        Retrieval(query="question", answer="answer", temperature=0.1, candidates=8, batches="groups"),
    )


def token_contract(tokenizer: str) -> DataContract:
    """Question and answer as tokens, under the names that a BERT takes."""
    return _contract(
        TokensInput(name="input_ids", column="question", tokenizer=tokenizer, length=16, mask="attention_mask"),
        TokensInput(name="answer_ids", column="answer", tokenizer=tokenizer, length=16, mask="answer_mask"),
        Retrieval(query="input_ids", answer="answer_ids", temperature=0.1, candidates=8),
    )


def _contract(query: ModelInput, answer: ModelInput, task: Retrieval) -> DataContract:
    return DataContract(
        name="texts",
        columns=(
            TextColumn(name="question"),
            TextColumn(name="answer"),
            IdentifierColumn(name="focus"),
            CategoryColumn(name="institute", values=INSTITUTES),
        ),
        inputs=(query, answer),
        task=task,
        group="focus",
        fields=(FieldByColumn(column="institute"),),
        means=(FieldMean(name="broad", fields=INSTITUTES),),
    )


def write_site(
    folder: Path, institute: str, contract: DataContract, *, foci: int = 120, stays: str = "job"
) -> DataFiles:
    """Two questions about each of `foci` pairs of words, whose answers repeat a word of the pair."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(INSTITUTES.index(institute))
    vocabulary, lines = words(), []
    for number in range(foci):
        one, two = rng.choice(vocabulary, 2, replace=False)
        for question in (f"{one} {two}", f"{two} {one} {one}"):
            rest = " ".join(rng.choice(vocabulary, 3))
            row: dict[str, Any] = {
                "question": question,
                "answer": f"{one} {rest} {two}",
                "focus": f"{institute}-{number}",
                "institute": institute,
            }
            lines.append(json.dumps(row))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "contract.json").write_bytes(msgspec.json.encode(contract))
    (folder / "policy.toml").write_text(POLICY.format(stays=stays))
    return DataFiles("texts", folder / "data.jsonl", folder / "contract.json", folder / "policy.toml")

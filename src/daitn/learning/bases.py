"""Frozen bases: encoders that lie at a site and turn its texts into vectors, so that only what learns on them travels.

A base is three files of a `transformers` model: `config.json`, `model.safetensors`, `tokenizer.json`. Its digest covers
their bytes, so two sites that speak of one digest hold the same base. It is built from the closed lists of
`learning.pretrained`: no remote code, no pickle, nothing fetched.

Equal token rows are computed once and get equal vectors: padding differs from batch to batch and would make them differ
in the last bit, and two answers that differ in a bit would count as each other's rivals.

transformers and tokenizers are imported when used. Legend: N texts, L tokens, D length of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from daitn.base.errors import InputError, UnavailableError
from daitn.learning.base_files import read_config
from daitn.learning.pretrained import PretrainedConfig, build_pretrained
from daitn.learning.tokenizer_file import encode_texts, read_tokenizer
from daitn.learning.weight_files import load_weights

TOKENS_AT_ONCE: Final = 4096
"""Tokens of one forward pass, padding included: 15 MB of activations for a layer of 384, and two cores are busy."""
TEXT_CHARS: Final = 64
"""Characters of a text looked at for each token wanted: a token of more than that is no word of any language."""

_NOT_OF_THE_MODEL: Final = ("position_ids",)
"""Buffers that older checkpoints saved and models now make by themselves."""


class FrozenBase:
    """A base in memory, in evaluation mode."""

    def __init__(self, folder: Path) -> None:
        """InputError where the files do not make a model of the closed lists. Cost: reading the tensors, once."""
        self._tokenizer = read_tokenizer(folder)
        config = read_config(folder)
        kind = str(config.pop("model_type", ""))
        described = PretrainedConfig(auto_class="AutoModel", model_type=kind, values=known_values(kind, config))
        tensors = {
            name: tensor
            for name, tensor in load_weights(folder / "model.safetensors").items()
            if not name.endswith(_NOT_OF_THE_MODEL)
        }
        model = build_pretrained(msgspec.json.encode(described), None, tensors)
        self._model = model.eval().requires_grad_(requires_grad=False)

    def embed(
        self,
        texts: Sequence[str],
        length: int,
        pooling: Literal["mean", "first"],
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """Vectors (rows, D) with the rows of `texts` they belong to, some at a time, short texts first."""
        tokens = self._encode(texts, length)
        distinct: dict[tuple[int, ...], list[int]] = {}
        for row, ids in enumerate(tokens):
            distinct.setdefault(ids, []).append(row)
        for part in _parts(sorted(distinct, key=len)):
            rows = np.array([row for ids in part for row in distinct[ids]], dtype=np.int64)
            yield rows, np.repeat(self._forward(part, pooling), [len(distinct[ids]) for ids in part], axis=0)

    def _encode(self, texts: Sequence[str], length: int) -> list[tuple[int, ...]]:
        self._tokenizer.enable_truncation(length)
        found: list[tuple[int, ...]] = []
        for start in range(0, len(texts), 1024):
            part = [text[: length * TEXT_CHARS] for text in texts[start : start + 1024]]
            found += [tuple(ids) or (0,) for ids in encode_texts(self._tokenizer, part)]
        return found

    def _forward(self, rows: Sequence[tuple[int, ...]], pooling: str) -> NDArray[np.float16]:
        longest = max(map(len, rows))
        ids = torch.zeros((len(rows), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            if pooling == "first":
                pooled = hidden[:, 0]
            else:
                weights = mask[:, :, None].to(hidden.dtype)
                pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
            if not bool(torch.isfinite(pooled).all()):
                raise InputError("the base gives vectors that are not finite", todo="look at its model.safetensors")
        half: NDArray[np.float16] = pooled.to(torch.float16).numpy()
        return half


def _parts(ordered: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Token rows, short ones first, cut where a forward pass would become too large."""
    part: list[tuple[int, ...]] = []
    for ids in ordered:
        if part and len(ids) * (len(part) + 1) > TOKENS_AT_ONCE:
            yield part
            part = []
        part.append(ids)
    if part:
        yield part


def known_values(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """Keys that the architecture knows; a checkpoint keeps others of the version that saved it, which say nothing
    here."""
    try:
        from transformers import AutoConfig

        known = AutoConfig.for_model(kind).to_dict()
    except ImportError:
        raise UnavailableError("a base needs the package transformers", todo="install daitn[transformers]") from None
    except ValueError:
        raise InputError(f"{kind[:80]!r} is no architecture that transformers has") from None
    left_out = {"_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype"}
    return {name: value for name, value in config.items() if name in known and name not in left_out}

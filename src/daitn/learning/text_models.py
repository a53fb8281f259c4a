"""Language models, encoders and classifiers of a folder as `transformers` saves it, to be asked and not to be trained.

    config.json, *.safetensors, tokenizer.json, and where they are: tokenizer_config.json, generation_config.json

Built from the closed lists of `learning.pretrained`: no remote code, no pickle, nothing fetched. A chat is made a text
by the folder's own template, in Jinja's sandbox; without one, by roles and lines.

A continuation is computed one token at a time with its own memory of what came before, so it is the same whatever else
is under way. What is drawn by chance is drawn by seed and place (Gumbel's trick), so another machine draws the same.

transformers and tokenizers are imported when used. Legend: N texts, L tokens, V vocabulary, D length of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.units import MIB
from daitn.descriptors.texts import Generation, TextTask, Turn
from daitn.learning.base_files import read_config
from daitn.learning.bases import known_values
from daitn.learning.pretrained import PretrainedConfig, build_pretrained
from daitn.learning.tokenizer_file import decode_tokens, encode_texts, read_tokenizer
from daitn.learning.weight_files import load_weights

AUTO_CLASSES: Final = {
    TextTask.GENERATE: "AutoModelForCausalLM",
    TextTask.EMBED: "AutoModel",
    TextTask.CLASSIFY: "AutoModelForSequenceClassification",
}

TEXTS_AT_ONCE: Final = 16
SMALL_FILE_BYTES: Final = 4 * MIB
"""Largest of the small files; templates have some kilobytes, names of added tokens some hundred."""

_NOT_OF_THE_MODEL: Final = ("position_ids", ".attn.bias", ".attn.masked_bias")
"""Buffers that older checkpoints saved and models now make by themselves."""


class TokenizerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `tokenizer_config.json` says that matters here."""

    chat_template: Any = None
    bos_token: Any = None
    eos_token: Any = None


class GenerationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `generation_config.json` says that matters here."""

    eos_token_id: int | list[int] | None = None


class TextModel:
    """One folder's model, in evaluation mode, for one task."""

    def __init__(self, folder: Path, task: TextTask) -> None:
        """InputError where the files do not make a model of the closed lists. Cost: reading the tensors, once."""
        self._tokenizer = read_tokenizer(folder)
        config = read_config(folder)
        kind = str(config.pop("model_type", ""))
        described = PretrainedConfig(auto_class=AUTO_CLASSES[task], model_type=kind, values=known_values(kind, config))
        tensors: dict[str, torch.Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            tensors |= {name: one for name, one in load_weights(path).items() if not name.endswith(_NOT_OF_THE_MODEL)}
        self._model = build_pretrained(msgspec.json.encode(described), None, tensors)
        self._model.eval().requires_grad_(requires_grad=False)
        settings = self._model.config
        self.context_most = int(getattr(settings, "max_position_embeddings", 0) or 1 << 20)
        self._settings = read_tokenizer_settings(folder / "tokenizer_config.json")
        self._ends = self._end_tokens(config, read_generation_settings(folder / "generation_config.json"))
        names = getattr(settings, "id2label", None) or {}
        self.labels = tuple(str(names[place]) for place in sorted(names)) if task is TextTask.CLASSIFY else ()

    # --- continuations ----------------------------------------------------------------------------------------------

    def prompt_tokens(self, asked: Generation) -> list[int]:
        """The tokens of what is to be continued; InputError where they are none, or more than the model takes."""
        text = asked.prompt or self.chat_text(asked.turns)
        (tokens,) = encode_texts(self._tokenizer, [text], special=bool(asked.prompt))
        if not tokens:
            raise InputError("the text has no tokens")
        if len(tokens) >= self.context_most:
            raise InputError(f"the text has {len(tokens)} tokens, the model takes {self.context_most - 1}")
        return tokens

    def chat_text(self, turns: Sequence[Turn]) -> str:
        """A conversation as the model knows it."""
        template = self._settings.chat_template
        if not isinstance(template, str):
            return "".join(f"{turn.role}: {turn.text}\n" for turn in turns) + "assistant:"
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(what: str) -> None:
            raise TemplateError(what)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        ends = {"bos_token": _word(self._settings.bos_token), "eos_token": _word(self._settings.eos_token)}
        try:
            return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **ends)
        except (TemplateError, TypeError, ValueError) as error:
            raise InputError(f"the model's template does not take this conversation: {str(error)[:200]}") from None

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of some tokens."""
        return decode_tokens(self._tokenizer, tokens)

    def is_end(self, token: int) -> bool:
        """Whether a continuation ends with it."""
        return token in self._ends

    def memory(self) -> Any:
        """An empty memory of what came before, for `scores`."""
        from transformers import DynamicCache

        return DynamicCache()

    def scores(self, tokens: Sequence[int], memory: Any) -> NDArray[np.float32]:
        """(V,) of what comes behind these tokens, which come behind those that the memory holds already."""
        with torch.inference_mode():
            output = self._model(input_ids=torch.tensor([list(tokens)]), past_key_values=memory, use_cache=True)
        found: NDArray[np.float32] = output.logits[0, -1].float().numpy()
        return found

    # --- whole texts ------------------------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text; InputError for one that is too long."""
        found = [ids or [0] for ids in encode_texts(self._tokenizer, texts)]
        if (longest := max(map(len, found))) > self.context_most:
            raise InputError(f"a text has {longest} tokens, the model takes {self.context_most}")
        return found

    def vectors(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(N, D) unit vectors: the mean over a text's tokens."""
        hidden, mask = self._forward(rows, "last_hidden_state")
        pooled = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        found: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).float().numpy()
        return found

    def shares(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(N, labels) scores that sum to one."""
        logits, _ = self._forward(rows, "logits")
        found: NDArray[np.float32] = torch.softmax(logits.float(), dim=1).numpy()
        return found

    def _forward(
        self, rows: Sequence[Sequence[int]], part: Literal["last_hidden_state", "logits"]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, rows))
        ids = torch.zeros((len(rows), longest), dtype=torch.int64)
        mask = torch.zeros((len(rows), longest))
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(list(row))
            mask[place, : len(row)] = 1
        with torch.inference_mode():
            output = self._model(input_ids=ids, attention_mask=mask.long())
        return getattr(output, part), mask

    def _end_tokens(self, config: dict[str, Any], settings: GenerationSettings) -> frozenset[int]:
        given = settings.eos_token_id if settings.eos_token_id is not None else config.get("eos_token_id")
        listed = given if isinstance(given, list) else [given]
        return frozenset(one for one in listed if isinstance(one, int))


def choose_token(scores: NDArray[np.float32], asked: Generation, place: int) -> int:
    """The token at a place: the likeliest, or one drawn by the query's seed. O(V log V) where `top_p` cuts."""
    if asked.temperature <= 0:
        return int(scores.argmax())
    logits = scores.astype(np.float64) / asked.temperature
    if asked.top_p < 1:
        order = np.argsort(-logits, kind="stable")
        chances = np.exp(logits[order] - logits[order[0]])
        chances /= chances.sum()
        kept = int(np.searchsorted(np.cumsum(chances), asked.top_p)) + 1
        logits[order[kept:]] = -np.inf
    drawn = np.random.default_rng([asked.seed, place]).gumbel(size=logits.shape)
    return int((logits + drawn).argmax())


def read_tokenizer_settings(path: Path) -> TokenizerSettings:
    """The file's settings, none where it is not there; InputError where it is no such file."""
    found: TokenizerSettings = _read(path, TokenizerSettings)
    return found


def read_generation_settings(path: Path) -> GenerationSettings:
    """The file's settings, none where it is not there; InputError where it is no such file."""
    found: GenerationSettings = _read(path, GenerationSettings)
    return found


def _read(path: Path, kind: type[Any]) -> Any:
    if not path.is_file():
        return kind()
    if path.stat().st_size > SMALL_FILE_BYTES:
        raise InputError(f"{path.name} has more than {SMALL_FILE_BYTES // MIB} MiB")
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except UNDECODABLE as error:
        raise InputError(f"{path.name} does not decode: {str(error)[:200]}") from None


def _word(token: Any) -> str:
    """A special token, as a string or as the object that some files have."""
    return token if isinstance(token, str) else str(token.get("content", "")) if isinstance(token, dict) else ""

"""A tokenizer from the bytes of its file: one way for contracts and for frozen bases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from daitn.base import limits
from daitn.base.errors import InputError, UnavailableError

TOKENIZER_BYTES: Final = limits.GRAPH_BYTES
"""Largest tokenizer file; the largest in common use (250,000 pieces) has 17 MB."""

_TODO: Final = "give the tokenizer.json that transformers or tokenizers saves"


def open_tokenizer(data: bytes, name: str) -> Any:
    """The tokenizer, neither cutting nor padding. InputError naming `name` where the bytes are none; UnavailableError
    where the library is not installed."""
    if len(data) > TOKENIZER_BYTES:
        raise InputError(f"{name} has more than {TOKENIZER_BYTES} bytes", todo=_TODO)
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UnavailableError(f"{name} needs the package tokenizers", todo="install daitn[transformers]") from None
    with _faults_told(name):
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return tokenizer


def encode_texts(tokenizer: Any, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
    """Tokens of each text; InputError where the tokenizer's file makes it fail. `special`: with what it adds."""
    with _faults_told("the tokenizer"):
        return [list(one.ids) for one in tokenizer.encode_batch(list(texts), add_special_tokens=special)]


def decode_tokens(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of some tokens, without special ones; InputError where the tokenizer's file makes it fail."""
    with _faults_told("the tokenizer"):
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


@contextmanager
def _faults_told(name: str) -> Iterator[None]:
    """The library raises bare Exception for the faults of a file that it looks for, and panics at the others, when it
    reads the file or at a text: those are no Exception, and their class cannot be imported."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{name} cannot be used: {str(error)[:200]}", todo=_TODO) from None


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder; InputError as `open_tokenizer`, and where the file cannot be read."""
    path = folder / "tokenizer.json"
    try:
        with path.open("rb") as file:
            data = file.read(TOKENIZER_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", todo=_TODO) from None
    return open_tokenizer(data, path.name)

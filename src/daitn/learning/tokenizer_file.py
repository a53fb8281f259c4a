"""A tokenizer from the bytes of its file: one way for contracts and for frozen bases."""

from __future__ import annotations

from typing import Any, Final

from daitn.base import limits
from daitn.base.errors import InputError, UnavailableError

TOKENIZER_BYTES: Final = limits.GRAPH_BYTES
"""Largest tokenizer file; the largest in common use (250,000 pieces) has 17 MB."""


def open_tokenizer(data: bytes, name: str) -> Any:
    """The tokenizer, neither cutting nor padding. InputError naming `name` where the bytes are none; UnavailableError
    where the library is not installed."""
    if len(data) > TOKENIZER_BYTES:
        raise InputError(f"{name} has {len(data)} bytes, the limit is {TOKENIZER_BYTES}")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UnavailableError(f"{name} needs the package tokenizers", todo="install daitn[transformers]") from None
    try:
        tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # noqa: BLE001  # the library raises bare Exception for every fault of the file
        raise InputError(f"{name} cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer

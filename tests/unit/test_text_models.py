"""Tokens to text, and which token comes next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daitn.base.errors import InputError
from daitn.descriptors.texts import Generation
from daitn.learning.base_files import folder_digest
from daitn.learning.text_models import choose_token, read_tokenizer_settings
from daitn.serving.detokenizing import Detokenizer


def decode(tokens: Sequence[int]) -> str:
    """Each token is a byte."""
    return bytes(tokens).decode("utf-8", "replace")


@given(st.text(max_size=20))
def test_characters_are_told_when_they_are_whole_whatever_their_bytes(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    out, before = Detokenizer(decode), ""
    for token in text.encode():
        now = out.push(token)
        assert now.startswith(before)
        assert text.startswith(now) or "\ufffd" in text
        before = now
    assert out.end() == text


def test_half_of_a_character_at_the_end_is_told_as_such() -> None:
    out = Detokenizer(decode)
    assert out.push("é".encode()[0]) == ""
    assert out.end() == "\ufffd"


def test_drawn_tokens_follow_their_chances_and_the_same_seed_draws_the_same() -> None:
    scores = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    asked = [Generation(prompt="a", temperature=1.0, seed=seed) for seed in range(4000)]
    drawn = np.array([choose_token(scores, one, 3) for one in asked])
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 4000, [0.5, 0.3, 0.15, 0.05], atol=0.03)
    assert choose_token(scores, asked[7], 3) == drawn[7]
    assert choose_token(scores, Generation(prompt="a"), 3) == 0
    cut = [Generation(prompt="a", temperature=1.0, top_p=0.75, seed=seed) for seed in range(500)]
    assert {choose_token(scores, one, 0) for one in cut} == {0, 1}


def test_folder_is_known_by_its_files_and_what_it_lacks_is_told(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    first = folder_digest(tmp_path)
    (tmp_path / "README.md").write_text("beside it")
    assert folder_digest(tmp_path) == first
    (tmp_path / "model.safetensors").write_text("other")
    assert folder_digest(tmp_path) != first
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"lacks tokenizer\.json"):
        folder_digest(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{not json")
    with pytest.raises(InputError, match="does not decode"):
        read_tokenizer_settings(tmp_path / "tokenizer_config.json")

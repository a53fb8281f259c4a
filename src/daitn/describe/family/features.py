"""Feature maps: records as a few numbers in -1 … 1 that all sites compute alike, from a seed that all sites share.

None is learnt from records, so the map itself says nothing of anybody's. The first D of a map's numbers are a map of
their own: a site with few groups publishes fewer of them, and two sites are compared in those they have in common.

*words*: every word has signs of its own by a hash (Weinberger et al., Feature Hashing, ICML 2009; Charikar, Similarity
Estimation Techniques, STOC 2002); a text is the sum over its distinct words, longer ones weighing more since they are
rarer, and has unit length.
*pixels*: contrasts of random filters. Each number compares how much of an image two random 5 × 5 filters find, the
second being the first turned by a quarter or stretched: (a - b) / (a + b). Direction and width of strokes show in it,
place and brightness hardly do. The first numbers use a fixed set of oriented and blurred filters, since random ones see
direction only by luck.
*vectors* (a vector column, or what a frozen base makes of a text): a random projection (Johnson, Lindenstrauss) of the
vector at unit length.

Legend: N records, D numbers, L length of a vector, W words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from daitn.descriptors.descriptions import SKETCH_NUMBERS

NETWORK_SEED: Final = b"daitn sketches, first edition"
"""Shared by all networks of this version, and part of what a basis is called: sketches of two seeds never meet."""

EDITION: Final = "1"

TEXT_CHARS: Final = 4096
"""Of a text at most: two pages say what it is about."""

WORD_CHARS: Final = 40

WINDOWS_MOST: Final = 400
"""Places of an image where filters are laid, on a grid: a photograph costs what a digit does."""

FINE_GAIN: Final = 3.6
"""Pictures have thirteen times the energy in coarse detail that they have in fine: without this the contrast is -0.86
for nearly all of them."""

_FINE: Final = 2
"""Place of that pair."""

_WORD: Final = re.compile(r"[^\W_]+")
_FILTER: Final = 5
_ROWS_AT_ONCE: Final = 512

Features = NDArray[np.float64]


def text_features(texts: Sequence[str]) -> Features:
    """(N, 16), rows of unit length; a text without words is 0. About 20 µs a text of 100 words, and 2 µs a new word."""
    known: dict[str, NDArray[np.float64]] = {}
    found = np.zeros((len(texts), SKETCH_NUMBERS))
    for row, text in enumerate(texts):
        for word in set(_WORD.findall(text[:TEXT_CHARS].lower())):
            weight = min(len(word), 10) - 3
            if weight > 0:
                signs = known.get(word)
                if signs is None:
                    signs = known[word] = _signs(word[:WORD_CHARS])
                found[row] += weight * signs
    return _unit(found)


def vector_features(vectors: NDArray[np.floating], offset: int = 0) -> Features:
    """(N, 16) of (N, L): a random projection of vectors brought to unit length, missing ones 0."""
    unit = _unit(np.nan_to_num(np.asarray(vectors, dtype=np.float64), posinf=0.0, neginf=0.0))
    rng = _rng(f"projection {unit.shape[1]} {offset}")
    projection = rng.standard_normal((unit.shape[1], SKETCH_NUMBERS)) / math.sqrt(SKETCH_NUMBERS)
    return np.clip(unit @ projection, -1.0, 1.0)


def image_features(images: NDArray[np.uint8]) -> Features:
    """(N, 16) of (N, C, H, W): contrasts of filter pairs on the mean of the channels. About 0.2 ms each."""
    pairs = _filter_pairs()
    found = np.zeros((len(images), SKETCH_NUMBERS))
    for start in range(0, len(images), _ROWS_AT_ONCE):
        block = np.asarray(images[start : start + _ROWS_AT_ONCE], dtype=np.float32).mean(axis=1) / np.float32(255)
        pad = ((0, 0), (_FILTER // 2, _FILTER // 2), (_FILTER // 2, _FILTER // 2))
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(block, pad), (_FILTER, _FILTER), axis=(1, 2))
        step = math.ceil(math.sqrt(block.shape[1] * block.shape[2] / WINDOWS_MOST))
        windows = windows[:, ::step, ::step]
        flat = windows.reshape(len(block), -1, _FILTER * _FILTER)
        energy = np.square(flat @ pairs.reshape(-1, _FILTER * _FILTER).T).mean(axis=1).reshape(-1, SKETCH_NUMBERS, 2)
        first, second = energy[:, :, 0].astype(np.float64), energy[:, :, 1].astype(np.float64)
        found[start : start + len(block)] = (first - second) / np.maximum(first + second, 1e-12)
    return found


def _filter_pairs() -> NDArray[np.float32]:
    """(16, 2, 5, 5): pairs of filters of mean 0 and unit length."""
    y, x = np.mgrid[-2:3, -2:3].astype(np.float64)
    pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    # Edges along one direction against edges across it, for two directions; then fine against coarse.
    for turn in (math.pi / 4, 0.0):
        along = x * math.cos(turn) + y * math.sin(turn)
        across = -x * math.sin(turn) + y * math.cos(turn)
        window = np.exp(-(x**2 + y**2) / 4)
        pairs.append((along * window, across * window))
    fine = np.where((x == 0) & (y == 0), 1.0, 0.0) - np.where(np.abs(x) + np.abs(y) == 1, 0.25, 0.0)
    near, ring = np.maximum(np.abs(x), np.abs(y)) <= 1, np.maximum(np.abs(x), np.abs(y)) == 2
    coarse = np.where(near, 1 / near.sum(), 0.0) - np.where(ring, 1 / ring.sum(), 0.0)
    pairs.append((fine, coarse))
    rng = _rng("filters")
    while len(pairs) < SKETCH_NUMBERS:
        one = rng.standard_normal((_FILTER, _FILTER))
        pairs.append((one, np.rot90(one)))
    made = np.array(pairs)
    made -= made.mean(axis=(2, 3), keepdims=True)
    made /= np.linalg.norm(made, axis=(2, 3), keepdims=True)
    made[_FINE, 0] *= FINE_GAIN
    return made.astype(np.float32)


def _signs(word: str) -> NDArray[np.float64]:
    digest = blake3(NETWORK_SEED + word.encode("utf-8", "replace")).digest(SKETCH_NUMBERS // 8)
    return np.unpackbits(np.frombuffer(digest, dtype=np.uint8)).astype(np.float64) * 2 - 1


def _rng(what: str) -> np.random.Generator:
    seed = int.from_bytes(blake3(NETWORK_SEED + what.encode()).digest(16), "little")
    return np.random.Generator(np.random.PCG64(seed))


def _unit(rows: Features) -> Features:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 1e-12, rows / np.maximum(lengths, 1e-12), 0.0)

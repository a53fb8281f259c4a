"""The benchmark's own parts: its split, its exam, and how it counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from benchmarks.tramfl import caps_of, missing_cells
from benchmarks.tramfl_world import CAPS, Digits, Exam, split
from torch import nn


class Guess(nn.Module):
    """Tells the label written into the first pixel."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(image[:, 0, 0, 0].long(), 10).float()


def digits(wrong: int, count: int = 5000) -> Digits:
    labels = np.arange(count) % 10
    images = np.zeros((count, 1, 28, 28), np.float32)
    said = labels.copy()
    chosen = np.random.default_rng(1).permutation(count)[:wrong]
    said[chosen] = (said[chosen] + 1) % 10
    images[:, 0, 0, 0] = said
    return Digits(images, labels.astype(np.int64))


@pytest.mark.parametrize("nodes", [3, 5, 10])
def test_split_gives_every_label_to_somebody_and_two_to_five_to_each(nodes):
    for seed in range(20):
        held = split(nodes, seed)
        assert held == split(nodes, seed)
        assert len(held) == nodes
        assert all(2 <= len(labels) <= 5 for labels in held)
        assert {label for labels in held for label in labels} == set(range(10))


@pytest.mark.parametrize(("wrong", "passes"), [(0, True), (50, True), (51, False), (5000, False)])
def test_exam_is_exact_whatever_was_missed_before(wrong, passes):
    exam = Exam(digits(wrong))

    assert [exam.passes(Guess(), 0.99) for _ in range(3)] == [passes] * 3


def test_exam_ends_soon_where_the_same_images_are_missed_again():
    exam = Exam(digits(200))
    looked = 0

    class Counting(Guess):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            nonlocal looked
            looked += len(image)
            return super().forward(image)

    exam.passes(Counting(), 0.99)
    first, looked = looked, 0
    exam.passes(Counting(), 0.99)

    assert looked == 250 < first


def test_cells_given_up_before_the_cap_of_now_are_run_again_and_no_others():
    known = {
        "routed/3/0/99": {"updates": 1200, "reached": True},
        "routed/3/1/99": {"updates": CAPS[0.99], "reached": False},
        "routed/3/2/99": {"updates": 4005, "reached": False},
        "routed/3/2/90": {"updates": CAPS[0.9] + 5, "reached": False},
    }
    wanted = [*known, "routed/3/3/99"]

    assert missing_cells(wanted, known, CAPS) == ["routed/3/2/99", "routed/3/3/99"]
    assert missing_cells(wanted, known, caps_of(4000)) == ["routed/3/3/99"]

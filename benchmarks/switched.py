"""Question: how much of a dear model's gain is had for part of its price, by telling from a query which model suffices?

Workload: RouteLLM's outcomes on MMLU (14,037 questions, contaminated ones left out): was Mixtral right, was GPT-4.
1,500 drawn at random have known outcomes; all others are judged. Measure, APGR: over all shares of queries that go to
the dear model, those with the largest predicted gain first, the mean share of the gain between both models that is had.
Twenty splits; gains are paired by split. The parameters were chosen on splits 0 to 3; these are others of the same
questions.

Peers, in the same run: two logistic heads on TF-IDF of words (scikit-learn), the prompt's length, the subject's mean
gain among the known, chance, and an oracle that knows every outcome.
"""

from __future__ import annotations

import csv
import gzip
import statistics
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.orlib import folder
from benchmarks.report import Bounds, arguments, print_report
from daitn.decision.switching import chances, counts_of, learn_switch, signs_of

KNOWN = 1500
SEEDS = range(100, 120)
BOUNDS: Bounds = {"apgr_mmlu": (">=", 0.62), "gain_over_tfidf": (">=", 0.0)}
Floats = NDArray[np.float64]


def read() -> list[dict[str, str]]:
    """Questions that are not contaminated; SystemExit where they are not there."""
    path = folder().parent / "routellm" / "mmlu_mixtral_vs_gpt4.csv.gz"
    if not path.is_file():
        raise SystemExit("RouteLLM's outcomes are not here: set DAITN_DATA to the folder that holds routellm/")
    with gzip.open(path, "rt", newline="") as file:
        return [row for row in csv.DictReader(file) if row["contaminated"] == "False"]


def apgr(score: Any, weak: Any, strong: Any) -> float:
    """Mean share of the gain over all shares of queries that go to the strong model, the largest scores first."""
    order = np.argsort(-np.asarray(score, float), kind="stable")
    gained = np.concatenate([[0.0], np.cumsum(strong[order].astype(float) - weak[order])])
    return float(np.trapezoid(gained / gained[-1], np.linspace(0, 1, len(gained))))


def by_words(texts: list[str], known: Any, judged: Any, right: list[Any]) -> Floats:
    """The peer: gain predicted by two logistic heads over TF-IDF."""
    words = TfidfVectorizer(sublinear_tf=True, min_df=2)
    taught = words.fit_transform([texts[one] for one in known])
    asked = words.transform([texts[one] for one in judged])
    weak, strong = (
        LogisticRegression(max_iter=300).fit(taught, one[known]).predict_proba(asked)[:, 1] for one in right
    )
    return np.asarray(strong - weak, float)


def main() -> None:
    """All splits, all ways, in pairs."""
    asked = arguments(__doc__)
    rows = read()
    texts = [row["prompt"] for row in rows]
    subjects = np.unique([row["subject"] for row in rows], return_inverse=True)[1]
    right = [np.array([row[key] == "True" for row in rows]) for key in ("weak_correct", "strong_correct")]
    counts, signs = counts_of(texts), np.array([signs_of(text) for text in texts])
    lengths = np.array([len(text) for text in texts])
    found: dict[str, list[float]] = {}
    seeds = list(SEEDS)[:2] if asked.quick else list(SEEDS)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(rows))
        known, judged = order[:KNOWN], order[KNOWN:]
        weak, strong = (one[judged] for one in right)
        switch = learn_switch(counts[known], signs[known], [one[known] for one in right])
        cheap, dear = chances(switch, counts[judged], signs[judged])
        gain = right[1][known].astype(float) - right[0][known]
        number = np.bincount(subjects[known], minlength=subjects.max() + 1)
        subject = (np.bincount(subjects[known], gain, subjects.max() + 1) + gain.mean() * 5) / (number + 5)
        scores = {
            "ours": dear - cheap,
            "tf-idf": by_words(texts, known, judged, right),
            "length": lengths[judged],
            "subject": subject[subjects[judged]],
            "random": rng.random(len(judged)),
            "oracle": strong.astype(float) - weak,
        }
        for name, score in scores.items():
            found.setdefault(name, []).append(apgr(score, weak, strong))
    paired = [ours - theirs for ours, theirs in zip(found["ours"], found["tf-idf"], strict=True)]
    figures = {
        "apgr_mmlu": statistics.fmean(found["ours"]),
        "apgr_mmlu_deviation": statistics.pstdev(found["ours"]),
        "gain_over_tfidf": statistics.fmean(paired),
        "gain_over_tfidf_least": min(paired),
        "splits_won": float(sum(one > 0 for one in paired)),
        "splits": float(len(paired)),
    }
    peers = {
        name: {"apgr_mmlu": statistics.fmean(values), "deviation": statistics.pstdev(values)}
        for name, values in found.items()
        if name != "ours"
    }
    print_report("switched", figures, peers, seeds, only_json=asked.json, bounds=BOUNDS)


if __name__ == "__main__":
    main()

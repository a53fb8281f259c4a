"""From MedQuAD's files to what nine sites have: one JSON Lines file each, with a contract and a policy beside it.

A record is a question with its answer. Its group is its focus (the disease or topic it asks about), so no focus is on
both sides of the split at any site. The field `core` is core cardiology, by the list of foci that comes with the data.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from blake3 import blake3

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.units import MIB
from daitn.demo.medquad.sites import INSTITUTES, POLICY, Institute
from daitn.descriptors.contract import (
    CategoryColumn,
    DataContract,
    EmbeddedInput,
    FieldByColumn,
    FieldByValues,
    FieldMean,
    HeldOutShare,
    IdentifierColumn,
    ModelInput,
    Retrieval,
    TextColumn,
    TokensInput,
)
from daitn.node.processes import DataFiles
from daitn.scenario.files import policy_toml

DATASET: Final = "questions"
CORE, NOT_CORE = "core-cardiology", "other"
QUESTION_TOKENS: Final = 32
"""99 % of the questions have at most 28 pieces."""
ANSWER_TOKENS: Final = 64
"""An answer's beginning says what it is about: cut at 64, 128 or 256 pieces the untrained model finds as many."""
TEXT_BYTES: Final = 256
"""Bytes of either side for the encoder that starts from nothing; of one length, since one model sees both."""
CANDIDATES: Final = 20
TEMPERATURE: Final = 0.05
_TODO: Final = "give MedQuAD's folder, as it was fetched: --data"
LINE_BYTES: Final = 1 * MIB
"""Longest line read; the longest answer has 29 kB."""


class _Row(msgspec.Struct, frozen=True):
    """A line of an institute's file, as far as it is used."""

    question: str
    focus: str
    answer: str | None


def contract_of(base: str = "", width: int = 0) -> DataContract:
    """The contract: on the vectors of a frozen base, or without one on bytes."""
    query: ModelInput
    answer: ModelInput
    if base:
        query = EmbeddedInput(name="question", column="question", base=base, width=width, length=QUESTION_TOKENS)
        answer = EmbeddedInput(name="answer", column="answer", base=base, width=width, length=ANSWER_TOKENS)
    else:
        query = TokensInput(name="question", column="question", length=TEXT_BYTES, mask="question_mask")
        answer = TokensInput(name="answer", column="answer", length=TEXT_BYTES, mask="answer_mask")
    names = tuple(one.name for one in INSTITUTES)
    return DataContract(
        name="medical-questions",
        columns=(
            TextColumn(name="question"),
            TextColumn(name="answer"),
            IdentifierColumn(name="focus"),
            CategoryColumn(name="institute", values=names),
            CategoryColumn(name="subject", values=(CORE, NOT_CORE)),
        ),
        inputs=(query, answer),
        task=Retrieval(
            query="question", answer="answer", temperature=TEMPERATURE, candidates=CANDIDATES, batches="groups"
        ),
        group="focus",
        fields=(FieldByValues(name="core", column="subject", values=(CORE,)), FieldByColumn(column="institute")),
        means=(FieldMean(name="broad", fields=names),),
        held_out_shares=(HeldOutShare(column="subject", values=(CORE,), frac=0.5),),
    )


def core_foci(data: Path) -> frozenset[str]:
    """The foci of core cardiology. InputError with file and line where the list is not there or not of this form."""
    path, number = data / "cardiology_foci.csv", 0
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, strict=True)
            found = set()
            for number, row in enumerate(rows, 2):
                if row["focus"] is None or row["tier"] is None:
                    raise InputError(f"{path}, line {number}: it has no focus or no tier", todo=_TODO)
                if row["tier"] == "core":
                    found.add(_focus(row["focus"]))
            return frozenset(found)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}", todo=_TODO) from None
    except KeyError as error:
        raise InputError(f"{path} has no column {error}", todo=_TODO) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}, after line {number}: {error}", todo=_TODO) from None


def read_institute(data: Path, institute: Institute, core: frozenset[str], most: int = 0) -> list[dict[str, Any]]:
    """The answered questions of one institute; `most`: whole foci up to so many, core cardiology first, 0: all.

    InputError with file and line where the file is not there, damaged, cut off, or not of this form.
    """
    foci: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(data / f"{institute.file}.jsonl.gz"):
        if row.answer:
            focus = _focus(row.focus)
            record = {
                "question": row.question,
                "answer": row.answer,
                "focus": focus,
                "institute": institute.name,
                "subject": CORE if focus in core else NOT_CORE,
            }
            foci.setdefault(focus, []).append(record)
    taken: list[dict[str, Any]] = []
    for focus in sorted(foci, key=lambda one: (one not in core, blake3(one.encode()).digest())):
        if most and len(taken) >= most:
            break
        taken += foci[focus]
    return taken


def write_all(data: Path, folder: Path, contract: DataContract, most: int = 0) -> dict[str, DataFiles]:
    """Every site's files below `folder`, by site."""
    core = core_foci(data)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contract.json").write_bytes(msgspec.json.format(msgspec.json.encode(contract)))
    (folder / "policy.toml").write_text(policy_toml(POLICY), encoding="utf-8")
    files: dict[str, DataFiles] = {}
    for institute in INSTITUTES:
        records = read_institute(data, institute, core, most)
        path = folder / f"{institute.name}.jsonl"
        path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
        files[institute.name] = DataFiles(DATASET, path, folder / "contract.json", folder / "policy.toml", None)
    return files


def _rows(path: Path) -> Iterator[_Row]:
    """Lines of an institute's file; InputError with the line that is none."""
    number = 0
    try:
        with gzip.open(path, "rb") as file:
            while line := file.readline(LINE_BYTES + 1):
                number += 1
                if len(line) > LINE_BYTES:
                    raise InputError(f"{path}, line {number}: it is longer than {LINE_BYTES} bytes", todo=_TODO)
                yield msgspec.json.decode(line, type=_Row)
    except (OSError, EOFError, zlib.error) as error:  # no file, no gzip, a cut or a damaged one
        raise InputError(f"{path} cannot be read after line {number}: {error}", todo=_TODO) from None
    except UNDECODABLE as error:
        raise InputError(f"{path}, line {number}: {str(error)[:200]}", todo=_TODO) from None


def _focus(text: str) -> str:
    return text.strip().lower()

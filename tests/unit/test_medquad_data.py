"""MedQuAD as nine sites have it: real files where they are, invented ones everywhere."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from daitn.base.errors import InputError
from daitn.demo.medquad.data import CORE, LINE_BYTES, contract_of, core_foci, read_institute
from daitn.demo.medquad.sites import DEPARTMENTS, INSTITUTES
from daitn.descriptors.contract import check_contract
from daitn.descriptors.request import parse_target

REAL = Path(os.environ.get("DAITN_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "medquad"


def write_data(folder: Path) -> Path:
    (folder / "cardiology_foci.csv").write_text("focus,tier\nHeart Failure,core\nStroke,broad\n")
    rows = [
        {"focus": "Stroke", "question": "what is stroke?", "answer": "a stroke"},
        {"focus": " heart failure", "question": "what is it?", "answer": "a failing heart"},
        {"focus": "Flu", "question": "what is flu?", "answer": None},
    ]
    with gzip.open(folder / f"{INSTITUTES[0].file}.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def test_institute_is_read_without_unanswered_questions_and_core_first(tmp_path: Path) -> None:
    core = core_foci(write_data(tmp_path))
    records = read_institute(tmp_path, INSTITUTES[0], core)
    assert [record["focus"] for record in records] == ["heart failure", "stroke"]
    assert records[0]["subject"] == CORE
    assert len(read_institute(tmp_path, INSTITUTES[0], core, most=1)) == 1


def test_missing_data_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cardiology_foci\.csv cannot be read"):
        core_foci(tmp_path)


ROW = b'{"focus": "Flu", "question": "what is flu?", "answer": "an illness"}\n'
WHOLE = gzip.compress(ROW * 2, mtime=0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (WHOLE[:-12], "cannot be read after line"),
        (WHOLE[:10] + b"\xff" + WHOLE[11:], "cannot be read after line 0"),
        (ROW, "cannot be read after line 0: Not a gzipped file"),
        (gzip.compress(ROW + b'{"focus": "Flu", "question": "?"}\n'), "line 2: Object missing required field `answer`"),
        (gzip.compress(b'{"question": "?", "answer": "a"}\n'), "line 1: Object missing required field `focus`"),
        (gzip.compress(ROW + b"\xff\n"), "line 2: "),
        (gzip.compress(b" " * (LINE_BYTES + 1)), "line 1: it is longer than"),
    ],
    ids=["cut", "damaged", "no gzip", "no answer", "no focus", "no text", "no end"],
)
def test_file_of_an_institute_that_is_broken_is_refused_with_file_and_line(
    tmp_path: Path, data: bytes, words: str
) -> None:
    (tmp_path / f"{INSTITUTES[0].file}.jsonl.gz").write_bytes(data)
    with pytest.raises(InputError, match=INSTITUTES[0].file) as refused:
        read_institute(tmp_path, INSTITUTES[0], frozenset())
    assert words in refused.value.what
    assert "--data" in (refused.value.todo or "")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"focus,tier\n\xff\xfe,core\n", "line 0: 'utf-8' codec can't decode"),
        (b'focus,tier\nStroke,core\n"Heart,core\n', "line 2: unexpected end of data"),
        (b"focus,tier\nStroke\n", "line 2: it has no focus or no tier"),
        (b"name,tier\nStroke,core\n", "has no column 'focus'"),
    ],
    ids=["no text", "no end", "no tier", "no column"],
)
def test_list_of_foci_that_is_broken_is_refused_with_file_and_line(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "cardiology_foci.csv").write_bytes(data)
    with pytest.raises(InputError, match="cardiology_foci") as refused:
        core_foci(tmp_path)
    assert words in refused.value.what
    assert "--data" in (refused.value.todo or "")


@pytest.mark.parametrize("base", ["", "0" * 64])
def test_contract_is_consistent_and_has_every_target(base: str) -> None:
    contract = contract_of(base, 384)
    check_contract(contract)
    for asks in DEPARTMENTS:
        assert all(parse_target(one).field in contract.target_fields() for one in asks.targets)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"MedQuAD is not at {REAL}")
def test_real_medquad_has_every_institute_and_its_core() -> None:
    core = core_foci(REAL)
    found = {one.name: read_institute(REAL, one, core) for one in INSTITUTES}
    assert sum(map(len, found.values())) == 16_423
    assert sum(record["subject"] == CORE for record in found["nhlbi"]) == 165

"""Keys of submissions that nobody was told of: kept over a kill, forgotten once they were told."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
from tests.builders import make_request

from daitn.sdk.pending import KEPT_S, PendingKeys

REQUEST = make_request("accuracy >= 0.9")
OTHER = msgspec.structs.replace(REQUEST, name="another")


def test_key_left_behind_by_a_killed_program_is_used_again_by_the_same_command(tmp_path: Path) -> None:
    left = PendingKeys(tmp_path, "token").key_of(REQUEST)

    again = PendingKeys(tmp_path, "token")

    assert again.key_of(REQUEST) == left
    assert again.found


def test_key_is_forgotten_once_the_owner_was_told(tmp_path: Path) -> None:
    told = PendingKeys(tmp_path, "token")
    before = told.key_of(REQUEST)
    told.told()

    after = PendingKeys(tmp_path, "token")

    assert after.key_of(REQUEST) != before
    assert not after.found


def test_another_request_or_another_token_has_another_key(tmp_path: Path) -> None:
    mine = PendingKeys(tmp_path, "token").key_of(REQUEST)

    assert PendingKeys(tmp_path, "token").key_of(OTHER) != mine
    assert PendingKeys(tmp_path, "token of somebody else").key_of(REQUEST) != mine


def test_key_of_a_day_ago_and_one_that_is_damaged_are_made_anew(tmp_path: Path) -> None:
    old = PendingKeys(tmp_path, "token").key_of(REQUEST)
    (file,) = tmp_path.iterdir()
    os.utime(file, (0, time.time() - KEPT_S - 1))
    fresh = PendingKeys(tmp_path, "token").key_of(REQUEST)
    file.write_text("no key")

    assert fresh != old
    assert PendingKeys(tmp_path, "token").key_of(REQUEST) not in (old, fresh)


def test_key_that_cannot_be_kept_hinders_no_submission(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    keys = PendingKeys(tmp_path / "file" / "keys", "token")

    assert len(keys.key_of(REQUEST)) == 32
    keys.told()


def test_token_is_not_in_what_is_kept(tmp_path: Path) -> None:
    PendingKeys(tmp_path, "daitn-owner1.secret").key_of(REQUEST)
    (file,) = tmp_path.iterdir()

    assert "secret" not in file.name + file.read_text()

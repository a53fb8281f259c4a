"""Refusals of commands that end by themselves: counted for the node that runs, or will."""

from __future__ import annotations

import threading

import pytest

from daitn.base.errors import InputError
from daitn.base.metrics import shown
from daitn.node.refusals import refusals_counted, refused_here


def refuse(folder):
    with pytest.raises(InputError), refusals_counted(folder):
        raise InputError("no")


def test_every_refusal_is_counted_and_its_error_goes_on(tmp_path):
    assert refused_here(tmp_path / "data") == ()
    with refusals_counted(tmp_path / "data"):
        pass
    assert refused_here(tmp_path / "data") == ()

    threads = [threading.Thread(target=refuse, args=(tmp_path / "data",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert shown(refused_here(tmp_path / "data")) == {"data_sets_refused": 8}


def test_folder_that_cannot_be_written_costs_the_count_and_not_the_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    refuse(tmp_path / "file" / "data")
    assert refused_here(tmp_path / "file" / "data") == ()

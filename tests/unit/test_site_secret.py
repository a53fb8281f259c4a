"""The site's secret: one for all who ask first at the same moment, whole, and nobody else's to read."""

from __future__ import annotations

import threading
from pathlib import Path

from daitn.node.node_config import NodeFolder


def test_commands_that_ask_at_the_same_time_get_one_secret(tmp_path: Path) -> None:
    for trial in range(20):
        folder = tmp_path / str(trial)
        folder.mkdir()
        start, found = threading.Barrier(4), []

        def ask(folder: Path = folder, start: threading.Barrier = start, found: list[bytes] = found) -> None:
            start.wait(10)
            found.append(NodeFolder(folder).site_secret())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(found) == 4
        assert len(set(found)) == 1
        assert [path.name for path in folder.iterdir()] == ["site.secret"]
        assert (folder / "site.secret").stat().st_mode & 0o077 == 0

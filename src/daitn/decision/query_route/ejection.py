"""Outlier ejection: replicas that lose queries, or take far longer than expected, are left out for a while.

After `LOSSES` losses in a row, or when answers took `SLOW` times what was expected `SLOWS` times in a row, a replica is
ejected for `FIRST_S`, twice as long each time it happens again, at most `LONGEST_S`. Back from that it is on trial: one
loss ejects it again, an answer in time clears it. Never are more than `MOST_FRAC` of the replicas ejected: where
everything looks broken, it is more likely oneself or the network, and closing every door would make it certain.

Pure: moments are given.
"""

from __future__ import annotations

from typing import Final, NamedTuple

LOSSES: Final = 3
SLOW: Final = 5.0
SLOWS: Final = 5
FIRST_S: Final = 5.0
LONGEST_S: Final = 300.0
MOST_FRAC: Final = 0.5


class _Seen(NamedTuple):
    losses: int = 0
    slows: int = 0
    ejections: int = 0
    until_s: float = -1.0
    """When an ejection ends; negative: it is not ejected."""
    trial: bool = False


class Ejector:
    """What happened at each replica lately, and which are ejected."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def ejected(self) -> frozenset[str]:
        """Replicas that get no queries now."""
        return frozenset(name for name, seen in self._seen.items() if seen.until_s >= 0)

    def forget(self, name: str) -> None:
        """A replica is gone."""
        self._seen.pop(name, None)

    def answered(self, name: str, took_s: float, expected_s: float, among: int, now_s: float) -> bool:
        """An answer came; returns whether the replica is ejected by this. `among`: replicas there are."""
        seen = self._seen.get(name, _Seen())
        if took_s <= SLOW * expected_s:
            if seen.until_s < 0:
                self._seen[name] = _Seen(ejections=max(0, seen.ejections - 1))
            return False
        seen = seen._replace(losses=0, slows=seen.slows + 1)
        return self._judge(name, seen, seen.slows >= (1 if seen.trial else SLOWS), among, now_s)

    def lost(self, name: str, among: int, now_s: float) -> bool:
        """A query was lost there; returns whether the replica is ejected by this."""
        seen = self._seen.get(name, _Seen())
        seen = seen._replace(losses=seen.losses + 1)
        return self._judge(name, seen, seen.losses >= (1 if seen.trial else LOSSES), among, now_s)

    def returning(self, now_s: float) -> tuple[str, ...]:
        """Replicas whose ejection has ended: on trial from now on."""
        due = tuple(name for name, seen in self._seen.items() if 0 <= seen.until_s <= now_s)
        for name in due:
            self._seen[name] = _Seen(ejections=self._seen[name].ejections, trial=True)
        return due

    def _judge(self, name: str, seen: _Seen, guilty: bool, among: int, now_s: float) -> bool:
        room = len(self.ejected()) + 1 <= MOST_FRAC * among
        if seen.until_s >= 0 or not guilty or not room:
            self._seen[name] = seen
            return False
        lasts = min(FIRST_S * 2.0**seen.ejections, LONGEST_S)
        self._seen[name] = _Seen(ejections=min(seen.ejections + 1, 16), until_s=now_s + lasts)
        return True

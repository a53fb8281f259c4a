"""Switched inference at a gateway (paper II-B): texts go to the cheaper of two models wherever it suffices.

What suffices is told from the text before either model is asked (`decision.switching`), by a judgement learnt when the
gateway starts from outcomes of earlier texts. Where the model that was chosen cannot answer, the other one is asked. Of
a text that is asked nothing is kept.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.ids import ModelName
from daitn.base.units import MIB
from daitn.decision.switching import Switch, chances, counts_of, learn_switch, signs_of
from daitn.descriptors.pipelines import TextSwitch
from daitn.descriptors.texts import TextAsk, TextBatch

OUTCOMES_BYTES: Final = 256 * MIB
"""Largest file of outcomes: a hundred thousand texts of 2 kB."""

OUTCOMES: Final = 100_000

_log = logging.getLogger(__name__)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a text, and whether each model answered it rightly."""

    text: str
    cheap: bool
    dear: bool


class _Learnt(NamedTuple):
    about: TextSwitch
    switch: Switch


_outcome: Final = msgspec.json.Decoder(Outcome)


class Switching:
    """See the module's docstring; `learn` comes before the first query."""

    def __init__(self, switches: Sequence[TextSwitch]) -> None:
        self.switches = {one.name: one for one in switches}
        self._learnt: dict[ModelName, _Learnt] = {}

    async def learn(self) -> None:
        """Read the outcomes and learn, beside the loop; a second for 1,500 texts. InputError for no such files."""
        if self.switches and importlib.util.find_spec("scipy") is None:
            raise InputError("switches are learnt with scipy, which is not installed", todo="install daitn[plan]")
        for name, about in self.switches.items():
            switch = await asyncio.to_thread(learn_from, Path(about.outcomes))
            self._learnt[name] = _Learnt(about, switch)
            _log.info("learnt when %s suffices and when %s is worth it", about.cheap, about.dear)

    async def models_for(self, name: str, asked: TextAsk) -> tuple[ModelName, ...]:
        """Whom to ask, the second one where the first cannot answer; the name itself where it is no switch."""
        learnt = self._learnt.get(ModelName(name))
        if learnt is None:
            return (ModelName(name),)
        about = learnt.about
        gain = await asyncio.to_thread(gain_of, learnt.switch, text_of(asked))
        return (about.dear, about.cheap) if gain > about.worth else (about.cheap, about.dear)


def text_of(asked: TextAsk) -> str:
    """What a query is judged by: its prompt, the last turn, or its first text."""
    if isinstance(asked, TextBatch):
        return asked.texts[0]
    return asked.turns[-1].text if asked.turns else asked.prompt


def gain_of(switch: Switch, text: str) -> float:
    """How much likelier the dearer model answers rightly than the cheaper. Some milliseconds."""
    found = chances(switch, counts_of([text]), np.array([signs_of(text)]))
    return float(found[1, 0] - found[0, 0])


def learn_from(path: Path) -> Switch:
    """What a file of outcomes teaches; InputError where it is none, or too little."""
    outcomes = read_outcomes(path)
    texts = [one.text for one in outcomes]
    right = (np.array([one.cheap for one in outcomes]), np.array([one.dear for one in outcomes]))
    return learn_switch(counts_of(texts), np.array([signs_of(text) for text in texts]).reshape(len(texts), -1), right)


def read_outcomes(path: Path) -> list[Outcome]:
    """JSON lines of a text and two truth values; InputError naming the line of the first fault."""
    try:
        if path.stat().st_size > OUTCOMES_BYTES:
            raise InputError(f"{path.name} has more than {OUTCOMES_BYTES // MIB} MiB")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"outcomes {str(path)!r} cannot be read: {error.strerror}", todo="check the path") from None
    if len(lines) > OUTCOMES:
        raise InputError(f"{path.name} has {len(lines)} lines, the limit is {OUTCOMES}")
    found: list[Outcome] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_outcome.decode(line))
        except UNDECODABLE as error:
            raise InputError(f"{path.name}, line {number}: {str(error)[:200]}") from None
    return found

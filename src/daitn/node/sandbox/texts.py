"""The text child's main: one model of texts, many queries under way, a token for each in turn. Imports torch.

Taking turns token by token keeps every answer moving and lets a query that nobody wants any more end at once. Each has
a memory of its own, so no answer depends on what else is asked.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from daitn.base.errors import BugError, InputError, UnavailableError
from daitn.descriptors.texts import TextTask
from daitn.node.sandbox.channel import ChildChannel
from daitn.node.sandbox.child import explain
from daitn.node.sandbox.confine import confine
from daitn.node.sandbox.protocol import Close, Ready
from daitn.node.sandbox.text_protocol import (
    Enough,
    FromTextChild,
    Judge,
    Judged,
    LoadTexts,
    Onward,
    Speak,
    Spoken,
    SpokenAll,
    decode_text_order,
    encode_text_frame,
)
from daitn.serving.detokenizing import Detokenizer
from daitn.serving.tensors import tensor_of
from daitn.serving.text_out import TextOut

if TYPE_CHECKING:
    from daitn.learning.text_models import TextModel


def main(arguments: Sequence[str]) -> int:
    """`arguments`: number of the socket, limits as JSON. Returns the exit status."""
    confine(arguments[1])
    channel = ChildChannel(int(arguments[0]))
    try:
        model = _load(channel)
        return 1 if model is None else _Turns(channel, *model).run()
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return 0


def _load(channel: ChildChannel) -> tuple[TextModel, TextTask] | None:
    began = time.perf_counter()
    try:
        import torch

        from daitn.learning.text_models import TextModel

        order = decode_text_order(channel.receive_body())
        if not isinstance(order, LoadTexts):
            raise BugError(f"a text child begins with LoadTexts, not {type(order).__name__}")
        torch.set_num_threads(order.threads)
        model = TextModel(Path(order.folder), order.task)
    except Exception as error:  # noqa: BLE001  # whatever a folder does wrong must reach its operator as a sentence
        _say(channel, explain(error, 0))
        return None
    _say(channel, Ready(warm_s=time.perf_counter() - began, device="cpu", records=0))
    return model, order.task


def _say(channel: ChildChannel, message: FromTextChild) -> None:
    channel.send_frame(encode_text_frame(message))


class _Speech:
    """One continuation under way."""

    def __init__(self, model: TextModel, order: Speak) -> None:
        asked, given = order.asked, order.given
        self.number, self.allowed = order.number, order.tokens
        self._model, self._asked = model, asked
        self._prompt = model.prompt_tokens(asked)
        self._tokens = list(given.tokens)
        self._memory = model.memory()
        self._next = [*self._prompt, *self._tokens]
        self._most = min(asked.tokens_most, model.context_most - len(self._prompt))
        self._text = Detokenizer(model.decode)
        self._out = TextOut(asked.stops, given.text)
        for token in self._tokens:
            self._text.push(token)

    def step(self) -> Spoken | SpokenAll:
        """A token more, or the end."""
        from daitn.learning.text_models import choose_token

        if len(self._tokens) >= self._most:
            return self._end("length")
        scores = self._model.scores(self._next, self._memory)
        token = choose_token(scores, self._asked, len(self._tokens))
        if self._model.is_end(token):
            return self._end("stop")
        self.allowed -= 1
        self._tokens.append(token)
        self._next = [token]
        told = self._out.take(self._text.push(token))
        if self._out.stopped:
            return self._end("stop", told)
        return Spoken(number=self.number, token=token, text=told)

    def _end(self, reason: str, told: str = "") -> SpokenAll:
        told += self._out.take(self._text.end(), last=True)
        return SpokenAll(
            number=self.number,
            reason="length" if reason == "length" and not self._out.stopped else "stop",
            prompt_tokens=len(self._prompt),
            tokens=len(self._tokens),
            text=told,
        )


class _Turns:
    """Who is under way, and whose turn it is."""

    def __init__(self, channel: ChildChannel, model: TextModel, task: TextTask) -> None:
        self._channel, self._model, self._task = channel, model, task
        self._speeches: deque[_Speech] = deque()

    def run(self) -> int:
        """Until the node says that it is over."""
        while True:
            while not any(one.allowed for one in self._speeches) or self._channel.waiting():
                order = decode_text_order(self._channel.receive_body())
                if isinstance(order, Close):
                    return 0
                self._take(order)
            speech = self._speeches.popleft()
            if not speech.allowed:
                self._speeches.append(speech)  # whoever asked has not taken what was said
                continue
            try:
                said = speech.step()
            except Exception as error:  # noqa: BLE001  # as above; the child goes on
                _say(self._channel, explain(error, speech.number))
                continue
            _say(self._channel, said)
            if isinstance(said, Spoken):
                self._speeches.append(speech)

    def _take(self, order: object) -> None:
        try:
            match order:
                case Speak():
                    if self._task is not TextTask.GENERATE:
                        raise InputError(f"this model does not generate: it can {self._task}")
                    self._speeches.append(_Speech(self._model, order))
                case Judge():
                    _say(self._channel, self._judge(order))
                case Onward(number=number, tokens=tokens):
                    for one in self._speeches:
                        one.allowed += tokens if one.number == number else 0
                case Enough(number=number):
                    self._speeches = deque(one for one in self._speeches if one.number != number)
                case _:
                    raise BugError(f"the node said {type(order).__name__} to a text child")
        except BugError:
            raise
        except Exception as error:  # noqa: BLE001  # as above; the child goes on
            _say(self._channel, explain(error, getattr(order, "number", 0)))

    def _judge(self, order: Judge) -> Judged:
        import numpy as np

        from daitn.learning.text_models import TEXTS_AT_ONCE

        if order.asked.task != self._task:
            raise InputError(f"this model does not {order.asked.task}: it can {self._task}")
        rows = self._model.encode(order.asked.texts)
        make = self._model.vectors if self._task is TextTask.EMBED else self._model.shares
        parts = [make(rows[begin : begin + TEXTS_AT_ONCE]) for begin in range(0, len(rows), TEXTS_AT_ONCE)]
        return Judged(
            number=order.number,
            values=tensor_of("values", np.concatenate(parts)),
            labels=self._model.labels,
            prompt_tokens=sum(map(len, rows)),
        )

"""What a child and its node say to each other during one run, from the child's side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from daitn.base.errors import BugError, UnavailableError
from daitn.node.sandbox.channel import ChildChannel
from daitn.node.sandbox.protocol import Cancel, Close, PartIn, PartnerGone, PartOut, PartSent, PartTaken

if TYPE_CHECKING:
    from daitn.node.sandbox.exchanging import ChildExchange


class Dialogue:
    """The child's side of the talk during one run."""

    def __init__(self, channel: ChildChannel) -> None:
        self._channel = channel
        self.number = 0
        self.cancelled = False
        self.closed = False
        self.exchange: ChildExchange | None = None
        """The run's exchange with its partners, where it has one."""

    def should_stop(self) -> bool:
        """Take in what the node said, if anything; whether to stop."""
        while not self.cancelled and self._channel.waiting():
            self._take(*self._channel.receive())
        return self.cancelled

    def say(self, message: PartOut | PartTaken) -> None:
        """See `exchanging.Talk`."""
        self._channel.send(message)

    def listen(self, *, wait: bool) -> bool:
        """See `exchanging.Talk`. UnavailableError once told to stop."""
        heard = False
        while (wait and not heard) or self._channel.waiting():
            self._take(*self._channel.receive())
            heard = True
            if self.cancelled:
                raise UnavailableError("the exchange was cancelled")
        return heard

    def _take(self, message: object, descriptors: Sequence[int]) -> None:
        for fd in descriptors:
            os.close(fd)
        if isinstance(message, Close) or (isinstance(message, Cancel) and message.number == self.number):
            self.cancelled = True
            self.closed = isinstance(message, Close)
        elif isinstance(message, PartSent | PartIn | PartnerGone):
            if self.exchange is not None and message.number == self.number:
                self.exchange.take(message)
        elif not isinstance(message, Cancel):
            raise BugError(f"the node said {type(message).__name__} during a run")

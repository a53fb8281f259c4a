"""The child's main: lower the limits, warm up, then do run after run until told to end or the node is gone.

One thread does everything: between batches it looks whether the node has said something (a microsecond), so there is no
lock, and a child that does not answer within 0.4 s of a `Cancel` is in a long step and is killed by the node. Whatever
goes wrong ends as one `Failed` with a reason, and the child stays warm for the next run.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from daitn.base.errors import BugError, DaitnError, InputError, PeerError, UnavailableError
from daitn.node.sandbox.channel import ChildChannel
from daitn.node.sandbox.confine import confine
from daitn.node.sandbox.dialogue import Dialogue
from daitn.node.sandbox.protocol import (
    WHAT_CHARS,
    Cancel,
    Close,
    Embed,
    Failed,
    FailReason,
    PartIn,
    PartnerGone,
    PartSent,
    Ready,
    Run,
    Setup,
)

if TYPE_CHECKING:
    from daitn.node.sandbox.work import Worker

_MEMORY: Final = re.compile(r"can't allocate memory|not enough memory|out of memory|bad_alloc|Cannot allocate memory")


def main(arguments: Sequence[str]) -> int:
    """`arguments`: number of the socket, limits as JSON. Returns the exit status."""
    confine(arguments[1])
    channel = ChildChannel(int(arguments[0]))
    try:
        worker = _warm_up(channel)
        return 1 if worker is None else _serve(channel, worker)
    except UnavailableError as error:
        print(error, file=sys.stderr)  # the node is gone, or will read this as the last words
        return 0


def _warm_up(channel: ChildChannel) -> Worker | None:
    """Import torch while the setup is on its way, then build; None where that failed."""
    began = time.perf_counter()
    try:
        from daitn.node.sandbox.work import Worker

        setup, descriptors = channel.receive()
        if isinstance(setup, Embed):
            from daitn.node.sandbox.embedding import embed_columns

            records, seconds = embed_columns(setup, descriptors)
            warm_s = time.perf_counter() - began
            channel.send(Ready(warm_s=warm_s, device="cpu", records=records, seconds=seconds))
            return None
        if not isinstance(setup, Setup):
            raise BugError(f"the first frame is {type(setup).__name__}, not Setup")
        worker = Worker(setup, descriptors)
    except Exception as error:  # noqa: BLE001  # whatever a package does wrong must reach its owner as a sentence
        channel.send(explain(error, 0))
        return None
    ready = Ready(warm_s=time.perf_counter() - began, device=str(worker.device), records=worker.records)
    channel.send(ready)
    return worker


def _serve(channel: ChildChannel, worker: Worker) -> int:
    while True:
        message, descriptors = channel.receive()
        if isinstance(message, Close):
            return 0
        if not isinstance(message, Run):
            if isinstance(message, Cancel | PartSent | PartIn | PartnerGone):
                continue  # the run it speaks of has ended meanwhile
            raise BugError(f"the node said {type(message).__name__} between runs")
        dialogue = Dialogue(channel)
        dialogue.number = message.number
        try:
            finished = worker.run(message, descriptors, channel.send, dialogue)
        except Exception as error:  # noqa: BLE001  # as above; the child stays warm
            channel.send(explain(error, message.number, cancelled=dialogue.cancelled))
        else:
            channel.send(finished)
        if dialogue.closed:
            return 0


def explain(error: Exception, number: int, *, cancelled: bool = False) -> Failed:
    """Reason, sentence and next step for whatever was raised."""
    from daitn.learning.numerics.exchange import PartnerError
    from daitn.learning.numerics.train import NotFiniteError
    from daitn.node.sandbox.work import Cancelled

    reason, what, todo = FailReason.INPUT, str(error), ""
    if isinstance(error, DaitnError):
        what, todo = error.what, error.todo
    partner = error.rank if isinstance(error, PartnerError) else None
    if isinstance(error, Cancelled) or cancelled:
        reason, what = FailReason.CANCELLED, "the run was cancelled"
    elif partner is not None:
        reason = FailReason.PARTNER
    elif isinstance(error, NotFiniteError):
        reason = FailReason.NOT_FINITE
    elif isinstance(error, MemoryError) or _MEMORY.search(str(error)):
        reason, what = FailReason.MEMORY, "the run needs more memory than this site gives"
        todo = "use a smaller batch, or a site that gives more memory"
    elif isinstance(error, (InputError, PeerError)):
        reason = FailReason.INPUT
    elif isinstance(error, (UnavailableError, OSError)):
        reason = FailReason.UNAVAILABLE
    elif isinstance(error, (BugError, AssertionError)):
        reason = FailReason.BUG
    else:
        # Text from inside a model's computation; digits of an index could be a record's value.
        text = re.sub(r"\d", "#", what) if isinstance(error, IndexError) else what
        what = f"the model failed with {type(error).__name__}: {text.strip().splitlines()[0] if text.strip() else ''}"
        todo = "run the same batch size with the package's contract on your side"
    return Failed(number=number, reason=reason, what=what[:WHAT_CHARS], todo=todo[:WHAT_CHARS], partner=partner)

"""Neighbours: other domains whose maps this domain's centre asks (paper, II-A, center–topology link).

The centre is a member of each neighbour's domain with a session of its own, apart from the one of its domain: what it
may do there is what any member may, and its questions are answered only where that domain's `askers` name it. A session
is opened for each question and closed with its answer: questions are few, and a session that idles is one more thing
that can break. Memberships lie below the domain's folder, a folder each, made by `daitn neighbour NAME --token …`;
their certificates are renewed as long as the centre runs.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from daitn.base.errors import DaitnError, InputError, PolicyError, UnavailableError
from daitn.base.ids import CENTER, NodeId
from daitn.base.names import check_name
from daitn.base.nearest import nearest_known
from daitn.descriptors.questions import Answer, Question
from daitn.node import pki
from daitn.node.enrolment import CERT_FILE, MEMBERSHIP_FILE, Membership, enrol, load_membership, renew
from daitn.node.fabric.contract import Plane
from daitn.node.fabric.zenoh_fabric import open_fabric
from daitn.wire.center_topology import QuestionAnswered, QuestionAsked
from daitn.wire.codec import decode, encode

ANSWER_S: Final = 15.0
"""Longest wait for a neighbour's answer, session and all: below the wait of the owner's own call."""

REPEAT_S: Final = 3.0
"""A question that was not answered is asked again, under the same number."""

LOOK_S: Final = 60.0
"""How often certificates are looked at; they live for hours and are renewed when half of that is over."""


class Neighbours:
    """See the module's docstring. `folder`: memberships by the name that this domain calls each neighbour."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asking: dict[str, asyncio.Lock] = {}

    def names(self) -> tuple[str, ...]:
        """Neighbours that can be asked."""
        return tuple(sorted(path.parent.name for path in self._folder.glob(f"*/{MEMBERSHIP_FILE}")))

    async def join(self, name: str, token: str) -> Membership:
        """Become a member of a neighbour's domain with its operator's token. As `enrolment.enrol`."""
        check_name("neighbour", name)
        if name in self.names():
            raise InputError(f"there is a neighbour {name} already", todo="choose another name")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return await enrol(token, name, (), self._folder / name)

    async def ask(self, name: str, question: Question) -> Answer:
        """A neighbour's answer. InputError for one that is not known, or for what it says is wrong with the question,
        PolicyError where it does not answer this domain, UnavailableError where no answer comes."""
        if name not in self.names():
            near = nearest_known(name, self.names()) if self.names() else "there are none; see daitn neighbour --help"
            raise InputError(f"this domain has no neighbour {name[:80]!r}", todo=near)
        async with self._asking.setdefault(name, asyncio.Lock()):  # a neighbour answers one question of each at a time
            try:
                answered = await asyncio.wait_for(self._answer(name, question), ANSWER_S)
            except TimeoutError:
                what = f"neighbour {name} did not answer within {ANSWER_S:.0f} s"
                raise UnavailableError(what, todo="ask its operator whether its centre runs") from None
        if answered.answer is None:
            refused = "does not answer your questions" in answered.fault
            raise (PolicyError if refused else InputError)(f"neighbour {name}: {answered.fault}")
        return answered.answer

    async def _answer(self, name: str, question: Question) -> QuestionAnswered:
        membership = load_membership(self._folder / name)
        asked = QuestionAsked(number=secrets.randbelow(1 << 53), question=question)
        answers: asyncio.Queue[QuestionAnswered] = asyncio.Queue(maxsize=4)

        async def receive(sender: NodeId, payload: bytes) -> bytes:
            message = decode(payload)
            mine = isinstance(message, QuestionAnswered) and message.number == asked.number
            if sender == CENTER and mine and not answers.full():
                answers.put_nowait(message)  # type: ignore[arg-type]
            return b""

        async with open_fabric(membership.fabric_config(self._folder / name)) as fabric:
            await fabric.serve(receive, plane=Plane.CP)
            while True:
                try:
                    await fabric.call(CENTER, encode(asked), plane=Plane.CP, timeout_s=REPEAT_S)
                    return await asyncio.wait_for(answers.get(), REPEAT_S)
                except (UnavailableError, TimeoutError):
                    await asyncio.sleep(0.1)  # its centre starts, or the answer was lost: the time for all is bounded

    async def keep_renewed(self, on_fault: Callable[[DaitnError], None]) -> None:
        """Renew each membership whose certificate has half of its life behind it, until cancelled."""
        while True:
            for name in self.names():
                directory = self._folder / name
                try:
                    certificate = await asyncio.to_thread((directory / CERT_FILE).read_bytes)
                    if pki.renewal_of(certificate) <= time.time():
                        await renew(directory)
                except DaitnError as fault:
                    on_fault(fault)
                except OSError as fault:
                    on_fault(UnavailableError(f"membership of neighbour {name} cannot be read: {fault}"))
            await asyncio.sleep(LOOK_S)

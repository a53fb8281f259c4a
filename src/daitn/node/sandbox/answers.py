"""What the node expects of a run and reads from its end: layout of the result, faults of an answer, why a death."""

from __future__ import annotations

import math
import signal
from typing import Final

from daitn.artifacts.manifest import TensorEntry, TravellingState
from daitn.descriptors.work import EvaluateWork, TrainWork
from daitn.learning.numerics.slots import plan_control, plan_result
from daitn.node.sandbox.launcher import exit_signal
from daitn.node.sandbox.protocol import EvaluateNumbers, Failed, FailReason, Finished, Run, TrainNumbers

TODO: Final[dict[FailReason, str]] = {
    FailReason.MEMORY: "use a smaller batch, or a site that gives more memory",
    FailReason.CPU_TIME: "give the visit fewer batches, or raise the site's cpu_s",
    FailReason.WALL_TIME: "give the visit fewer batches, or a faster site",
    FailReason.KILLED: "look at the site's log for the out-of-memory killer, then repeat the visit",
    FailReason.UNAVAILABLE: "look at this node: its sandbox or its installation of Python does not work",
    FailReason.CRASHED: "run the package once on your side; if it works there, report this",
    FailReason.GARBAGE: "the model may have broken out of its computation: look at its package and its signer",
}
"""What to do, for failures that the node itself finds."""


def plan_run(
    work: TrainWork | EvaluateWork, entries: tuple[TensorEntry, ...], payload_bytes: int, state: TravellingState
) -> Run:
    """A run on a model of these tensors; for training, with the layout of its result (`output`, `output_bytes`)."""
    if isinstance(work, EvaluateWork):
        return Run(number=0, work=work, entries=entries, payload_bytes=payload_bytes, state=state)
    layout = plan_result(entries, work.training)
    control = plan_control(entries) if work.training.control_variates else None
    return Run(
        number=0,
        work=work,
        entries=entries,
        payload_bytes=payload_bytes,
        state=state,
        output=layout.entries,
        output_bytes=layout.payload_bytes,
        control_output=control.entries if control is not None else (),
        control_bytes=control.payload_bytes if control is not None else 0,
    )


_OUT_OF_MEMORY: Final = ("MemoryError", "bad_alloc", "annot allocate memory", "error return without exception set")
"""Last words of a child without memory; the last are those of CPython's compiler, seen where a module's compiled form
was not there yet."""


def explain_exit(number: int, status: int, words: str, *, warm: bool = True) -> Failed:
    """What an exit status and the last words of a child mean. `warm`: whether it had said that it is ready.

    A child answers `Failed` for whatever a package makes go wrong, and dies by a signal of what it cannot answer. One
    that just ends before it is ready was never begun: bubblewrap could not make its room, or the interpreter could not
    start. That is the node's fault and nobody's model's.
    """
    number_of_signal = exit_signal(status)
    name = signal.Signals(number_of_signal).name if number_of_signal in set(signal.Signals) else str(number_of_signal)
    tail = f": {words.splitlines()[-1][:300]}" if words else ""
    if any(one in words for one in _OUT_OF_MEMORY):
        return dead(number, FailReason.MEMORY, f"the child ran out of memory (status {status})")
    if number_of_signal == signal.SIGXCPU:
        return dead(number, FailReason.CPU_TIME, "the child used up its processor time")
    if number_of_signal in (signal.SIGKILL, signal.SIGTERM):
        return dead(number, FailReason.KILLED, f"the child was killed from outside by {name}")
    if number_of_signal:
        return dead(number, FailReason.CRASHED, f"the child died of {name}{tail}")
    if not warm:
        return dead(number, FailReason.UNAVAILABLE, f"no child could be begun here (status {status}){tail}")
    return dead(number, FailReason.CRASHED, f"the child ended with status {status} and without an answer{tail}")


def dead(number: int, reason: FailReason, what: str) -> Failed:
    return Failed(number=number, reason=reason, what=what, todo=TODO.get(reason, ""))


def answer_fault(run: Run, finished: Finished) -> str:
    """Why an answer cannot be one to this run; empty if it can."""
    numbers, work = finished.numbers, run.work
    if isinstance(work, TrainWork):
        if not isinstance(numbers, TrainNumbers) or numbers.batches != work.training.batches:
            return "the child reports another kind or number of steps than it was asked for"
        if finished.state.steps != run.state.steps + numbers.batches:
            return f"the child reports {finished.state.steps} steps after {run.state.steps} and {numbers.batches} more"
        expected = work.training.optimizer if work.training.carry_optimizer else ""
        before = {cursor.dataset for cursor in run.state.cursors}
        after = [cursor.dataset for cursor in finished.state.cursors]
        if finished.state.optimizer != expected or not before <= set(after) or len(after) != len(set(after)):
            return "the child's travelling state does not follow from the one it was given"
        seen = {work.dataset} if work.group is None else {member.dataset for member in work.group.members}
        return "" if set(after) <= before | seen else "the child added cursors of data sets it did not see"
    if not isinstance(numbers, EvaluateNumbers):
        return "the child reports training where it was asked to evaluate"
    if tuple(measurement.name for measurement in numbers.measurements) != work.measurements:
        return "the child measured something else than it was asked for"
    if any(math.isinf(measurement.value) and measurement.value < 0 for measurement in numbers.measurements):
        return "the child measured minus infinity"
    return ""

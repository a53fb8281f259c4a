"""What a visit is asked to do, in words of the log."""

from __future__ import annotations

from collections.abc import Callable

from daitn.base.errors import BugError
from daitn.base.ids import NodeId
from daitn.descriptors.masked import AgreeWork, SealWork, UnmaskWork
from daitn.descriptors.work import AggregateWork, EvaluateWork, ShareWork, TrainWork, Work
from daitn.oam import wording


def say_work(work: Work, where: str, names: Callable[[NodeId], str]) -> str:
    """What is to be done, in words."""
    match work:
        case TrainWork(model=model, dataset=dataset, training=training, records=records, group=group):
            streamed = ", whose records stream there" if records is not None else ""
            if training.control_variates:
                known = work.shared_control is not None
                streamed += ", gradients corrected" if known else ", gradients not corrected yet"
            if work.masking is not None:
                streamed += f", update masked among {len(work.masking.sealed)}"
            if work.compression is not None:
                streamed += f", update compressed ({work.compression})"
            if work.private is not None:
                streamed += (
                    f", each gradient cut to {work.private.clip:g} and noise of {work.private.noise_multiplier:.3g}"
                )
                streamed += f" times that added, for ε at most {work.private.epsilon:g}"
            if work.is_middle:
                streamed += " that stays where it is: the middle of the model"
            if group is not None:
                others = ", ".join(names(member.node) for _, member in group.others())
                streamed += f", in lock step with {others}" if work.split is None else f", cut between it and {others}"
            return (
                f"train {wording.short(model)} at {where} on {dataset}{streamed}: {training.batches} batches of "
                f"{training.batch_size} ({training.optimizer}, learning rate {training.learning_rate:g})"
            )
        case EvaluateWork(model=model, samples=samples, preflight=preflight):
            what = "try and measure" if preflight else "measure"
            count = sum(sample.records for sample in samples)
            return f"{what} {wording.short(model)} at {where} on {count} records of {len(samples)} data sets"
        case AggregateWork(updates=updates, masked=True):
            return f"add up {len(updates)} masked updates at {where}"
        case AggregateWork(updates=updates, server=server, state=remembered, unmasking=unmasking):
            step = ""
            if server is not None:
                since = "" if remembered is not None else ", which begins anew"
                step = f", then a step of {server.optimizer} at rate {server.learning_rate:g}{since}"
            if unmasking is not None:
                return f"take the masks off the sum of {len(unmasking.summed)} updates at {where}{step}"
            if work.among:
                return f"average {len(updates)} members' models at {where}, one of them"
            if work.share:
                return f"average {len(updates)} models at {where}, a share of the round's"
            if work.buffered:
                late = sum(update.base != work.base for update in updates)
                return f"add up what {len(updates)} visits changed, {late} of them of older models, at {where}{step}"
            return f"average {len(updates)} models at {where}{step}"
        case ShareWork(dataset=dataset, kind="sample", receiver=receiver):
            return f"give a held-out sample of {dataset} from {where} to {names(receiver)}"
        case AgreeWork(dataset=dataset):
            return f"make keys at {where} for a masked round on {dataset}"
        case SealWork(members=members):
            return f"share the seeds of its masks from {where} among {len(members)} sites"
        case UnmaskWork(summed=summed):
            return f"tell from {where} what opens the sum of {len(summed)} updates"
        case ShareWork(dataset=dataset, receiver=receiver):
            return f"give the records of {dataset} from {where} to {names(receiver)}"
    raise BugError(f"the timeline has no words for {type(work).__name__}")

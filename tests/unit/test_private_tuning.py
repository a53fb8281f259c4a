"""Searching hyper-parameters of private training: short runs bear the noise of a typical site, and cost no budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.builders import JOB, OWNER, Bench, bench, changed, make_package, make_request, measure, the_order

from daitn.control_center.training.commands import SubmissionReceived
from daitn.control_center.training.records import TuningDone
from daitn.decision.noising import private_steps_of
from daitn.decision.tuning import CandidatesSought, Stage, batch_seconds_of
from daitn.descriptors.contract import Classification
from daitn.descriptors.job import Phase
from daitn.descriptors.privacy import Privacy, PrivateSteps
from daitn.descriptors.request import Hyperparameters, Tuning
from daitn.descriptors.trials import Training, TriedOut, Trying
from daitn.descriptors.work import EvaluateWork
from daitn.learning.numerics.tuning_trial import tuning_trial
from daitn.learning.tasks.classification import ClassificationNumerics
from daitn.learning.tasks.contract import RecordSlice

ASKED = Privacy(epsilon=2.0, clip=1.0)
BASE = Training(batch_size=32, batches=16, learning_rate=0.02)


def sought(privacy: Privacy, *starts: Training) -> CandidatesSought:
    return CandidatesSought(
        base=BASE,
        pinned=Hyperparameters(optimizer="momentum", learning_rate=0.02, batch_size=32, batches_per_visit=16),
        optimizers=("momentum",),
        starts=starts,
        tried=(),
        count=len(starts),
        seed=1,
        privacy=privacy,
        groups=1000.0,
    )


def test_each_has_the_noise_that_its_batch_size_and_its_length_take():
    starts = (BASE, changed(BASE, batch_size=128), changed(BASE, batches=32), changed(BASE, learning_rate=0.1))
    found = sought(ASKED, *starts).solve()

    assert found.trainings == starts
    assert found.private == tuple(private_steps_of(ASKED, one, 1000.0) for one in starts)
    own, larger, longer, faster = (one.noise_multiplier for one in found.private)
    assert own < longer < larger
    assert own == faster


def test_those_that_no_noise_is_enough_for_are_not_tried():
    found = sought(changed(ASKED, epsilon=1e-9), BASE).solve()

    assert (found.trainings, found.private) == ((), ())


# --- in a job -------------------------------------------------------------------------------------------------------


def about_to_search() -> Bench:
    made = bench()
    request = make_request("accuracy >= 0.9", deadline_s=600.0, tuning=Tuning(trials=6), privacy=ASKED)
    made.give(SubmissionReceived(job=JOB, owner=OWNER, request=request, package=make_package(), key="k"))
    made.answer_until(lambda state: any(one.ordered.purpose == "preflight" for one in state.open.values()))
    node, order = the_order(made)
    made.answer(node, order, measurements=measure(0.5, "accuracy"), overfits=True)
    return made


def compared(made: Bench) -> Trying:
    made.solve()
    node, order = the_order(made)
    assert isinstance(order.work, EvaluateWork)
    tries = order.work.tries
    assert tries is not None
    tried = tuple(
        TriedOut(place=place, measurements=measure(0.5 + min(0.4, one.learning_rate), "accuracy"), seconds=0.1)
        for place, one in enumerate(tries.trainings)
    )
    made.answer(node, order, measurements=measure(0.5, "accuracy"), tried=tried)
    return tries


def test_job_searches_with_noise_on_every_rung_also_after_a_restart():
    made, tries = about_to_search(), []
    while made.state().phase is Phase.ASSESSING:
        tries.append(compared(made))
        made.restart()

    assert len(tries) == 4
    noised = dict(pair for each in tries[:2] for pair in zip(each.trainings, each.private, strict=True))
    for each in tries:
        assert each.private == tuple(noised[one] for one in each.trainings)
    plan = made.state().plan
    assert plan is not None
    assert plan.training.learning_rate > tries[0].trainings[0].learning_rate
    assert sum(isinstance(one, TuningDone) for one in made.state().log) == 1


def test_runs_that_took_longer_than_the_preflight_said_make_the_next_ones_shorter():
    def stage(seconds: float) -> Stage:
        return Stage(rung=0, trainings=(BASE,), tried=(TriedOut(place=0, visits=5, seconds=seconds),))

    assert batch_seconds_of([]) == 0.0
    assert batch_seconds_of([stage(1.6), stage(4.8)]) == pytest.approx(0.02)


# --- at the unit ----------------------------------------------------------------------------------------------------


def world(records: int = 40) -> tuple[torch.nn.Module, ClassificationNumerics, list[RecordSlice]]:
    """Two data sets with a label each, told apart by a linear layer."""
    contract, rng = make_package().contract, np.random.default_rng(1)
    (given,) = contract.inputs
    width = len(given.columns)
    sets = [
        RecordSlice(
            inputs={given.name: (rng.normal(size=(records, width)) + (3.0 if label else -3.0)).astype(np.float32)},
            labels=np.full(records, label, dtype=np.int64),
            fields=np.zeros((records, len(contract.field_names())), np.bool_),
            dataset=f"s{label}/d",
        )
        for label in (0, 1)
    ]
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(width, max(2, len(contract.labels())))

        def forward(self, **inputs):
            return self.layer(inputs[given.name])

    assert isinstance(contract.task, Classification)
    return Net(), ClassificationNumerics(contract.task, contract, torch.device("cpu")), sets


def noise(multiplier: float) -> PrivateSteps:
    return PrivateSteps(epsilon=2.0, delta=1e-5, clip=1.0, noise_multiplier=multiplier, sampling_rate=0.01)


@pytest.mark.parametrize("order", ["sequential", "rounds", "mixed"])
def test_short_runs_with_much_noise_learn_less_and_put_the_model_back(order):
    model, numerics, sets = world()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = Training(batch_size=8, batches=4, learning_rate=0.05)
    asked = Trying(
        trainings=(small, changed(small, momentum=0.89)),
        private=(noise(1e-3), noise(1000.0)),
        steps=120,
        batch_size=8,
        hop=16.0,
        order=order,
        names=("loss",),
        seconds=30.0,
    )
    (quiet,), (loud,) = (one.measurements for one in tuning_trial(model, numerics, sets, asked))

    assert quiet.value < 0.5 < 10 < loud.value
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_sample_smaller_than_a_batch_has_the_noise_of_a_whole_batch_on_its_mean_gradient(monkeypatch):
    model, numerics, sets = world()
    given: list[tuple[int, PrivateSteps]] = []
    from daitn.learning.numerics import tuning_trial as module

    def seen(*args, private, **named):
        given.append((args[3].batch_size, private))
        return train(*args, private=private, **named)

    train = module.train
    monkeypatch.setattr(module, "train", seen)
    large = Training(batch_size=80, batches=2, learning_rate=0.05)
    tuning_trial(
        model,
        numerics,
        sets,
        Trying(
            trainings=(large,),
            private=(noise(4.0),),
            steps=18,
            batch_size=80,
            hop=16.0,
            order="sequential",
            names=("loss",),
            seconds=30.0,
        ),
    )

    assert given
    for size, private in given:
        assert size < 80
        assert private.noise_multiplier / size == pytest.approx(4.0 / 80)
        assert private.sampling_rate == 1.0


def test_noise_is_told_of_each_or_of_none():
    with pytest.raises(ValueError, match="none or each"):
        Trying(
            trainings=(BASE, changed(BASE, batches=8)),
            private=(noise(1.0),),
            steps=18,
            batch_size=32,
            hop=16.0,
            order="mixed",
            names=("loss",),
            seconds=1.0,
        )

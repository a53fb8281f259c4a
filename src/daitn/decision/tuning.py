"""Searching hyper-parameters (HPO): which to try at the verification unit, for how long, and which to take.

Paper II-A: the Hyper-Parameter Optimizer sets "number of epochs, batch size, and other training parameters". The rules
of `decision.hyperparameters` are what is right for most; a search finds where a model or its data are not like most. It
tries optimizer, rate, batch size and length of a visit by short runs on the samples that the unit holds anyway
(`learning.numerics.tuning_trial`), and costs no site anything.

Cheap first: all are tried for one pass over the data sets; the best third goes on for three passes, the best third of
those for nine (successive halving: K. Jamieson and A. Talwalkar, AISTATS 2016). What is tried: first the rules' own,
what earlier runs like this one had (`decision.experience`), and rates and optimizers that are usual elsewhere; then
what Optuna's tree-structured Parzen estimator proposes from the figures so far (T. Akiba and others, KDD 2019), by its
ask and tell.

The rules' own go on to the end whatever they come to, and are kept unless something else is better by more than chance
explains: the short runs of a dozen are compared on a few hundred records.

All is told from what was found so far, so that a restart goes on where it was; the estimator is seeded. It takes tens
of milliseconds, and half a second where Optuna is loaded first: a problem beside the turn.

Where training is private, short runs bear the noise that a typical site would be given for the same batch size and
length of a visit, since both decide it. They cost no data set any of its budget: samples are held out from training.

What it does not do: choose a method, or look at sites.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from daitn.base.effects import Problem, Solution
from daitn.base.errors import UnavailableError
from daitn.decision.attainability import Z95, error_of
from daitn.decision.facts import PackageFacts, Searched
from daitn.decision.hyperparameters import ADAPTIVE, ADAPTIVE_SHARE, PARALLEL_RATE, forgotten_share
from daitn.decision.noising import private_steps_of
from daitn.descriptors.contract import Reinforcement
from daitn.descriptors.privacy import Privacy, PrivateSteps
from daitn.descriptors.request import Hyperparameters, Request, Tuning, parse_target
from daitn.descriptors.server_step import ServerStep
from daitn.descriptors.trials import Measurement, Training, TriedOut, Trying
from daitn.learning.methods.contract import Method
from daitn.learning.methods.sequential import Sequential

PASSES: Final = (1, 3, 9)
"""Passes over the data sets on each rung."""
KEPT_FRAC: Final = 1 / 3
"""Share of what was tried on a rung that goes on to the next; two at least."""
HOP_BATCHES: Final = 16.0
"""What a hop and the check after it cost, in batches of a small model: else the shortest visits would seem best."""
REACH: Final = 16.0
"""Rates are searched from a sixteenth of the usual one to sixteen times it."""
SLOWER: Final = (10.0, 30.0)
"""Sequential training wants a rate so many times below parallel training (Li and Lyu, NeurIPS 2023): both are tried."""
BETTER: Final = 0.5
"""Standard errors by which something else has to be better than the rules' own. Both are measured on the same records,
so half of the error of one figure is about one of their difference."""
PLANNED_FRAC: Final = 0.8
"""Share of the seconds that is planned with."""
WAYS: Final = 2
"""Folds are used both ways round."""
ASKS_MOST: Final = 8
"""Proposals asked for each that is wanted: some have been tried already."""
REJECTED_SHOWN: Final = 6


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One visit at the unit: what was tried on which rung, and what came of it."""

    rung: int
    trainings: tuple[Training, ...]
    tried: tuple[TriedOut, ...]


class Trial(NamedTuple):
    """One short run: its mean error over the targets (infinite where it diverged) and the standard error of that."""

    training: Training
    error: float
    noise: float


class CandidatesFound(Solution, frozen=True, kw_only=True):
    """What to try next."""

    trainings: tuple[Training, ...]
    private: tuple[PrivateSteps, ...] = ()
    """Of each of them, where training is private."""


class CandidatesSought(Problem, frozen=True, kw_only=True):
    """Which hyper-parameters to try next, after `tried`?"""

    base: Training
    """What the rules propose."""
    pinned: Hyperparameters
    optimizers: tuple[Literal["sgd", "momentum", "adam", "adamw"], ...]
    starts: tuple[Training, ...]
    """Tried before anything is proposed."""
    tried: tuple[tuple[Training, float], ...]
    """With their errors, infinite where training diverged."""
    offered: tuple[Training, ...] = ()
    """All that was to be tried, whether or not there was time for it: none of it is proposed again."""
    count: int
    seed: int
    privacy: Privacy | None = None
    groups: float = 0.0
    """Of a typical site, as published: noise depends on them."""

    def solve(self) -> CandidatesFound:
        """See the module's docstring. UnavailableError where Optuna is not installed."""
        known = [*self.offered, *(training for training, _ in self.tried)]
        found = [one for one in dict.fromkeys(self.starts) if one not in known][: self.count]
        if len(found) < self.count:
            found += self._proposed([*known, *found], self.count - len(found))
        if self.privacy is None:
            return CandidatesFound(trainings=tuple(found))
        noised = [(one, private_steps_of(self.privacy, one, self.groups)) for one in found]
        able = [(one, private) for one, private in noised if private is not None]
        return CandidatesFound(trainings=tuple(one for one, _ in able), private=tuple(private for _, private in able))

    def _proposed(self, known: Sequence[Training], count: int) -> list[Training]:
        optuna = _optuna()
        space = self._space(optuna)
        if not space:
            return []
        sampler = optuna.samplers.TPESampler(seed=(self.seed + len(known)) % 2**32, n_startup_trials=4)
        study = optuna.create_study(direction="minimize", sampler=sampler)
        finite = [error for _, error in self.tried if math.isfinite(error)]
        worst = max(finite, default=1.0) + 1.0
        for training, error in self.tried:
            params = {name: value for name, value in point_of(self.base, training).items() if name in space}
            value = error if math.isfinite(error) else worst
            study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
        found: list[Training] = []
        for _ in range(ASKS_MOST * count):
            params = study.ask(space).params
            training = training_of(self.base, params)
            if training not in known and training not in found:
                found.append(training)
            if len(found) == count:
                break
        return found

    def _space(self, optuna: Any) -> dict[str, Any]:
        """What the owner left open."""
        kinds = optuna.distributions
        space: dict[str, Any] = {}
        if self.pinned.optimizer is None and self.pinned.learning_rate is None and len(self.optimizers) > 1:
            space["optimizer"] = kinds.CategoricalDistribution(self.optimizers)
        if self.pinned.learning_rate is None:
            space["rate"] = kinds.FloatDistribution(1 / REACH, REACH, log=True)
        if self.pinned.batch_size is None:
            space["batch"] = kinds.IntDistribution(-1, 2)
        if self.pinned.batches_per_visit is None:
            space["length"] = kinds.IntDistribution(-1, 1)
        return space


def _optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        raise UnavailableError(
            "Optuna is not installed at the control centre", todo="pip install 'daitn[tune]' there"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def training_of(base: Training, point: dict[str, Any]) -> Training:
    """Hyper-parameters from a point of the space, in proportion to the rules' own (`base`)."""
    optimizer = point.get("optimizer", base.optimizer)
    batches = max(1, round(base.batches * 2.0 ** point.get("length", 0)))
    average_steps = round(base.average_steps * batches / base.batches)
    rate = usual_rate(base, optimizer) * point.get("rate", 1.0)
    return msgspec.structs.replace(
        base,
        optimizer=optimizer,
        learning_rate=rate if rate == base.learning_rate else min(1000.0, _rounded(rate)),
        label_correction=base.label_correction * forgotten_share(batches) / forgotten_share(base.batches),
        batch_size=max(1, round(base.batch_size * 2.0 ** point.get("batch", 0))),
        batches=batches,
        average_steps=average_steps,
    )


def point_of(base: Training, training: Training) -> dict[str, Any]:
    """The point of the space that is nearest to these hyper-parameters."""

    def power(value: float, whole: float, low: int, high: int) -> int:
        return min(high, max(low, round(math.log2(value / whole))))

    rate = training.learning_rate / usual_rate(base, training.optimizer)
    return {
        "optimizer": training.optimizer,
        "rate": min(REACH, max(1 / REACH, rate)),
        "batch": power(training.batch_size, base.batch_size, -1, 2),
        "length": power(training.batches, base.batches, -1, 1),
    }


def usual_rate(base: Training, optimizer: str) -> float:
    """What the rules' rate is for another optimizer."""
    rate = base.learning_rate
    if (optimizer in ADAPTIVE) == (base.optimizer in ADAPTIVE):
        return rate
    return rate / ADAPTIVE_SHARE if optimizer in ADAPTIVE else rate * ADAPTIVE_SHARE


def _rounded(rate: float) -> float:
    """Two digits, so that people can read it and equal ones are equal."""
    return float(f"{rate:.2g}")


def in_vain(method: Method, request: Request, package: PackageFacts) -> str:
    """Why nothing can be searched; empty: it can."""
    if isinstance(package.contract.task, Reinforcement):
        return "records come from an environment, which no unit holds samples of"
    if method.prefers.control_variates:
        return (
            f"method {method.name!r} corrects gradients by what every site keeps of its own, which a unit does not have"
        )
    pinned = request.hyperparameters
    if None not in (pinned.learning_rate, pinned.batch_size, pinned.batches_per_visit):
        return "the owner has pinned the rate, the batch size and the length of a visit"
    return ""


def order_of(method: Method) -> Literal["sequential", "rounds", "mixed"]:
    """How the unit puts its samples in the place of sites."""
    if isinstance(method, Sequential):
        return "sequential"
    return "mixed" if method.exchanges else "rounds"


def optimizers_of(method: Method, base: Training) -> tuple[Literal["sgd", "momentum", "adam", "adamw"], ...]:
    """Those that are tried, the rules' own first."""
    if method.prefers.control_variates:
        return (base.optimizer,)
    return (base.optimizer, "momentum" if base.optimizer in ADAPTIVE else "adamw")


def starts_of(
    method: Method, base: Training, pinned: Hyperparameters, worked: Sequence[Training]
) -> tuple[Training, ...]:
    """What is tried before anything is proposed: the rules' own, what `worked` in earlier runs like this one, and what
    is usual elsewhere."""
    points: list[dict[str, Any]] = [{}]
    if pinned.learning_rate is None:
        usual = usual_rate(base, "momentum")
        others = (1 / 3, 3.0) if method.aggregates or method.exchanges else ()
        slower = () if others else tuple(PARALLEL_RATE / times / usual for times in SLOWER)
        if pinned.optimizer is None:
            points += [{"optimizer": one} for one in optimizers_of(method, base)[1:]]
        points += [{"rate": one} for one in (*others, *slower, 4.0) if 1 / REACH <= one <= REACH]
    allowed = set(optimizers_of(method, base))
    again = [point_of(base, one) for one in worked if one.optimizer in allowed]
    points[1:1] = [_unpinned(one, pinned) for one in again]
    return tuple(dict.fromkeys(training_of(base, one) for one in points))


def _unpinned(point: dict[str, Any], pinned: Hyperparameters) -> dict[str, Any]:
    """Without what the owner has pinned."""
    fixed = {
        "optimizer": pinned.optimizer is not None or pinned.learning_rate is not None,
        "rate": pinned.learning_rate is not None,
        "batch": pinned.batch_size is not None,
        "length": pinned.batches_per_visit is not None,
    }
    return {name: value for name, value in point.items() if not fixed[name]}


def trials_of(stages: Sequence[Stage], rung: int) -> list[Trial]:
    """All short runs of a rung."""
    return [
        _trial(stage.trainings[one.place], one.measurements)
        for stage in stages
        if stage.rung == rung
        for one in stage.tried
        if one.place < len(stage.trainings)
    ]


def _trial(training: Training, measurements: Sequence[Measurement]) -> Trial:
    errors: list[float] = []
    noises: list[float] = []
    for one in measurements:
        if one.records and math.isfinite(one.value):
            target = parse_target(f"{one.name} >= 0")
            errors.append(error_of(target, one.value))
            noises.append((one.high - one.low) / (2 * Z95))
    if not errors:
        return Trial(training, math.inf, 0.0)
    spread = math.sqrt(sum(one**2 for one in noises if math.isfinite(one))) / len(errors)
    return Trial(training, sum(errors) / len(errors), spread)


class Propose(NamedTuple):
    """So many more are to be proposed."""

    many: int


class Go(NamedTuple):
    """Try these on a rung."""

    rung: int
    trainings: tuple[Training, ...]
    private: tuple[PrivateSteps, ...] = ()


def next_move(tuning: Tuning, base: Training, stages: Sequence[Stage]) -> Propose | Go | None:
    """What is to be done next; None: what was tried is all there will be."""
    if len(stages) > len(PASSES) or (stages and seconds_of(stages) >= tuning.seconds):
        return None
    offered = sum(len(stage.trainings) for stage in stages if stage.rung == 0)
    if offered < tuning.trials and len([one for one in stages if one.rung == 0]) < 2:
        return Propose(min(tuning.trials - offered, -(-tuning.trials // 2)))
    reached = max(stage.rung for stage in stages)
    if reached + 1 >= len(PASSES):
        return None
    going_on = survivors(base, trials_of(stages, reached))
    return Go(reached + 1, going_on) if len(going_on) > 1 else None


def survivors(base: Training, trials: Sequence[Trial]) -> tuple[Training, ...]:
    """The best of a rung, and the rules' own whatever they came to."""
    best = sorted((one for one in trials if math.isfinite(one.error)), key=lambda one: one.error)
    many = max(2, math.ceil(KEPT_FRAC * len(trials)))
    kept = [one.training for one in best[:many]]
    if base not in kept:
        kept = [base, *kept[: many - 1]]
    return tuple(sorted(kept, key=lambda one: one != base))


def seconds_of(stages: Sequence[Stage]) -> float:
    """Seconds of the unit that all tries took."""
    return sum(one.seconds for stage in stages for one in stage.tried)


def batch_seconds_of(stages: Sequence[Stage]) -> float:
    """Seconds of a batch in the runs so far, measuring counted: private steps take longer than those of the preflight.
    0 where there were none."""
    batches = sum(WAYS * one.visits * stage.trainings[one.place].batches for stage in stages for one in stage.tried)
    return seconds_of(stages) / batches if batches else 0.0


class Setting(NamedTuple):
    """What short runs are made with: the rules' own hyper-parameters, what is measured, how many data sets there are,
    and the seconds of a batch at the unit. `server`: the step that follows the mean of a round."""

    base: Training
    names: tuple[str, ...]
    sites: int
    order: Literal["sequential", "rounds", "mixed"]
    batch_s: float
    server: ServerStep | None = None


def trying_of(tuning: Tuning, go: Go, setting: Setting, stages: Sequence[Stage]) -> Trying:
    """What the unit is asked to do. The shorter, the longer a batch takes there: all rungs together have to fit."""
    base, sites = setting.base, setting.sites
    left_s = max(0.5, tuning.seconds - seconds_of(stages))
    a_pass = sites * (HOP_BATCHES + base.batches)
    many, ahead = float(tuning.trials), 0.0
    for rung, passes in enumerate(PASSES):
        count = len(go.trainings) if rung == go.rung and rung else many
        ahead += count * passes if rung >= go.rung else 0.0
        many = max(2.0, KEPT_FRAC * many)
    needed_s = WAYS * ahead * sites * base.batches * setting.batch_s
    fits = min(1.0, PLANNED_FRAC * left_s / needed_s) if needed_s > 0 else 1.0
    return Trying(
        trainings=go.trainings,
        steps=max(1, round(a_pass * max(1.0, PASSES[go.rung] * fits))),
        batch_size=base.batch_size,
        hop=HOP_BATCHES,
        order=setting.order,
        names=setting.names,
        server=setting.server if setting.order == "rounds" else None,
        private=go.private,
        seconds=min(3600.0, left_s),
    )


def choose(base: Training, stages: Sequence[Stage]) -> Searched:
    """Which hyper-parameters to take, by the longest runs that compare anything with the rules' own."""
    count = sum(len(stage.tried) for stage in stages if stage.rung == 0)
    for rung in range(len(PASSES) - 1, -1, -1):
        trials = sorted(trials_of(stages, rung), key=lambda one: one.error)
        own = next((one for one in trials if one.training == base), None)
        if own is None or len(trials) < 2:
            continue
        best = trials[0]
        taken = best if own.error - best.error > BETTER * max(best.noise, 1e-9) else None
        rejected = _rejected(stages, rung, base if taken is None else taken.training)
        passes = PASSES[rung]
        shown = f"{count} were tried at the verification unit, the best for {passes} pass{'es' if passes > 1 else ''}"
        if taken is None:
            why = f"{shown}, and none was better than the rules' own ({own.error:.3f} of error) by more than chance"
            return Searched(why=why, rejected=rejected)
        return Searched(
            chosen=taken.training,
            why=f"{shown}: {taken.error:.3f} of error is left, {own.error:.3f} with the rules' own",
            rejected=rejected,
        )
    return Searched(
        why="a search was asked for, and nothing could be compared: too few test records or too little time"
    )


def _rejected(stages: Sequence[Stage], rung: int, chosen: Training) -> tuple[str, ...]:
    """What was not taken, with what it came to on the highest rung that it was tried on: the best first."""
    found: dict[Training, str] = {}
    for level in range(rung, -1, -1):
        for one in sorted(trials_of(stages, level), key=lambda trial: trial.error):
            after = f"{PASSES[level]} pass{'es' if PASSES[level] > 1 else ''}"
            found.setdefault(one.training, f"{said_of_trial(one)} after {after}")
    said = [text for training, text in found.items() if training != chosen]
    more = (f"and {len(said) - REJECTED_SHOWN} more",) if len(said) > REJECTED_SHOWN else ()
    return (*said[:REJECTED_SHOWN], *more)


def _error(error: float) -> str:
    return f"{error:.3f}" if math.isfinite(error) else "diverged"


def said_of_trial(trial: Trial) -> str:
    """`16 batches of 32, momentum at 0.02: 0.123`."""
    return f"{said_of(trial.training)}: {_error(trial.error)}"


def said_of(training: Training) -> str:
    """`16 batches of 32, momentum at 0.02`."""
    return f"{training.batches} batches of {training.batch_size}, {training.optimizer} at {training.learning_rate:g}"

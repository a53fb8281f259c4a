"""Reinforcement: a policy for an environment that a site holds; policy gradient with a baseline.

REINFORCE (R. Williams, Machine Learning 8, 1992) on whole episodes: the return to go of each action, discounted, less
the mean over the batch and over its spread, weights the log-probability of the action taken. A batch of `batch_size`
is that many *steps* of the environment, completed to whole episodes. The environment is a Gymnasium environment by
registered name; names with a module part (`module:Name`) are refused, since they import code.

Legend: B steps in a batch, A actions, E episodes.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from daitn.base.errors import InputError, UnavailableError
from daitn.descriptors.contract import DataContract, Reinforcement
from daitn.descriptors.work import Measurement
from daitn.learning.tasks.contract import (
    Batch,
    Outputs,
    RecordsLike,
    only_output,
    split_name,
    to_tensor,
    unknown_metric,
)
from daitn.learning.tasks.intervals import mean

METRICS = ("mean_return",)
EPISODE_STEPS: Final = 10_000
"""An episode is cut here: Gymnasium's longest registered limit is 27,000 frames, most are below 1,000."""
EVALUATION_EPISODES: Final = 50
"""Episodes of one evaluation: a standard error of 14 % of the spread."""
FIRST_AT_ONCE: Final = 2
"""Episodes played side by side before it is known how long they are."""
AT_ONCE: Final = 8
"""Episodes played side by side in training at most."""
EVALUATION_SEED: Final = 20_260

_NAME: Final = re.compile(r"[A-Za-z0-9_./-]{1,128}")


class Environment(Protocol):
    """The part of a Gymnasium environment that is used here."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, Mapping[str, Any]]:
        """A first observation."""
        ...

    def step(self, action: int) -> tuple[Any, Any, bool, bool, Mapping[str, Any]]:
        """Observation, reward, terminated, truncated, and more."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


class Episode(NamedTuple):
    """What was observed, done and earned in one episode, step by step."""

    seen: list[np.ndarray]
    actions: list[int]
    rewards: list[float]


EnvironmentMaker = Callable[[str], Environment]


def make_environment(name: str) -> Environment:
    """A Gymnasium environment by registered name. UnavailableError where Gymnasium is not installed."""
    if _NAME.fullmatch(name) is None:
        raise InputError(f"environment name {name[:80]!r} is not allowed", todo="use a registered name, no module part")
    try:
        gymnasium = importlib.import_module("gymnasium")
    except ImportError:
        raise UnavailableError(
            f"environment {name!r} needs Gymnasium, which is not installed at this site",
            todo="pip install 'daitn[environments]'",
        ) from None
    try:
        environment: Environment = gymnasium.make(name)
    except (gymnasium.error.Error, ImportError) as error:
        raise InputError(
            f"environment {name!r} cannot be made: {str(error)[:200]}", todo="use a name that Gymnasium has registered"
        ) from None
    return environment


class ReinforcementNumerics:
    """See the module's docstring; the contract is `daitn.learning.tasks.contract.TaskNumerics`."""

    needs_records = False

    def __init__(
        self,
        task: Reinforcement,
        contract: DataContract,
        device: torch.device,
        maker: EnvironmentMaker = make_environment,
    ) -> None:
        self._task = task
        self._contract = contract
        self._device = device
        self._input = contract.inputs[0].name
        self._maker = maker
        self._environments: list[Environment] = []

    def prepare(self, records: RecordsLike) -> Batch:
        """InputError: batches of this family come from `rollout`."""
        raise InputError(
            f"a reinforcement task takes no records, {records.dataset!r} gave some",
            todo=f"train at a site that holds the environment {self._task.environment!r}",
        )

    def rollout(self, model: nn.Module, steps: int, rng: np.random.Generator) -> Batch:
        """Play whole episodes with actions drawn from the policy until there are at least `steps` of them."""
        seen: list[np.ndarray] = []
        actions: list[int] = []
        gains: list[float] = []
        count = FIRST_AT_ONCE
        with torch.no_grad():
            while len(actions) < steps:
                for episode in self._play(model, count, rng, greedy=False):
                    seen += episode.seen
                    actions += episode.actions
                    gains += returns_to_go(episode.rewards, self._task.discount)
                    length = max(1, len(episode.actions))
                    count = max(1, min(AT_ONCE, -(-(steps - len(actions)) // length)))
        gain = np.asarray(gains, dtype=np.float64)
        advantage = (gain - gain.mean()) / (gain.std() + 1e-8)
        return Batch(
            inputs={self._input: to_tensor(np.stack(seen), self._device)},
            labels=to_tensor(np.asarray(actions, dtype=np.int64), self._device),
            weights=to_tensor(advantage.astype(np.float32), self._device),
        )

    def _play(self, model: nn.Module, count: int, rng: np.random.Generator, *, greedy: bool) -> list[Episode]:
        """So many episodes, side by side: the policy is asked once for all that still go on, which for a small one
        costs as much as asking it for one."""
        while len(self._environments) < count:
            self._environments.append(self._maker(self._task.environment))
        played = [Episode([], [], []) for _ in range(count)]
        going = list(range(count))
        states = {place: self._first(place, rng) for place in going}
        for _ in range(EPISODE_STEPS):
            observed = np.stack([states[place] for place in going])
            logits = only_output(model(**{self._input: to_tensor(observed, self._device)})).double().cpu()
            if not bool(torch.isfinite(logits).all()):
                raise InputError("the policy's output is not finite", todo="lower the learning rate")
            shares = torch.softmax(logits, dim=1).numpy()
            chosen = shares.argmax(axis=1) if greedy else _drawn(shares, rng.random(len(going)))
            for place, state, action in zip(list(going), observed, chosen, strict=True):
                observation, reward, terminated, truncated, _ = self._environments[place].step(int(action))
                played[place].seen.append(state)
                played[place].actions.append(int(action))
                played[place].rewards.append(float(reward))
                states[place] = np.asarray(observation, dtype=np.float32)
                if terminated or truncated:
                    going.remove(place)
            if not going:
                break
        return played

    def _first(self, place: int, rng: np.random.Generator) -> np.ndarray:
        observation, _ = self._environments[place].reset(seed=int(rng.integers(2**31)))
        return np.asarray(observation, dtype=np.float32)

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        """Logits for the observations of a rollout."""
        return model(**batch.inputs)

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean of -log π(action) · advantage."""
        logits = only_output(outputs)
        assert batch.labels is not None
        assert batch.weights is not None
        if logits.ndim != 2:
            raise InputError(f"the policy returned shape {tuple(logits.shape)}", todo="return (batch, actions)")
        chosen = torch.log_softmax(logits, dim=1).gather(1, batch.labels[:, None])[:, 0]
        return -(chosen * batch.weights).mean()

    def evaluate(
        self,
        model: nn.Module,
        sets: Sequence[RecordsLike],  # noqa: ARG002
        names: Sequence[str],
    ) -> tuple[Measurement, ...]:
        """Mean undiscounted return of the greedy policy over fixed episodes; `records` counts episodes.

        `sets`: samples of what sites observed. They say which environment is meant, and are not looked at.
        """
        for name in names:
            metric, _, field = split_name(name)
            if metric not in METRICS:
                raise unknown_metric(metric, "reinforcement", METRICS)
            if field:
                raise InputError(f"{name}: an environment has no fields")
        rng = np.random.default_rng(EVALUATION_SEED)
        model.eval()
        with torch.inference_mode():
            played = self._play(model, EVALUATION_EPISODES, rng, greedy=True)
        totals = [math.fsum(episode.rewards) for episode in played]
        value, low, high, episodes = mean(np.asarray(totals))
        return tuple(Measurement(name=name, value=value, low=low, high=high, records=episodes) for name in names)

    def close(self) -> None:
        """Close what was played in."""
        while self._environments:
            self._environments.pop().close()


def _drawn(shares: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """An action for each row of shares (E, A), by a number (E,) between 0 and 1."""
    sums = shares.cumsum(axis=1)
    chosen: np.ndarray = np.minimum((sums < (drawn * sums[:, -1])[:, None]).sum(axis=1), shares.shape[1] - 1)
    return chosen


def returns_to_go(rewards: Sequence[float], discount: float) -> list[float]:
    """Discounted sum of the rewards from each step on: O(steps)."""
    gains: list[float] = []
    gain = 0.0
    for reward in reversed(rewards):
        gain = reward + discount * gain
        gains.append(gain)
    return gains[::-1]

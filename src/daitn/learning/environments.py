"""Environments that a site holds: told to the network as data sets of observations, so that they are found like any.

Paper II-A: a policy is trained where its environment is. A site plays some steps with random actions and puts what it
saw on its shelf: one record an observation, with the environment's registered name in a column of its own. A contract
of a reinforcement task asks for that column, and so fits sites that hold this very environment and no others; policies,
views, routes and rounds need to know nothing of it. Training and measuring play the environment itself
(`learning.tasks.reinforcement`); the observations are never trained on.

Only environments with a vector to observe and a number of actions to choose from: Gymnasium's `Box` of one dimension
and `Discrete`.
"""

from __future__ import annotations

import csv
import io
from typing import Any, Final

import numpy as np

from daitn.base.errors import InputError
from daitn.descriptors.contract import CategoryColumn, DataContract, NumberColumn, NumbersInput, Reinforcement
from daitn.learning.tasks.reinforcement import make_environment

OBSERVATIONS: Final = 512
"""Observations a site shows: enough for a verification unit to be given the ten that a target needs, at a fifth."""
WIDTH_MOST: Final = 1024
"""Numbers of an observation: each is a column."""


def environment_contract(name: str, discount: float = 0.99) -> DataContract:
    """The contract of policies for an environment: input `observation`, one number for each it shows.

    InputError for an environment of another kind; UnavailableError where Gymnasium is not installed.
    """
    environment = make_environment(name)
    try:
        width, _ = _spaces(name, environment)
    finally:
        environment.close()
    columns = tuple(f"o{place}" for place in range(width))
    return DataContract(
        name=f"policy for {name}",
        columns=(
            *(NumberColumn(name=column) for column in columns),
            CategoryColumn(name="environment", values=(name,)),
        ),
        inputs=(NumbersInput(name="observation", columns=columns),),
        task=Reinforcement(environment=name, discount=discount),
    )


def actions_of(name: str) -> int:
    """How many actions a policy for this environment chooses from."""
    environment = make_environment(name)
    try:
        return _spaces(name, environment)[1]
    finally:
        environment.close()


def observe(name: str, seed: int, count: int = OBSERVATIONS) -> str:
    """`count` observations under random actions, as CSV with the contract's columns."""
    environment = make_environment(name)
    try:
        width, actions = _spaces(name, environment)
        rng = np.random.default_rng(seed)
        text = io.StringIO()
        rows = csv.writer(text)
        rows.writerow([*(f"o{place}" for place in range(width)), "environment"])
        ended = True
        observation: Any = None
        for _ in range(count):
            if ended:
                observation, _ = environment.reset(seed=int(rng.integers(2**31)))
            rows.writerow([*(f"{float(one):.9g}" for one in np.asarray(observation, dtype=np.float64)), name])
            observation, _, terminated, truncated, _ = environment.step(int(rng.integers(actions)))
            ended = terminated or truncated
        return text.getvalue()
    finally:
        environment.close()


def _spaces(name: str, environment: Any) -> tuple[int, int]:
    """Numbers of an observation, and how many actions there are."""
    shape = getattr(environment.observation_space, "shape", None)
    actions = getattr(environment.action_space, "n", None)
    if shape is None or len(shape) != 1 or not 1 <= shape[0] <= WIDTH_MOST or actions is None:
        raise InputError(
            f"environment {name!r} shows {environment.observation_space} and takes {environment.action_space}",
            todo=f"use one with at most {WIDTH_MOST} numbers in a vector to observe, and discrete actions",
        )
    return int(shape[0]), int(actions)

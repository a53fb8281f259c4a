"""Task families: what a batch, a loss and a figure are, one file per family, chosen by the contract's task.

Nothing here imports torch until `numerics_for` is called, so that a node without it can import this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daitn.descriptors.contract import (
    Classification,
    DataContract,
    LanguageModelling,
    Regression,
    Reinforcement,
    Retrieval,
    Task,
)

if TYPE_CHECKING:
    import torch

    from daitn.learning.tasks.contract import TaskNumerics


def numerics_for(task: Task, contract: DataContract, device: torch.device | None = None) -> TaskNumerics:
    """The numerics of `task` for records of `contract`, on `device` (default: CPU)."""
    import torch

    where = torch.device("cpu") if device is None else device
    match task:
        case Classification():
            from daitn.learning.tasks.classification import ClassificationNumerics

            return ClassificationNumerics(task, contract, where)
        case Regression():
            from daitn.learning.tasks.regression import RegressionNumerics

            return RegressionNumerics(task, contract, where)
        case LanguageModelling():
            from daitn.learning.tasks.language_modelling import LanguageModellingNumerics

            return LanguageModellingNumerics(task, contract, where)
        case Retrieval():
            from daitn.learning.tasks.retrieval import RetrievalNumerics

            return RetrievalNumerics(task, contract, where)
        case Reinforcement():
            from daitn.learning.tasks.reinforcement import ReinforcementNumerics

            return ReinforcementNumerics(task, contract, where)

"""A verification unit that says of every model that it is perfect: `daitn` with one method replaced, run instead of it.

Put before the command of a node (`LocalDomain.prefixes`): `python lying_unit.py python -m daitn.cli.main join …`.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

import msgspec

from daitn.descriptors.work import EvaluateOutcome, EvaluateWork
from daitn.node.visit_worker import VisitWorker


def main() -> None:
    arguments = sys.argv[1:]
    honest = VisitWorker._evaluate

    async def evaluate(self: VisitWorker, order: Any, work: EvaluateWork) -> EvaluateOutcome:
        outcome = await honest(self, order, work)
        praised = tuple(msgspec.structs.replace(one, value=1.0, low=0.99, high=1.0) for one in outcome.measurements)
        return msgspec.structs.replace(outcome, measurements=praised)

    VisitWorker._evaluate = evaluate  # type: ignore[method-assign]
    sys.argv = ["daitn", *arguments[arguments.index("daitn.cli.main") + 1 :]]
    runpy.run_module("daitn.cli.main", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()

"""A model host that gives every number with its sign turned: `daitn` with one method replaced, run instead of it.

Put before the command of a node (`LocalDomain.prefixes`): `python lying_host.py python -m daitn.cli.main join …`.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

import msgspec

from daitn.node.serving.hosting import Hosting
from daitn.serving.tensors import arrays_of, tensors_of
from daitn.wire.queries import QueryAnswer, QueryRefused


def main() -> None:
    arguments = sys.argv[1:]
    honest = Hosting._said

    def said(self: Hosting, *asked: Any) -> QueryAnswer | QueryRefused:
        found = honest(self, *asked)
        if not isinstance(found, QueryAnswer):
            return found
        turned = {name: -array for name, array in arrays_of(found.outputs).items()}
        return msgspec.structs.replace(found, outputs=tensors_of(turned))

    Hosting._said = said  # type: ignore[method-assign,assignment]
    sys.argv = ["daitn", *arguments[arguments.index("daitn.cli.main") + 1 :]]
    runpy.run_module("daitn.cli.main", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()

"""What people may name nodes, data sets, models and folders: short, lower case, safe in paths and in keys."""

from __future__ import annotations

import re
from typing import Final

from daitn.base.errors import InputError

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is 1–63 of `a-z 0-9 . _ -` and starts with a letter or digit; InputError otherwise."""
    if _NAME.fullmatch(name) is None:
        raise InputError(
            f"{kind} name {name[:80]!r} is not allowed",
            todo="use 1 to 63 lower-case letters, digits, '.', '_' or '-', starting with a letter or digit",
        )
    return name

"""Put before a process as `sitecustomize`: its wall clock is off by what a file says, from the moment the file says so.

Only the clock that Python code reads moves; see `clocks`.
"""

import os
import time

_real_time, _real_time_ns = time.time, time.time_ns


def _offset() -> float:
    try:
        with open(os.environ["FAULTS_CLOCK"], encoding="ascii") as file:
            return float(file.read())
    except (OSError, KeyError, ValueError):
        return 0.0


def _time() -> float:
    return _real_time() + _offset()


def _time_ns() -> int:
    return _real_time_ns() + int(_offset() * 1e9)


if "FAULTS_CLOCK" in os.environ:
    time.time, time.time_ns = _time, _time_ns

"""Benchmarks: questions answered in numbers, beside a peer or a floor in the same run. They are not timed tests."""

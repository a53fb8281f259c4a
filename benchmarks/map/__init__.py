"""The benchmark of the map, one file for each part; `python -m benchmarks.map`."""

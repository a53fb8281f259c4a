"""What runs inside the peers' own environments; nothing here imports the package or the benchmarks."""

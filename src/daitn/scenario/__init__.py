"""A declarative network, workload and faults, read by both worlds: real processes and simulation."""

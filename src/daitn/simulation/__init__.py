"""The same cores in virtual time, with a seeded faulty network and invariants after every event."""

"""Models that the network knows itself: what it tries where an owner's own will not reach the goal (paper II-A (v))."""

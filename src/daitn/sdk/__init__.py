"""What a model owner's program sees: connect, train, watch, result."""

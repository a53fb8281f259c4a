"""The terminal layer: data node, compute node, aggregator, verification unit, as cores without I/O."""

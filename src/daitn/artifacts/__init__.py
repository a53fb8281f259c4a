"""Content-addressed chunks, manifests, the graph format and its checker, tensors, signatures."""

"""Serving in the real world: a host's replicas, and the gateway's door."""

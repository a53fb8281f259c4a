"""Engines: what runs a model at a host, each behind `serving.engine.Engine`."""

"""Frozen values that say what a thing is: contracts, data, compute, models, requests, plans, outcomes."""

"""Secure aggregation: masks that cancel in the sum, and shares of their seeds for when a site drops out.

K. Bonawitz et al., CCS 2017, the protocol against curious servers. `site` is one member, `opening` the aggregator;
`round_keys`, `shamir` and `ring` are what both stand on. No torch, no I/O.
"""

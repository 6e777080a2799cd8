"""Shipped for plugin authors: virtual time, contract suites, simulated networks."""

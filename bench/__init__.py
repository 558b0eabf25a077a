"""Kedge beside its peers: workloads, the peers that are installed, and a runner that prints ratios of one run.

A number from another machine or another day is no comparison: every peer runs here, now, in turns with Kedge.
"""

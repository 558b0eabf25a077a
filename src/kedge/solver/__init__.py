"""Turns the edge of a graph into a snapshot: cache keys, one run per vertex, laziness, and why a step was not cached.

Imports `kedge.model` only. Knows no operation, no store, no file: they come in as Protocols.
"""

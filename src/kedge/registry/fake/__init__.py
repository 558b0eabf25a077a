"""A registry in memory, on loopback, that can be told to misbehave: for tests, of Kedge and of what is built on it.

Owns enough of the distribution specification to push and pull, basic and token authorisation, a log of all requests,
and rules that bend its answers: cut, slow, lie, redirect, refuse. Never leaves 127.0.0.1. Does not check what it is
given beyond digests.
"""

from kedge.registry.fake.registry import FakeRegistry
from kedge.registry.fake.replies import Bend, Reply, Seen, answer, bend, header, redirect
from kedge.registry.fake.repositories import Contents

__all__ = ["Bend", "Contents", "FakeRegistry", "Reply", "Seen", "answer", "bend", "header", "redirect"]

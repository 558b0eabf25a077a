"""Bytes on the wire: the OCI distribution protocol 1.1, its authentication and its retries.

Owns requests and the checks on every answer. Does not know what an image looks like on disk, nor where credentials
are kept. `client.Registry` is what other packages use, `fake.FakeRegistry` what their tests use.
"""

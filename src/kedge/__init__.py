"""Kedge builds lean container images from multi-stage Dockerfiles, without a daemon.

This file is the whole public Python surface: what is not named here may change without notice.
"""

__version__ = "0.1.0"

"""Bytes on disk: blobs, layer stacks, merged trees, cached results, images by name, and what keeps them within bounds.

Imports model and kernel only. Knows no registry, no operation, and not what a cache key means. `store.Store` is the
entrance.
"""

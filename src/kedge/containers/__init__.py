"""From an image to a running container: what it runs, what it sees, its streams, its files.

Composition over `storage` and `sandbox`, used by `kedge run` and by the service alike. Does not know images by name,
command lines or HTTP.
"""

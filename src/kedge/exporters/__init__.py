"""What becomes of a built stage: an image in the store, an archive, files, or a push.

Owns configs and manifests of new images and every output format. Does not know the graph that made the files.
"""

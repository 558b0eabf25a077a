"""The service: Docker's clients drive Kedge through it.

Owns transport only: a codec onto `model` and a caller of `builder`. There is no second engine here. Needs the package
extra `serve`.
"""

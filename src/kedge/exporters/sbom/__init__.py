"""Software bills of materials: what package managers wrote into an image, as an SPDX 2.3 document.

Owns finding, reading and writing. Runs nothing of the image: every format is parsed here, in bounds. Does not know how
a document is attached (`attest`).
"""

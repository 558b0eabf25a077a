"""The values that cross package borders: frozen, standard library only, no input or output.

Imported by every other package; imports none of them. Nothing here opens a file, a socket or a clock.
"""

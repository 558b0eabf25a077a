"""What people do with images besides building them: find, inspect, tag, remove, load, import, save.

Functions over a store, each a command's whole work; the command line and the service call them. Does not know how
results are printed or sent.
"""

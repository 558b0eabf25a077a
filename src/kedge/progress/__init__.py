"""Events to screen: how a build looks while it runs.

Owns the four displays (`plain`, `tty`, `rawjson`, `quiet`) and the choice between them. Every display is a function
of the events it was given, of an injected clock and of a writer; nothing here knows how a build works.
"""

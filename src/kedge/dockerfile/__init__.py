"""The Dockerfile language: text in, values out. Pure functions; knows neither registries nor files.

`parser.parse` reads the text into nodes, `stages` types and groups them, `lower` turns a target into a graph, `lint`
gives advice. `words.expand` is the one place where quotes, escapes and variables mean anything.
"""

LANGUAGE = "1.24.0"  # the version of docker/dockerfile whose language is read

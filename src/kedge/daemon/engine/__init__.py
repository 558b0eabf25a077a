"""Docker's Engine API over HTTP/1.1, so that the `docker` command and its libraries drive Kedge.

Owns the codec: paths, queries and JSON onto `images`, `containers`, `builder`, and their answers back. Does not know
how anything is built, stored or run. Source: Docker's API reference, versions 1.24 to 1.50.
"""

#!/bin/sh
# Runs the Python that scripts/setup.sh prepared.
exec "$(dirname "$0")/../.venv/bin/python" "$@"

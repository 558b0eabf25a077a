"""`python -m kedge` is the command line."""

from kedge.cli import program

program()

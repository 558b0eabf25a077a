# Four commands are the whole interface. Each sets up what it needs and may be called again and again.
#
#   make demo    the walk of examples/hello-multi-stage, from base image to running program
#   make test    all tests
#   make lint    format, lint and type checks
#   make bench   Kedge beside its peers, where they are installed

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean docs

help:
	@sed -n 's/^#   //p' Makefile

demo:
	@sh scripts/setup.sh demo
	@sh scripts/python.sh scripts/demo.py

test:
	@sh scripts/setup.sh test
	@sh scripts/python.sh -m pytest -n auto --dist loadfile $(PYTEST)

lint:
	@sh scripts/setup.sh lint
	@sh scripts/python.sh -m ruff format --check src tests bench scripts examples
	@sh scripts/python.sh -m ruff check src tests bench scripts examples
	@sh scripts/python.sh -m mypy

bench:
	@sh scripts/setup.sh bench
	@sh scripts/python.sh -m bench $(BENCH)

docs:
	@sh scripts/setup.sh lint
	@sh scripts/python.sh scripts/reference.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache

# What people run. Everything works from a fresh checkout on Debian 12 or 13, as root.
PYTHON := .venv/bin/python
ARGS ?=
bench_args = $(if $(CELLS),--cells $(CELLS)) $(if $(MOVES),--moves $(MOVES)) $(if $(MODE),--mode $(MODE)) $(ARGS)

.PHONY: help setup demo test bench-freeze lint man clean
help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup:  ## install Debian packages, the virtual environment and the images
	@tools/setup

demo: setup  ## move a desktop ten times round the nodes of a lab, and show how that went
	@$(PYTHON) -m bench.demo $(ARGS)

test: setup  ## run every ring of tests
	@$(PYTHON) -m pytest $(ARGS)

bench-freeze: setup  ## measure freezes; CELLS=tick0,desktop MOVES=20 choose a part
	@$(PYTHON) -m bench.freeze $(bench_args)

lint:  ## check style and types
	@tools/setup --no-images
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

man:  ## write the manual pages into build/man
	@tools/setup --no-images
	@$(PYTHON) -m martlet.cli.man build/man

clean:  ## remove the virtual environment and what tests and programs left in the checkout
	rm -rf .venv build demo test-logs .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Each target first makes what it needs, and is quick when there is nothing to do.
PYTHON_IN = .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
ARGS =

.PHONY: help setup build demo test soak lint docs image bench-quick bench debug sanitize nightly dist clean

help:
	@echo "make demo         see an image pulled from node to node, with one node killed on the way"
	@echo "make test         all tests; ARGS='-k range' for some"
	@echo "make soak         clients, peers and stores that fail at random, for SECONDS=60"
	@echo "make lint         ruff, cython-lint, mypy, stubtest, import-linter, codespell"
	@echo "make bench-quick  the benches, short; make bench: in full"
	@echo "make image        the container image, as build/image/image.tar (root; buildah)"
	@echo "make docs         write what is generated in docs/ and deploy/"
	@echo "make debug        the tests with bounds checks and asyncio's debug mode"
	@echo "make sanitize     the tests of the native code under AddressSanitizer and UBSan"
	@echo "make nightly      10^7 fuzzed inputs, 10^5 connections that may leak nothing: 10 minutes or so"
	@echo "make build setup dist clean"

setup:
	@tools/venv.sh
	@for job in demo test bench; do tools/debian.sh $$job; done
	@tools/containerd-versions.sh || true

build:
	@tools/venv.sh
	@$(PYTHON_IN) setup.py -q build_ext --inplace

demo: build
	@tools/debian.sh demo
	@tools/containerd-versions.sh --list >/dev/null 2>&1 || tools/containerd-versions.sh --one >/dev/null 2>&1 || true
	@$(PYTHON_IN) -m demo $(ARGS)

test: build
	@tools/debian.sh test
	@tools/containerd-versions.sh || true
	$(PYTHON_IN) -m pytest $(ARGS)

soak: build
	SOAK_SECONDS=$(or $(SECONDS),60) $(PYTHON_IN) -m pytest tests/behaviour/test_soak.py $(ARGS)

lint: build
	tools/lint.sh

docs: build
	$(PYTHON_IN) -m tools.gendocs
	$(PYTHON_IN) -m tools.gendeploy

image:
	@tools/venv.sh
	@tools/image.sh

bench-quick: build
	@tools/debian.sh bench
	$(PYTHON_IN) -m benches.serve $(ARGS)

bench: build
	@tools/debian.sh bench
	$(PYTHON_IN) -m benches.serve --full $(ARGS)

debug:
	@tools/venv.sh
	tools/variant.sh debug $(ARGS)

sanitize:
	@tools/venv.sh
	tools/variant.sh sanitize tests/native tests/fuzz $(ARGS)

nightly: build
	$(PYTHON_IN) -m tests.fuzz $(ARGS)
	$(PYTHON_IN) -m tests.leaks

dist: build
	rm -rf dist
	$(PYTHON_IN) -m build --no-isolation

clean:
	rm -rf build dist src/*.egg-info src/fastmirror/_native/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache var

# The verbs of this repository. Each makes its own virtual environment in .venv, installs the package
# there in place (editable), and builds again only what has changed.
#
#   make demo     learn a task and show it, from a fresh clone
#   make test     Python tests on every instruction set of this machine, doctests, C tests
#   make asan     C tests under the address and undefined-behaviour sanitizers
#   make bench    against NumPy         make parity  against torch.nn, numbers only
#   make bench-peers   against other libraries, in environments of their own; hours, see ARGS
#   make lint     ruff, clang-format, compiler warnings, stubs
#   make format   ruff, clang-format    make dist    wheel and sdist in dist/      make clean
#   make build    only the install      make pictures   the ones that README shows
#
# PYTHON=python3.12 picks the interpreter (3.11 or newer), CC=clang the compiler, VENV the folder.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2

PY  := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q

# Words of one list of pyproject.toml, e.g. $(call listed,["build-system"]["requires"]).
listed = $$($(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1))')

# Whatever the extension module is made of. Python files need no build: the install is editable.
BUILT_FROM := setup.py pyproject.toml src/fastrnn/_version.py $(wildcard src/fastrnn/*.pyx \
              src/fastrnn/*.px[di] csrc/sources.mk csrc/*.[ch] csrc/include/*.h csrc/kernels/*.[ch])

build: $(VENV)/.built

# A Python without ensurepip (Debian without python3-venv) still makes an environment, and its own
# pip then puts one inside.
$(VENV)/.made: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' || \
	    { echo "make: the C headers of $(PYTHON) are missing (Debian, Ubuntu: python3-dev)" >&2; exit 1; }
	@command -v $(firstword $(CC)) >/dev/null || { echo "make: no C compiler $(CC) here; set CC=" >&2; exit 1; }
	@echo "make: environment in $(VENV), with $$($(PYTHON) -V)"
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	 else $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip -q --python $(PY) install pip; fi || \
	    { echo "make: cannot create $(VENV); install python3-venv or pip" >&2; exit 1; }
	@$(PIP) install $(call listed,["build-system"]["requires"])
	@touch $@

$(VENV)/.built: $(VENV)/.made $(BUILT_FROM)
	@echo "make: compiling and installing fastrnn"
	@$(PIP) install --no-build-isolation -e .
	@touch $@

# An extra of pyproject.toml, once: .extra-test, .extra-dev ...
$(VENV)/.extra-%: pyproject.toml $(VENV)/.made
	@$(PIP) install $(call listed,["project"]["optional-dependencies"]["$*"])
	@touch $@

demo: build
	@$(PY) -m fastrnn demo char-lm

# The pictures of README: the same figures give the same bytes.
PICTURES := memory lstm vanishing
pictures: build $(VENV)/.extra-plot
	@mkdir -p docs/pictures
	@for name in $(PICTURES); do \
	    echo "make: docs/pictures/$$name.svg"; \
	    $(PY) -m fastrnn demo $$name --plot docs/pictures/$$name.svg >/dev/null || exit; done

# The whole suite runs on the instruction set that the machine would use; the engine's tests run
# again on each of the others.
test: build $(VENV)/.extra-test
	@$(PY) -m pytest -q tests
	@$(PY) -m pytest -q --doctest-modules --pyargs fastrnn
	@others=$$($(PY) -c 'import fastrnn; c = fastrnn.show_config(); \
	    print(*(isa for isa in c["isa_available"] if isa != c["isa"]))') && \
	 for isa in $$others; do \
	    echo "make: engine tests with FASTRNN_ISA=$$isa"; \
	    FASTRNN_ISA=$$isa $(PY) -m pytest -q tests/engine || exit; done
	@$(MAKE) -s -j$(JOBS) -C csrc test

asan:
	@$(MAKE) -s -j$(JOBS) -C csrc asan

bench: build $(VENV)/.extra-bench
	@$(PY) bench/run.py

# ARGS="--grid small --peers torch,onnxruntime" and the like: bench/peers.py --help.
bench-peers: build
	@$(PY) bench/peers.py $(ARGS)

# Against torch.nn, in an environment of its own; ARGS=--full for every combination of options and sizes.
parity:
	@$(MAKE) -s VENV=.venv-parity .venv-parity/.built .venv-parity/.extra-test
	@.venv-parity/bin/python -m pip --disable-pip-version-check -q install torch==2.13.0
	@.venv-parity/bin/python -m pytest -q tests/parity $(ARGS)

C_FILES = $$(find csrc -name build -prune -o -name '*.[ch]' -print)

format: $(VENV)/.extra-dev
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format .
	@$(VENV)/bin/clang-format -i $(C_FILES)

lint: build $(VENV)/.extra-dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(VENV)/bin/clang-format --dry-run -Werror $(C_FILES)
	@$(MAKE) -s -C csrc warnings
	@$(PY) -m mypy.stubtest fastrnn._core

dist: build $(VENV)/.extra-dev
	@rm -rf dist src/*.egg-info && $(PY) -m build --no-isolation >/dev/null && ls -l dist

clean:
	rm -rf build dist $(VENV) src/*.egg-info src/fastrnn/_core.*.so
	@$(MAKE) -s -C csrc clean

.PHONY: build demo pictures test asan bench bench-peers parity format lint dist clean

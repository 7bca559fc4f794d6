# make demo   text from two PEs: on GPUs where there are two or more, else in the emulator
# make test   lint, types, and every test that this machine can run
# make lint   ruff and mypy alone
# make clean  takes away what the above made
#
# Everything is installed into $(VENV), once, and again when pyproject.toml changes. PYTHON is 3.11 or later.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
GPUS := $(shell nvidia-smi -L 2>/dev/null | grep -c ^GPU)
SOURCES := device launch scripts shmemtp tests
SPMD := tests/pes tests/gpu

ifneq ($(filter-out 0 1,$(GPUS)),)
DEMO_EXTRAS := mpi,gpu
DEMO_BACKEND := gpu
else
DEMO_EXTRAS := mpi
DEMO_BACKEND := emulator
endif

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(BIN)/python -m shmemtp.launch -n 2 shmemtp generate --model tiny --backend $(DEMO_BACKEND) \
	    --prompt shmemtp --max-new-tokens 400

# The SPMD suites run inside tests/test_spmd.py, under mpirun: one pytest run, and its last line tells of all tests.
# Two workers: half of the time goes to tests that keep one core busy.
test: lint
	$(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder tests $(SPMD:%=--ignore %)

lint: $(VENV)/.test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

$(VENV)/.demo: EXTRAS := $(DEMO_EXTRAS)
$(VENV)/.test: EXTRAS := mpi,gpu,test
$(VENV)/.demo $(VENV)/.test: pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	touch $@

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; \
	    sys.version_info >= (3, 11) or sys.exit(f"shmemtp needs Python 3.11 or later, and $(PYTHON) is {v}: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build shmemtp.egg-info .pytest_cache .mypy_cache .ruff_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

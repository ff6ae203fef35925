# make run         train, with overrides in ARGS:  make run ARGS="loss=brier optimizer=adam"
# make test        lint, types and every test that starts no process
# make test-processes the tests that do: commands, workers, kill -9, a browser, wheels
# make test-slow   the suite with all that takes long: files of 4 GiB, many examples of each property
# make test-extras the loggers, launchers, searches and devices that need packages of their own, which it installs; and
#                  scikit-learn's tests of LogisticRegression, on the estimator
# make test-crash  kill -9 at a hundred moments, and a disk that fails at every call
# make bench       times and memory, against other libraries
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# Bytecode stays for the next time whatever the environment says; pytest's takes each of its workers seconds to make.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test test-processes test-slow test-extras test-crash bench
run: .venv/installed
	@$(BIN)/python -m trainer activation=softmax loss=ce $(ARGS)

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto -m "not processes and not chromium"

test-processes: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto -m "processes or chromium"

test-slow: .venv/installed
	TRAINER_SLOW=1 $(BIN)/python -m pytest -s --ignore=tests/crash

test-extras: .venv/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement tests/extras.txt
	$(BIN)/python -m pytest tests/test_loggers.py tests/test_launchers.py tests/test_search.py tests/test_tensors.py
	$(BIN)/python -m pytest -W ignore --numprocesses auto tests/scikit_learn_logistic.py

test-crash: .venv/installed
	TRAINER_SLOW=1 $(BIN)/python -m pytest -s tests/crash

bench: .venv/installed
	$(BIN)/python benchmarks/value_and_grad.py
	$(BIN)/python benchmarks/time_to_optimum.py
	$(BIN)/python benchmarks/scaling.py

# The file is as old as the last installation, so nothing is installed again until the versions change.
.venv/installed: pyproject.toml requirements.txt
	@echo "Installing into .venv ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# make demo    a whole search on drawn images; on two idle cores 1:00 to install (once), a few minutes to run
# make test    all tests, on a PostgreSQL and an SQLite of their own
# make check   style, formatting and types
# make venv    the environment alone, in .venv; the other words make it where it is missing or out of date
# make sbom    what is installed in .venv, as a bill of materials (CycloneDX): sbom.json
# make clean   remove what these made
# Another interpreter: make venv PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
# Processes that run the tests; each starts a PostgreSQL of its own.
PROCESSES ?= 2
PACKAGES := search trainer models losses
SBOM_TOOL := cyclonedx-bom==7.5.0

# Small networks train fastest with one thread a process, and the demo runs two processes.
export OMP_NUM_THREADS := 1
# Hundreds of processes import the same sources: the first that needs one compiles it for all, whatever the shell says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check venv sbom clean

demo: venv
	$(BIN)/python -m search.commands.demo

test: venv
	$(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal --durations=25 $(PYTEST)

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)

# The tool has an environment of its own, so that the bill names none of its packages.
sbom: venv
	$(PYTHON) -m venv .venv/sbom
	.venv/sbom/bin/python -m pip install --quiet --disable-pip-version-check $(SBOM_TOOL)
	.venv/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json $(BIN)/python

venv: .venv/installed

# The stamp holds the seconds that the installation took.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); 3.11 or newer is needed: make venv PYTHON=python3.12" >&2; exit 2; }
	@set -e; start=$$(date +%s); \
	echo "installing torch and the rest into .venv (about 2 GB, several more where torch brings CUDA; some minutes)"; \
	$(PYTHON) -m venv .venv; \
	( while sleep 15 >/dev/null 2>&1 && kill -0 $$$$ 2>/dev/null; do \
	  echo "  $$(( $$(date +%s) - start )) s, $$(du -sh .venv | cut -f1) in .venv"; done ) & beat=$$!; \
	trap 'kill $$beat 2>/dev/null || true' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[smp,test]"; \
	echo $$(( $$(date +%s) - start )) > $@

clean:
	rm -rf .venv .demo sbom.json build kd_search.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# `make` says what there is. Everything runs in .venv, which the first target that needs it sets up with the versions
# in constraints.txt; a second call does not install again. Another Python: make demo PYTHON=/path/to/python3.12

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := $(shell sed -n 's/^min_python *= *3\.//p' settings.ini)
HIGHEST := $(shell sed -n 's/^max_python *= *3\.//p' settings.ini)
SUITS := import sys, venv, ensurepip; sys.exit(not (3, $(LOWEST)) <= sys.version_info[:2] <= (3, $(HIGHEST)))
NOTEBOOKS := nbs baselines experimental data/Download_Sets.ipynb

.DEFAULT_GOAL := help
.PHONY: help demo test torture lab dev export readme prepare

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | while IFS='|' read -r name text; do printf '  make %-9s %s\n' "$$name" "$$text"; done

demo: $(READY) ## train, predict, score and transfer on phantoms, no network and no GPU needed; ends with the path of a report
	@$(BIN)/fastseg demo

# One process per core, one thread each: most of a short notebook is imports, which no thread makes faster.
test: $(READY) ## run every test (make test ARGS='-k settings' for some)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

torture: $(READY) ## read thousands of damaged files, try senseless words and calls, kill hundreds of runs (N=500 KILLS=20 for fewer)
	@OMP_NUM_THREADS=1 FASTSEG_TORTURE=$(or $(N),2000) FASTSEG_KILLS=$(or $(KILLS),100) \
	  $(BIN)/python -m pytest tests/test_damage.py tests/test_verbs.py tests/test_kills.py -n auto --dist worksteal

lab: $(READY) ## open Jupyter on the notebooks
	@$(BIN)/jupyter lab

dev: $(READY) ## add the contributor's hooks: git merges notebooks cell by cell, Jupyter saves them clean
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nbdev_install_hooks

export: $(READY) ## notebooks -> fastseg/, and clean the notebooks
	@$(BIN)/nbdev_export
	@$(BIN)/python -c 'from nbdev.quarto import refresh_quarto_yml; refresh_quarto_yml()'
	@for o in $(NOTEBOOKS); do if [ -e "$$o" ]; then $(BIN)/nbdev_clean --fname "$$o"; fi; done

readme: $(READY) ## nbs/index.ipynb -> README.md
	@$(BIN)/jupyter nbconvert --config .ci/readme.json --output-dir .

prepare: export readme test ## before a commit: export, readme, test

# A .venv that is there and suits is kept, whoever made it; otherwise the first Python that suits makes one.
$(READY): settings.ini setup.py constraints.txt
	@$(BIN)/python -c '$(SUITS)' 2>/dev/null || { \
	  for p in "$(PYTHON)" python3.11 python3.12 python3.13 python3.10 python3 python; do \
	    if [ -n "$$p" ] && "$$p" -c '$(SUITS)' 2>/dev/null; then found="$$p"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "found $$(python3 --version 2>/dev/null || echo 'no Python'); expected Python 3.$(LOWEST) to 3.$(HIGHEST) with its venv module;" \
	      "install one (python.org; on Debian and Ubuntu also python3-venv) or say PYTHON=/path/to/python" >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$found" --version)" && "$$found" -m venv --clear $(VENV); }
	@echo "Installing fastseg and what it needs into $(VENV): once, some minutes and gigabytes (PyTorch is big)"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

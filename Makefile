# make            what there is
# make test ARGS='-k gae'   ARGS replaces the default arguments of demo and test

VENV := .venv
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

venv: ## make .venv with all packages; returns at once when it is there
	@scripts/setup_env.sh

# A finished run is never written over: a further demo gets a folder of its own.
demo: venv ## fine-tune in simulation and compare with the frozen base, into outputs/demo
	@if [ -e outputs/demo ]; then run=outputs/demo-$$(date +%Y%m%d-%H%M%S); else run=outputs/demo; fi; \
	exec $(VENV)/bin/residual-smolvla finetune $(or $(ARGS),sim:=true output:=$$run)

test: ## run the tests, two files at a time
	@scripts/setup_env.sh browser
	@$(VENV)/bin/python -m pytest $(or $(ARGS),--numprocesses=2 --dist=loadfile)

lint: venv ## check the style
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

clean: ## remove .venv and what builds and tests leave; runs in outputs/ stay
	rm -rf $(VENV) build install log *.egg-info */*.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

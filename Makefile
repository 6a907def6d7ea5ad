# Everything sets itself up: Python 3.10 or newer, make and git are enough. PYTHON=python3.12 chooses another one.
BIN := .venv/bin
ORCHESTRATORS := airflow jenkins prefect kfp
# The longest first, as three run at a time; all have `dev` first, or those that have not would go before.
SUITES := test-managed test-kubernetes $(ORCHESTRATORS:%=test-%) test-core test-installs test-docker \
	test-kfp-platform test-images
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help
help:                    ## show this
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

.PHONY: demo demo-containers demo-orchestrators
demo: core               ## three jobs on this machine: process, train, batch inference
	@examples/01-local/run.sh $(ARGS)

demo-containers: core    ## the same three jobs on Docker; ARGS="--param epochs=30", ARGS=kubernetes
	@tools/env.sh platforms
	@PATH=$(CURDIR)/.envs/platforms/bin:$$PATH examples/03-containers/run.sh $(ARGS)

demo-orchestrators: core ## the same three jobs in Airflow, KFP, Prefect and Jenkins; ARGS="kfp" for some, --changed for a change
	@python tools/demo $(ARGS)

.PHONY: services
services: core           ## a Docker engine, a Kubernetes cluster, a registry: what this machine lacks; ARGS=down ends what was started
	@python tools/services $(ARGS)

.PHONY: test test-core orchestrators lint
test: dev                ## every test there is, three suites at a time; at the end the tables of what each orchestrator keeps, and of what was skipped
	@for name in platforms $(ORCHESTRATORS); do tools/env.sh $$name || exit; done  # suites start programs of each other's
	@rm -rf build/skipped
	@$(MAKE) --no-print-directory --jobs=3 --output-sync $(SUITES)
	@python tests/behaviour.py
	@python tests/matrix.py
	@python tests/skipped.py

test-core: dev lint      ## the core's tests, and the local platform's; ARGS="-k name" for some
	@pytest $(ARGS)

test-installs: dev       # each extra, installed afresh with the newest versions, as a user gets it
	@pytest tests/installs $(ARGS)

test-images: dev         # builds, with a Docker engine and a registry of their own
	@pytest tests/images $(ARGS)

test-managed: dev        # the part of test-platforms that runs on stand-ins; SageMaker's own local mode beside its one
	@for name in platforms sagemaker-local; do tools/env.sh $$name || exit; done
	@.envs/platforms/bin/python -m pytest tests/platforms --ignore tests/platforms/docker --ignore tests/platforms/kubernetes $(ARGS)

test-kfp-platform: dev   # KFP as one, which can't be with the others: kfp bounds what Kubernetes' client may be
	@tools/env.sh kfp
	@.envs/kfp/bin/python -m pytest tests/platforms/kfp $(ARGS)

test-docker: dev         # and on a real dockerd
	@tools/env.sh platforms
	@.envs/platforms/bin/python -m pytest tests/platforms/docker $(ARGS)

test-kubernetes: dev     # and on a real cluster, what is given, kind's, or one of its own: the orchestrators' wrappers, too
	@for name in platforms stage; do tools/env.sh $$name || exit; done
	@eval "$$(python tools/services env kubernetes)" && .envs/platforms/bin/python -m pytest tests/platforms/kubernetes $(ARGS)

orchestrators: $(ORCHESTRATORS:%=test-%)     ## the tests of every orchestrator, each in its own environment

test-%: dev              # of one: test-airflow (-airflow-3.1, -airflow-3.2), test-jenkins, test-kfp, test-prefect; test-platforms
	@tools/env.sh $*
	@.envs/$*/bin/python -m pytest tests/$(firstword $(subst -, ,$*)) $(ARGS)

lint: dev                ## style, types, layers
	@ruff check --quiet .
	@ruff format --check --quiet .
	@mypy --no-error-summary
	@lint-imports --config pyproject.toml >build/layers.txt 2>&1 || { cat build/layers.txt; exit 1; }

.PHONY: bench bench-orchestrators bench-platforms chaos
bench: dev               ## speed, beside peers; writes bench/results.json
	@python bench/run.py $(ARGS)

bench-orchestrators: dev ## the same inside the orchestrators, its second part; writes bench/orchestrators.json
	@for name in bench-airflow $(ORCHESTRATORS); do tools/env.sh $$name; done
	@python bench/orchestrators.py $(ARGS)

bench-platforms: dev     ## waiting for runs on managed platforms, beside a question for each; writes bench/platforms.json
	@tools/env.sh platforms
	@.envs/platforms/bin/python bench/platforms.py $(ARGS)

chaos: dev               ## kill -9 at 200 random moments
	@python tools/chaos.py $(ARGS)

.PHONY: generated jenkins-library lock clean
generated: dev           ## write anew what is generated
	@python tools/generate.py

jenkins-library: core    ## the tree whose root Jenkins loads, in build/jenkins-library
	@mlctl jenkins library build/jenkins-library

lock: dev                ## resolve the locks anew
	@tools/lock.sh

clean:                   ## remove what was made here
	rm -rf .venv .envs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: core dev
core dev: | build
	@tools/setup.sh $@

build:
	@mkdir -p build

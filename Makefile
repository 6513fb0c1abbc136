# Everything a fresh machine needs is behind these targets; `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-brokers test-container docker docker-tools docker-engine docker-stop systemd-analyze check \
    bench bench-peers bench-demo bench-reliability chaos results results-quick \
    arm64 clean broker other-brokers

PYTHON ?= python3
DEMO_ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
# Where x86-64 Linux finds a torch without gigabytes of CUDA. Empty: do not ask there.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BROKERS ?= mosquitto rabbitmq nats amqtt
BROKER_REPORTS := runs/brokers
DOCKERD_LOG := runs/dockerd.log

VENV := .venv
STAMP := $(VENV)/.installed

# Debian keeps brokers in /usr/sbin, which is not on the PATH of an ordinary user.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'make demo DEMO_ARGS="--nodes 5"    make test PYTEST_ARGS="-m system -x"'

venv: $(STAMP) ## make the Python environment in .venv, or bring it up to date

demo: venv ## train a model on ten edge nodes, on this machine
	@$(VENV)/bin/midge demo $(DEMO_ARGS)

test: venv broker ## run every test, those with a real broker too
	$(VENV)/bin/pytest $(PYTEST_ARGS)

# One report for each; the page is made of all of them, also when a test failed.
test-brokers: venv broker other-brokers ## the system tests on Mosquitto, RabbitMQ, NATS, amqtt: 25 minutes
	@failed=; for name in $(BROKERS); do \
	    $(VENV)/bin/pytest tests/system/test_*.py tests/system/federation -m system --broker $$name \
	        --timeout 300 -rsxX --junitxml $(BROKER_REPORTS)/$$name.xml $(PYTEST_ARGS) || failed=1; \
	done; \
	$(VENV)/bin/python tests/tools/brokers_page.py $(BROKER_REPORTS) docs/brokers.md && test -z "$$failed"

# Not a line of docs/brokers.md: it is the same Mosquitto. Chaos has a broker of its own.
test-container: docker ## the system tests once more, on Mosquitto in a container
	$(VENV)/bin/pytest tests/system/test_*.py tests/system/federation -m system --broker container \
	    --ignore tests/system/federation/test_chaos.py --timeout 120 $(PYTEST_ARGS)

docker: venv broker docker-engine ## what the container tests need: an engine, started if need be, and images
	@if [ "$$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then \
	    root='sudo -n --preserve-env=PIP_FIND_LINKS,DOCKER_HOST'; else root=; fi; \
	set -x; $$root $(VENV)/bin/python tests/tools/images.py

check: venv ## format, lint, types and the fast tests
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -m "not system" $(PYTEST_ARGS)

bench: venv broker ## measure every row of docs/performance.md but the peers: half an hour
	$(VENV)/bin/python -m benchmarks.performance $(BENCH_ARGS)

bench-demo: venv broker ## measure the first demo, one result over two roads, sizes of processes
	$(VENV)/bin/python -m benchmarks.first_demo
	$(VENV)/bin/python -m benchmarks.one_result
	$(VENV)/bin/python -m benchmarks.sizes

# The peers of `make bench`, each in an environment of its own: they ask for other versions than Midge.
PEERS := $(foreach peer,pfl flwr,runs/peers/$(peer)/.installed)

bench-peers: venv broker $(PEERS) ## install pfl and Flower, 2.5 GB, and measure a round beside theirs: 15 minutes
	$(VENV)/bin/python -m benchmarks.performance --rows e

runs/peers/%/.installed: benchmarks/peers/%.txt
	@test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	@set -e; $(torch-index); $(@D)/bin/pip install -qq -r $< $$index
	@touch $@

bench-reliability: venv broker ## measure disk, bad links, restarts and slow nodes: a quarter of an hour
	$(VENV)/bin/python -m benchmarks.durability
	$(VENV)/bin/python -m benchmarks.slow_link
	$(VENV)/bin/python -m benchmarks.restart
	$(VENV)/bin/python -m benchmarks.asynchronous_pays

arm64: venv broker ## prove a node on arm64, by emulation; needs root, and ten minutes the first time
	@dpkg-query -W debootstrap qemu-user-static binfmt-support >/dev/null 2>&1 || { \
	    $(call install,make arm64,debootstrap qemu-user-static binfmt-support); }
	tests/tools/arm64_proof.sh

KILLS ?= 100
SEED ?= 1
# synchronous, buffered or asynchronous; empty: a third of the kills in each.
MODE ?=

chaos: venv broker ## kill, freeze and cut off real processes, then account for every update
	@$(VENV)/bin/python -m benchmarks.chaos --kills $(KILLS) --seed $(SEED) $(MODE:%=--mode %)

# One folder for all recipes: what two of them have in common is run once.
RECIPES := report best-in-15 mcmahan-iid mcmahan-non-iid iid-or-not learning-rate local-epochs \
    batch-size nodes benchmarks/report-variants.toml benchmarks/report-standardised.toml
RESULTS ?= runs/results

results: venv ## every figure of docs/results.md: hours; goes on where it was interrupted
	$(VENV)/bin/midge baseline --seeds 3 --out $(RESULTS)
	$(VENV)/bin/midge baseline --seeds 3 --per-label 4000 --out $(RESULTS)/per-label-4000
	for recipe in $(RECIPES); do $(VENV)/bin/midge sweep $$recipe --out $(RESULTS) || exit; done
	$(VENV)/bin/python -m benchmarks.report_run
	$(VENV)/bin/python -m benchmarks.results_page $(RESULTS)

results-quick: venv ## a taste of it in minutes: data report, baseline, one small sweep
	$(VENV)/bin/midge data report --out runs/quick/data
	$(VENV)/bin/midge baseline --epochs 3 --out runs/quick
	$(VENV)/bin/midge sweep quick --out runs/quick

clean: ## remove .venv, caches and build leftovers
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an install that was interrupted is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo 'Midge needs Python 3.11 or newer; name it with: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo 'Python cannot make an environment here; type: apt-get install python3-venv' >&2; exit 1; }
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@set -e; $(torch-index); \
	echo 'Installing into $(VENV): about 1.5 GB on disk, a minute or more.'; \
	$(VENV)/bin/pip install -qq -e '.[workbench,dev]' -c constraints.txt $$index
	@touch $@

# Tests start brokers of their own on free ports, so the service that the package starts is stopped.
broker:
	@command -v mosquitto >/dev/null || { $(call install,make test,mosquitto); \
	    if [ -d /run/systemd/system ]; then $$root systemctl disable --now mosquitto; \
	    else $$root service mosquitto stop || true; fi; }

# RabbitMQ, once it is installed, would start at once, and at every boot.
other-brokers:
	@command -v nats-server >/dev/null || { $(call install,make test-brokers,nats-server); \
	    if [ -d /run/systemd/system ]; then $$root systemctl disable --now nats-server; \
	    else $$root service nats-server stop || true; fi; }
	@command -v rabbitmq-server >/dev/null || { $(call install,make test-brokers,rabbitmq-server); \
	    if [ -d /run/systemd/system ]; then $$root systemctl disable rabbitmq-server; fi; }

# Since Debian 13 the command `docker` is a package of its own.
docker-tools:
	@command -v dockerd >/dev/null || { $(call install,make docker,docker.io); }
	@command -v docker >/dev/null || { $(call install,make docker,docker-cli); }
	@command -v docker-compose >/dev/null || { $(call install,make docker,docker-compose); }
	@command -v debootstrap >/dev/null || { $(call install,make docker,debootstrap); }
	@command -v ip >/dev/null || { $(call install,make docker,iproute2); }
	@command -v iptables >/dev/null || { $(call install,make docker,iptables); }

# With it the tests read the units in deploy/.
systemd-analyze:
	@command -v systemd-analyze >/dev/null || { $(call install,make systemd-analyze,systemd); }

# Without systemd the engine goes on when make has ended; make docker-stop ends it.
ANSWERS := timeout 30 docker version --format '{{.Server.Version}}'
docker-engine: docker-tools
	@if $(ANSWERS) >/dev/null 2>&1; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then root=; else root='sudo -n'; fi; \
	if [ -d /run/systemd/system ]; then $$root systemctl start docker && $(ANSWERS); exit; fi; \
	mkdir -p runs; echo 'Starting dockerd; its log is $(DOCKERD_LOG)'; \
	setsid $$root dockerd --log-level warn --group "$$(id -gn)" >$(DOCKERD_LOG) 2>&1 </dev/null & \
	deadline=$$(($$(date +%s) + 60)); \
	until $(ANSWERS) >/dev/null 2>&1; do \
	    if [ ! -d /proc/$$! ]; then failed='dockerd has ended'; \
	    elif [ "$$(date +%s)" -gt $$deadline ]; then failed='dockerd does not answer'; $$root kill $$!; \
	    else sleep 0.2; continue; fi; \
	    { echo "$$failed; the last that it wrote:"; tail -n 40 $(DOCKERD_LOG); exit 1; } >&2; \
	done

docker-stop:
	@if [ "$$(id -u)" = 0 ]; then root=; else root='sudo -n'; fi; \
	if [ -d /run/systemd/system ]; then $$root systemctl stop docker.socket docker; \
	else pid=$$(cat /var/run/docker.pid) && $$root kill $$pid && timeout 60 tail --pid=$$pid -f /dev/null; fi

# What it is for, and a package of Debian's.
# A failed update is no end: often it is some other source that does not answer.
define install
if ! command -v apt-get >/dev/null; then \
    echo '$(1) needs the package $(2): install it, then try again' >&2; exit 1; fi; \
if [ "$$(id -u)" = 0 ]; then root=; \
elif sudo -n true 2>/dev/null; then root='sudo -n'; \
else echo '$(1) needs a package; type: sudo apt-get install $(2)' >&2; exit 1; fi; \
set -ex; \
$$root apt-get update -qq || true; \
$$root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -qq --no-install-recommends $(2)
endef

# Options for pip, if a torch without CUDA can be had from there.
define torch-index
index=; \
if [ "$$(uname -sm)" = 'Linux x86_64' ] && [ -n '$(TORCH_INDEX)' ]; then \
    if timeout 3 $(PYTHON) -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1])' \
            '$(TORCH_INDEX)/torch/' >/dev/null 2>&1; then \
        index='--extra-index-url $(TORCH_INDEX)'; \
        echo 'torch: the CPU build, from $(TORCH_INDEX)'; \
    else \
        echo 'torch: no answer from $(TORCH_INDEX); taking what pip finds, maybe gigabytes with CUDA'; \
    fi; \
fi
endef

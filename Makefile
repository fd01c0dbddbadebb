# Every command here works from nothing on a fresh Debian 12, as root, and may be run again.
VENV := .venv
PYTHON := $(VENV)/bin/python
SUITES := tests/unit tests/store tests/netns tests/ui tests/lab tests/kernel tests/chaos tests/bench
QUICK_SUITES := tests/unit tests/store tests/netns tests/ui
# What they wait for is rarely a processor: tests/support/lanes.py says who runs what.
WORKERS := 5

.PHONY: help plugin demo demo-down test test-fast test-ranges test-arm64 lock check bench mutants chaos lab lab-down packages clean \
	lock-base page-libraries release verify-release check-reproducible fuzz

help:
	@echo "make plugin     build/docker-linkwire: the CLI plugin as one file; put it into ~/.docker/cli-plugins"
	@echo "make demo       a three-node Swarm on this machine, with links that carry traffic, and the proof"
	@echo "make demo-down  takes it away again"
	@echo "make test       every suite: unit, store, netns, lab, kernel, chaos (short); WORKERS=5 at once"
	@echo "make test-fast  unit, store, netns and ui, without the slowest: what needs neither a Swarm nor QEMU"
	@echo "make test-ranges  unit and store suites with the oldest and newest libraries that pyproject.toml allows"
	@echo "make test-arm64  unit and store suites on arm64's Debian, Python and etcd, by QEMU; TESTS=tests/unit/mesh for a part"
	@echo "make lock       renews requirements/*.txt, the versions and hashes that everything is installed from"
	@echo "make lock-base  renews requirements/debian-*.txt, the Debian packages of a release's image"
	@echo "make page-libraries  renews the page's JavaScript from deploy/ui/package-lock.json, by hash"
	@echo "make release VERSION=... KEY=FILE  build/release/VERSION: plugin, wheel, image, SBOMs, signed with your minisign key;"
	@echo "                ARCH=\"amd64 arm64\" for both processors"
	@echo "make verify-release DIR=... PUBKEY=FILE  its signature and every file"
	@echo "make check-reproducible  makes a release's files twice and compares them"
	@echo "make fuzz       fuzzes what strangers write, FUZZ=60 seconds for each target, and saves what is new"
	@echo "make check      ruff, mypy --strict, import-linter"
	@echo "make mutants    takes defences away one at a time: a test must notice each"
	@echo "make chaos      the long chaos run"
	@echo "make bench      measurements, side by side in one run"
	@echo "make lab        a Swarm to play in (python -m tests.lab run n1 -- docker node ls); make lab-down ends it"

packages:
	@deploy/bootstrap.sh lab kernel release

# What is installed is what requirements/*.txt say, by hash, whatever the registry serves today.
PIP_INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps

$(VENV)/ready: pyproject.toml requirements/build.txt requirements/test.txt | packages
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || python3 -m venv $(VENV)
	@echo "installing the project into $(VENV)"
	@$(PIP_INSTALL) --require-hashes -r requirements/build.txt
	@$(PIP_INSTALL) --require-hashes --no-build-isolation -r requirements/test.txt
	@# compat: a line of a path, for a finder whose imports take half of the start of every Python here.
	@$(PIP_INSTALL) --no-build-isolation --no-index --config-settings editable_mode=compat --editable .
	@touch $@

build/lock/ready: requirements/lock.txt
	@build/lock/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv build/lock
	@build/lock/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/lock.txt
	@touch $@

# Needs no more of the machine than Python: an operator's has neither the lab's programs nor a pip that may install.
plugin:
	@deploy/bootstrap.sh plugin
	@build/plugin/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv build/plugin
	@build/plugin/bin/python deploy/plugin/make.py build/docker-linkwire
	@echo "made build/docker-linkwire: install -D build/docker-linkwire ~/.docker/cli-plugins/docker-linkwire"

lock: build/lock/ready
	deploy/lock.sh build/lock/bin/python

page-libraries:
	deploy/ui/vendor.sh

# ARCH has Debian's names of processors, by default this machine's: one for lock-base, "amd64 arm64" for a release of both.
lock-base release: export ARCH := $(ARCH)
EMULATION := $(if $(filter arm64,$(ARCH)),deploy/emulate-arm64.sh)

lock-base: | packages
	@$(if $(EMULATION),deploy/bootstrap.sh arm64)
	$(EMULATION) deploy/release/lock-base.sh

build/release-python/ready: requirements/build.txt
	@deploy/bootstrap.sh release
	@build/release-python/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv build/release-python
	@build/release-python/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/build.txt
	@touch $@

# Docker builds the image: DOCKER_HOST says which, by default this machine's.
release: build/release-python/ready
	@$(if $(EMULATION),deploy/bootstrap.sh arm64)
	@$(EMULATION) build/release-python/bin/python deploy/release/make.py "$(VERSION)" "$(KEY)" "build/release/$(VERSION)"

verify-release:
	@deploy/release/verify.sh "$(DIR)" "$(PUBKEY)" $(VERSION)

check-reproducible: build/release-python/ready
	@deploy/release/check-reproducible.sh build/release-python/bin/python

test-ranges: build/lock/ready | packages
	deploy/test-ranges.sh build/lock/bin/python

# OPTIONS are pytest's.
test-arm64: build/release-python/ready
	@deploy/bootstrap.sh arm64
	@TESTS="$(TESTS)" deploy/emulate-arm64.sh deploy/test-arm64.sh build/release-python/bin/python $(OPTIONS)

demo: $(VENV)/ready
	$(PYTHON) -m tests.demo up

demo-down: $(VENV)/ready
	$(PYTHON) -m tests.demo down

# Whatever the shell says: without bytecode each of the thousands of programs that a run starts compiles the project again.
test test-fast mutants chaos bench: export PYTHONDONTWRITEBYTECODE :=
COMPILE := $(PYTHON) -m compileall -q -j 0 mesh controller agent compose_ext tests

test: $(VENV)/ready
	@deploy/bootstrap.sh resolvers metrics ui
	@$(COMPILE)
	$(PYTHON) -m pytest -n $(WORKERS) --durations=20 --durations-min=20 $(SUITES)

test-fast: $(VENV)/ready
	@deploy/bootstrap.sh resolvers metrics ui
	@$(COMPILE)
	$(PYTHON) -m pytest -n $(WORKERS) --without-slow --durations=5 --durations-min=10 $(QUICK_SUITES)

check: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

mutants: $(VENV)/ready
	$(PYTHON) -m tests.mutants

# SOAK=7200: seconds of each of the soak's three parts, which come last.
chaos: $(VENV)/ready
	LINKWIRE_IDLE_S=1020 LINKWIRE_KILLS=20 LINKWIRE_SILENT_PEERS_S=600 LINKWIRE_POOL_CYCLES=500 LINKWIRE_ROUGH_ROUNDS=300 \
		$(PYTHON) -m pytest -s --timeout 2400 tests/netns/test_idle_connections.py tests/netns/test_dead_ends.py tests/netns/test_userspace.py \
		tests/unit/controller/test_pool_cycles.py tests/netns/test_invalid_packets.py
	LINKWIRE_CHAOS=long LINKWIRE_UPGRADE_LONG=1 LINKWIRE_SOAK_S=$(or $(SOAK),7200) $(PYTHON) -m pytest -s \
		tests/chaos/test_kills.py tests/unit/model tests/netns/test_linkkeys.py \
		tests/netns/test_adapter_faults.py tests/store/test_adapter_faults.py tests/netns/test_overlay_mtu.py \
		tests/netns/test_crowded_node.py tests/netns/test_many_handshakes.py tests/netns/test_host_traffic.py tests/bench/test_burst.py \
		tests/lab/test_linkkeys.py tests/lab/test_false_alarms.py tests/lab/test_explain.py tests/lab/test_fault_table.py tests/lab/test_prometheus.py \
		tests/lab/test_worst_labels.py tests/lab/test_upgrade.py tests/lab/test_upgrade_code.py \
		tests/lab/test_slow_docker.py tests/lab/test_holder.py tests/lab/test_host_traffic.py \
		tests/lab/test_etcd_nodes.py tests/lab/test_backup.py tests/lab/test_node_encryption.py tests/lab/test_plain_packets.py tests/store/test_etcd_cluster.py \
		tests/store/test_controller_failover.py tests/store/test_controller_clocks.py tests/lab/test_controller_failover.py \
		tests/lab/test_engines.py tests/lab/test_docker_folders.py tests/lab/test_clocks.py \
		tests/lab/test_lifecycle.py::test_stack_is_removed_and_deployed_at_once \
		tests/lab/test_faults.py tests/lab/test_revoke.py tests/lab/test_forgery.py \
		tests/kernel/test_kernel.py::test_self_test_and_netns_suite_pass_in_guest \
		tests/kernel/test_kernel.py::test_long_form_of_guest_tests_passes \
		tests/netns/test_soak.py tests/chaos/test_soak.py

build/fuzz/ready: requirements/fuzz.txt requirements/build.txt
	@deploy/bootstrap.sh plugin
	@build/fuzz/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv build/fuzz
	@build/fuzz/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/build.txt
	@build/fuzz/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --require-hashes \
		-r requirements/fuzz.txt
	@touch $@

# FUZZ=60: seconds for each target. What is new is saved in tests/fuzz/corpus: commit it.
fuzz: build/fuzz/ready
	build/fuzz/bin/python -m tests.fuzz $(or $(FUZZ),60) $(TARGETS)

bench: $(VENV)/ready
	$(PYTHON) -m tests.bench

lab: $(VENV)/ready
	$(PYTHON) -m tests.lab up
	$(PYTHON) -m tests.lab images

lab-down: $(VENV)/ready
	$(PYTHON) -m tests.lab down

clean:
	rm -rf $(VENV) build

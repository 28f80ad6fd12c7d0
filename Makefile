# Everything is done in a virtual environment of the project's own; nothing is installed outside.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
KVM    ?= auto
GUESTS ?= tests/guest
JUNIT  ?= junit.xml
LAB_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint lab lab-guests bench bench-linux fuzz hostile screenshots payloads clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# One stamp for each set of dependencies: the demo needs no test tools.
SOURCES := pyproject.toml setup.py $(wildcard kvm_bindings/_fastrun*.[cp]*)
PIP     := $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(VENV)/.base: $(SOURCES)
	@test -x $(BIN)/python || { echo "making $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "installing glassvm ..."
	@$(PIP) --config-settings editable_mode=compat --editable .
	@touch $@

$(VENV)/.%: $(VENV)/.base
	@echo "installing what 'make $*' needs ..."
	@$(PIP) --config-settings editable_mode=compat --editable '.[$*]'
	@touch $@

demo: $(VENV)/.base ## boot a real-mode and a long-mode guest, with a table of their exits
	@$(BIN)/python examples/demo.py

test: $(VENV)/.test ## every test that this machine can run; KVM=require makes a missing KVM an error
	@$(BIN)/python -m pytest -q --kvm=$(KVM) --junitxml=$(JUNIT)

lint: $(VENV)/.lint ## ruff, mypy --strict on the packages, the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lab: $(VENV)/.base ## the KVM tests on an emulated AMD-V host (needs QEMU, no KVM)
	$(BIN)/python -m vmm.lab --package seabios --package grub-common --package grub-pc-bin --package mtools --package gdb \
		--silence 150 --retries 2 $(LAB_ARGS)

# Whole guests: Debian on a disk, with the programs that tests run in it, and kernels of other ages.
DEBIAN  := build/debian
KERNELS := $(addprefix build/kernels/,bullseye.vmlinuz bookworm-backports.vmlinuz \
	bookworm-686.vmlinuz bookworm-686-pae.vmlinuz busybox-i386)

$(DEBIAN).toml: $(VENV)/.base
	@mkdir -p $(@D)
	$(BIN)/python -m vmm image debian $(DEBIAN).img --size 500M \
		$(addprefix --package ,rng-tools-debian iputils-ping socat curl)

$(KERNELS) &: tests/guest/fetch_kernels.py | $(VENV)/.base
	$(BIN)/python $< $(dir $@)

# On one processor, which costs a sixth: QEMU's AMD-V is not sound where two interrupt each other.
lab-guests: $(DEBIAN).toml $(KERNELS) ## whole Linux guests, with disks and networks, on the emulated host
	$(BIN)/python -m vmm.lab --package lz4 --package zstd --package e2fsprogs --package passt --package qemu-system-common \
		$(addprefix --file ,$(addprefix $(DEBIAN).,img vmlinuz initrd toml) $(KERNELS)) \
		--cpus 1 --timeout 3000 --silence 450 --retries 1 $(LAB_ARGS) -- \
		python3 -m pytest -q $(GUESTS) --kvm=require --durations=10 --junitxml=/results/junit-guests.xml

bench: $(VENV)/.base ## measure beside a C monitor and QEMU; JSON is kept in bench-results/
	$(BIN)/python tests/bench/run.py

bench-linux: $(VENV)/.base ## Linux's boot, disk and network beside QEMU's microvm, in the lab
	$(BIN)/python -m vmm.lab --package qemu-system-x86 --timeout 3000 --silence 450 --retries 1 -- \
		python3 tests/bench/linux.py $(BENCH_ARGS)

fuzz: $(VENV)/.fuzz ## longer fuzzing of loaders and devices with atheris (SECONDS_EACH=60)
	$(BIN)/python tests/fuzz/run.py $(SECONDS_EACH)

hostile: $(VENV)/.test ## a guest attacks every virtio device for minutes (GLASSVM_HOSTILE_SECONDS=120 a run)
	GLASSVM_HOSTILE_SECONDS=$${GLASSVM_HOSTILE_SECONDS:-120} $(BIN)/python -m pytest -q -s --kvm=require \
		tests/kvm/test_virtio_hostile.py

screenshots: $(VENV)/.base ## make the pictures of the screen in docs/screenshots (needs KVM and seabios)
	$(BIN)/python docs/make_screenshots.py

payloads: $(VENV)/.base ## assemble the built-in guests again
	$(BIN)/python -m firmware.payloads.build

clean: ## remove what was built here (not the lab's cache)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

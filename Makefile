# Makefile: the few words to type. Meson and Ninja do the work; `make help` lists the words.
BUILD ?= build
FUZZ_TIME ?= 60
PREFIX ?= /usr/local
MESON_ARGS ?=
TEST_ARGS ?=
JOBS ?= $(shell nproc)
NINJA = ninja -C $(BUILD) -j $(JOBS)

.PHONY: all setup build run test bench check sanitize coverage fuzz format install clean help

all: build ## install what is missing and build (the default)

setup: ## install the packages that the build needs
	@tools/setup

build: setup
	@[ -f $(BUILD)/build.ninja ] || meson setup $(BUILD) --prefix $(PREFIX) $(MESON_ARGS)
	@$(NINJA)

# The set-up comes first and by itself: tools/first-run is Python, which it may have to install.
run: ## set up, build, pull debian:mini and boot it to a shell
	@start=$$(date +%s); tools/setup && \
		BUILD=$(BUILD) SETUP_SECONDS=$$(($$(date +%s) - start)) tools/first-run

# Optional tools come before the build, which has to find them.
test: ## all tests: unit, fuzz seeds, system
	@tools/setup --test --reconfigure $(BUILD) || \
		echo "test: going on without what is missing; its tests say SKIP or are left out"
	@$(MAKE) --no-print-directory build
	@tests/run --build $(BUILD) --jobs $(JOBS) $(TEST_ARGS)

bench: ## Lodge beside its peers: figures as JSON and SVG
	@tools/setup --test --reconfigure $(BUILD) || echo "bench: going on without what is missing"
	@$(MAKE) --no-print-directory build
	@$(BUILD)/src/cli/lodge image show debian:mini >/dev/null 2>&1 || $(BUILD)/src/cli/lodge image pull debian:mini
	@bench/run --build $(BUILD)
	@bench/disk --build $(BUILD) --caches none --quick
	@LODGE_BUILD=$(BUILD) bench/migrate --rates 0,100,400
	@LODGE_BUILD=$(BUILD) bench/update
	@LODGE_BUILD=$(BUILD) bench/announce

check: build ## the rules of the house: tools/check and its own tests
	@tools/check --build $(BUILD)
	@tools/check-selftest
	@tests/run-selftest

sanitize: setup ## unit and fuzz tests under ASan and UBSan, in build-asan
	@[ -f build-asan/build.ninja ] || \
		meson setup build-asan -Db_sanitize=address,undefined -Db_lundef=false $(MESON_ARGS)
	@ninja -C build-asan -j $(JOBS)
	@tests/run --build build-asan --jobs $(JOBS) --suite unit,fuzz

coverage: setup ## what only one engine reaches above the seam: nothing without a reason
	@tools/coverage --jobs $(JOBS)

fuzz: ## every libFuzzer target for FUZZ_TIME seconds (60), in build-fuzz
	@tools/setup --test
	@[ -f build-fuzz/build.ninja ] || \
		CC=clang meson setup build-fuzz -Dfuzz=true -Db_lundef=false $(MESON_ARGS)
	@ninja -C build-fuzz -j $(JOBS)
	@tests/fuzz/run --build build-fuzz --time $(FUZZ_TIME) --jobs $(JOBS) $(TARGETS)

format: ## clang-format over the tree
	@tools/check --fix-format

install: build ## into PREFIX (/usr/local), below DESTDIR where one is given
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild

clean: ## remove the build folders
	rm -rf $(BUILD) build-asan build-fuzz build-clang build-cov

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'Variables: BUILD=build JOBS=N FUZZ_TIME=60 TARGETS="err ..." PREFIX DESTDIR MESON_ARGS '
	@echo '           TEST_ARGS="--suite unit mmu" (tests/run --help)'

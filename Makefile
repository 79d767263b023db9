# SPDX-License-Identifier: BSD-2-Clause
# `make help` lists the targets.

CARGO ?= cargo

# Two of these at once would wait for each other's lock: apt-get's or cargo's.
.NOTPARALLEL:

PREFIX ?= /usr/local
DESTDIR ?=
SYSCONFDIR ?= /etc
LOCALSTATEDIR ?= /var
# What `make install` installs as /usr/bin/simpleimage.
BINARY ?= target/release/simpleimage

BINDIR = $(PREFIX)/bin
MANDIR = $(PREFIX)/share/man
EXAMPLEDIR = $(PREFIX)/share/doc/ganeti-instance-simpleimage/examples
CONFDIR = $(SYSCONFDIR)/ganeti/instance-simpleimage
CACHEDIR = $(LOCALSTATEDIR)/cache/ganeti-instance-simpleimage
# Ganeti on Debian looks for operating systems in /usr/share, but not in /usr/local/share. The OS scripts are relative
# symlinks to BINDIR, so that another OSDIR has to lie as deep below PREFIX as these two do.
OSDIR ?= $(PREFIX)/$(if $(filter /usr/local,$(PREFIX)),lib,share)/ganeti/os

# Debian packages, by what needs them. `make setup` installs those that are missing.
BUILD_NEEDS = gcc libc6-dev libclang-dev
RUN_NEEDS = debianutils qemu-utils util-linux
TEST_NEEDS = btrfs-progs busybox bzip2 cloud-init dash dosfstools e2fsprogs extlinux fdisk ganeti ganeti-3.0 gdisk genisoimage \
	gpg gpg-agent gpgconf gpgv gzip iproute2 lbzip2 mmdebstrap mount mtools nginx pbzip2 qemu-system-x86 strace tinyproxy \
	xfsprogs xz-utils zip zsh zstd
LINT_NEEDS = mandoc shellcheck
FUZZ_NEEDS = g++
DEB_NEEDS = debhelper dpkg-dev lintian
BENCH_NEEDS = bmap-tools bzip2 curl e2fsprogs gzip isal lbzip2 mount xz-utils zstd

# What `make bench` measures: the cases by name (all when empty), runs of each contender, size of the disk in the image
# and of the files in it.
CASES ?=
RUNS ?= 5
BENCH_SIZE ?= 4G
BENCH_DATA ?= 1G

# What `make fuzz` gives to each target: seconds, or executions where they are given; TARGETS by name, all when empty.
SECONDS ?= 60
EXECUTIONS ?=
TARGETS ?=

# Recursive: looked up only when a recipe asks.
SHELL_SCRIPTS = $(shell grep --recursive --files-with-matches --exclude='*.rs' --exclude='*.md' \
	--exclude-dir=target --exclude-dir=corpus --extended-regexp '^\#! ?/(usr/)?bin/(env )?(ba|da)?sh' \
	.ci debian demo example-hooks fuzz src tests 2>/dev/null)
MAN_PAGES = $(wildcard man/*.[1-8])
EXAMPLE_VARIANTS = $(wildcard example-variants/*)
EXAMPLE_HOOKS = $(filter-out %.md %.sh,$(wildcard example-hooks/*))

# Installs those of the packages $(1) that are missing; when none is, it needs neither root nor the network.
define install-missing
@missing=; \
for package in $(1); do \
	status=$$(dpkg-query --show --showformat='$${db:Status-Status}' "$$package" 2>/dev/null) || :; \
	[ "$$status" = installed ] || missing="$$missing $$package"; \
done; \
[ -n "$$missing" ] || exit 0; \
if [ "$$(id -u)" -ne 0 ]; then \
	echo "make: missing Debian packages; as root, run: apt-get install$$missing" >&2; \
	exit 1; \
fi; \
echo "installing:$$missing"; \
export DEBIAN_FRONTEND=noninteractive; \
apt-get update --quiet=2 && \
apt-get install --quiet=2 --yes --no-install-recommends --option Dpkg::Use-Pty=0 $$missing </dev/null
endef

.PHONY: all
all: build ## The same as build

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: setup-build setup-test ## Install the Debian packages that building, running and testing need (as root)

.PHONY: setup-build
setup-build: ## Install the Debian packages that building needs (as root)
	$(call install-missing,$(BUILD_NEEDS))

.PHONY: setup-test
setup-test:
	$(call install-missing,$(RUN_NEEDS) $(TEST_NEEDS))

.PHONY: setup-lint
setup-lint: setup-build
	$(call install-missing,$(LINT_NEEDS))
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || \
		rustup component add clippy rustfmt

.PHONY: build
build: ## Build the provider: target/release/simpleimage
	$(CARGO) build --release --locked

.PHONY: demo
demo: setup build ## Install two disks over HTTP and prove every byte of them (as root)
	demo/run $(BINARY)

.PHONY: terminal
terminal: setup build ## Capture docs/terminal.md anew, from real runs (as root)
	$(call install-missing,tmux)
	demo/terminal $(BINARY)

.PHONY: test
test: setup ## Run every test, those against a real Ganeti included (as root)
	$(CARGO) test --locked

.PHONY: test-unit
test-unit: ## Run the tests that stand beside the code
	$(CARGO) test --locked --lib --bins

.PHONY: test-it
test-it: setup ## Run the scripts against real disks, tools and servers (as root)
	$(CARGO) test --locked --test it

.PHONY: test-ganeti
test-ganeti: setup ## Run the tests against a real Ganeti (as root)
	$(CARGO) test --locked --test ganeti

.PHONY: test-boot
test-boot: setup ## Install a real Debian, boot it, and compare what it got (as root)
	$(CARGO) test --locked --test boot

.PHONY: setup-bench
setup-bench: setup-build
	$(call install-missing,$(RUN_NEEDS) $(BENCH_NEEDS))

.PHONY: bench
bench: setup-bench ## Measure the provider against other ways, as root; CASES="raw gz" RUNS=3 for some of it
	$(CARGO) bench --locked --bench install -- --runs $(RUNS) --size $(BENCH_SIZE) --data $(BENCH_DATA) $(CASES)

.PHONY: setup-fuzz
setup-fuzz: setup-build
	$(call install-missing,$(FUZZ_NEEDS))

.PHONY: fuzz
fuzz: setup-fuzz ## Give any bytes to every parser; SECONDS=600 or EXECUTIONS=1000000 for each, TARGETS="gpt url"
	CARGO=$(CARGO) fuzz/run $(if $(EXECUTIONS),--executions $(EXECUTIONS) --seconds 0,--seconds $(SECONDS)) $(TARGETS)

# From the same seed and as far on any machine, but for slow targets: a change should not fail over what it has nothing to
# do with. What time brings to light is for `make fuzz`.
.PHONY: fuzz-short
fuzz-short: setup-fuzz ## The same for at most 5 seconds each, as CI does it
	CARGO=$(CARGO) fuzz/run --executions 100000 --seconds 5 --seed 1

.PHONY: lint
lint: setup-lint ## Check formatting, lints, shell scripts and man pages
	$(CARGO) fmt --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	$(if $(SHELL_SCRIPTS),shellcheck $(SHELL_SCRIPTS))
	$(if $(MAN_PAGES),mandoc -T lint -W warning $(MAN_PAGES))

.PHONY: install
install: ## Install the built provider; DESTDIR= and PREFIX= (/usr/local) are honoured
	@test -x '$(BINARY)' || { echo 'make: $(BINARY) is missing; run make build first' >&2; exit 1; }
	install -d -m 0755 '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(OSDIR)/simpleimage' '$(DESTDIR)$(CONFDIR)/default' \
		'$(DESTDIR)$(EXAMPLEDIR)/variants'
	install -d -m 0700 '$(DESTDIR)$(CACHEDIR)'
	install -m 0755 '$(BINARY)' '$(DESTDIR)$(BINDIR)/simpleimage'
	cp --no-dereference --remove-destination os-scripts/create os-scripts/export os-scripts/import os-scripts/rename \
		os-scripts/verify '$(DESTDIR)$(OSDIR)/simpleimage/'
	install -m 0644 os-scripts/ganeti_api_version os-scripts/parameters.list '$(DESTDIR)$(OSDIR)/simpleimage/'
	ln -sfn '$(CONFDIR)/variants.list' '$(DESTDIR)$(OSDIR)/simpleimage/variants.list'
	test -e '$(DESTDIR)$(CONFDIR)/variants.list' || install -m 0644 variants.list '$(DESTDIR)$(CONFDIR)/variants.list'
	$(foreach page,$(MAN_PAGES),install -D -m 0644 $(page) \
		'$(DESTDIR)$(MANDIR)/man$(patsubst .%,%,$(suffix $(page)))/$(notdir $(page))' &&) :
	install -m 0755 $(EXAMPLE_HOOKS) '$(DESTDIR)$(EXAMPLEDIR)/'
	install -m 0644 example-hooks/README.md example-hooks/guest-root.sh '$(DESTDIR)$(EXAMPLEDIR)/'
	install -m 0644 $(EXAMPLE_VARIANTS) '$(DESTDIR)$(EXAMPLEDIR)/variants/'

# Where the package is built, and where it is found then.
DEB_DIR ?= target/deb

.PHONY: setup-deb
setup-deb: setup-build
	$(call install-missing,$(DEB_NEEDS))

# All crates are put beside the source first; the build itself fetches nothing.
.PHONY: deb
deb: setup-deb ## Build the Debian package: target/deb/*.deb
	rm -rf '$(DEB_DIR)'
	mkdir -p '$(DEB_DIR)/source'
	git ls-files -z | xargs -0 cp --parents --no-dereference --preserve=mode --target-directory='$(DEB_DIR)/source'
	$(CARGO) vendor --quiet --locked --versioned-dirs '$(DEB_DIR)/source/vendor' >/dev/null
	cd '$(DEB_DIR)/source' && dpkg-buildpackage --build=binary --no-sign
	lintian --fail-on=error,warning --no-tag-display-limit --info '$(DEB_DIR)'/*.changes

# Not in `make test`: it builds the package twice and a Debian, ten minutes in all.
.PHONY: test-deb
test-deb: deb ## Build the package twice, compare, and try it on a bare Debian with Ganeti (as root)
	$(call install-missing,mmdebstrap)
	$(MAKE) deb DEB_DIR='$(abspath $(DEB_DIR))-again'
	cmp '$(DEB_DIR)'/*.deb '$(DEB_DIR)-again'/*.deb
	tests/package/run '$(DEB_DIR)'/*.deb

.PHONY: clean
clean: ## Remove what was built
	$(CARGO) clean
	$(CARGO) clean --manifest-path fuzz/Cargo.toml

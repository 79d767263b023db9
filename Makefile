# SPDX-License-Identifier: BSD-2-Clause
# `make help` lists the targets.

# tools/cargo runs the first cargo that is new enough. It tries CARGO=/path/to/cargo first.
export CARGO ?= cargo
FIND_CARGO = tools/cargo
# Runs a command in the Debian root of the tests, which has all tools. Commands in there change nothing on this machine.
INSIDE = tools/inside
TARGET = $(or $(CARGO_TARGET_DIR),target)

# Targets do not run in parallel, because they would wait for the lock of apt-get or of cargo.
.NOTPARALLEL:

PREFIX ?= /usr/local
DESTDIR ?=
SYSCONFDIR ?= /etc
LOCALSTATEDIR ?= /var
# The binary that `make install` installs.
BINARY ?= $(TARGET)/release/simpleimage

BINDIR = $(PREFIX)/bin
MANDIR = $(PREFIX)/share/man
EXAMPLEDIR = $(PREFIX)/share/doc/ganeti-instance-simpleimage/examples
CONFDIR = $(SYSCONFDIR)/ganeti/instance-simpleimage
CACHEDIR = $(LOCALSTATEDIR)/cache/ganeti-instance-simpleimage
# Ganeti on Debian looks for operating systems in /usr/share, but not in /usr/local/share. The OS scripts are relative
# symlinks to BINDIR, so that another OSDIR has to lie as deep below PREFIX as these two do.
OSDIR ?= $(PREFIX)/$(if $(filter /usr/local,$(PREFIX)),lib,share)/ganeti/os

# The programs and libraries that building needs, and those that the demo needs too. tools/needs tries each of them and
# installs those that are missing.
BUILD_NEEDS = cargo cc libclang libssl certificates
DEMO_NEEDS = busybox debugfs ip mkfs.ext4 qemu-img run-parts sfdisk unshare xz

# For `make bench`: the names of the cases (all if empty), the runs of each contender, the size of the disk in the image,
# and the size of the files on it.
CASES ?=
RUNS ?= 5
BENCH_SIZE ?= 4G
BENCH_DATA ?= 1G

# For `make fuzz`: how many seconds each target runs, or how many executions; the names of the targets (all if empty).
SECONDS ?= 60
EXECUTIONS ?=
TARGETS ?=

# `=` and not `:=`, so that make searches only if a recipe needs the list.
SHELL_SCRIPTS = $(shell grep --recursive --files-with-matches --exclude='*.rs' --exclude='*.md' \
	--exclude-dir=target --exclude-dir=corpus --extended-regexp '^\#! ?/(usr/)?bin/(env )?(ba|da)?sh' \
	.ci debian demo example-hooks fuzz os-scripts src tests tools 2>/dev/null)
MAN_PAGES = $(wildcard man/*.[1-8])
EXAMPLE_VARIANTS = $(wildcard example-variants/*)
EXAMPLE_HOOKS = $(filter-out %.md %.sh,$(wildcard example-hooks/*))

.PHONY: all
all: build ## The same as build

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what building needs and this machine lacks, from Debian (as root)
	@tools/needs $(BUILD_NEEDS)

.PHONY: build
build: setup ## Build the provider: target/release/simpleimage
	$(FIND_CARGO) build --release --locked

.PHONY: demo
demo: build ## Install two disks over HTTP and prove every byte of them (as root)
	@tools/needs $(DEMO_NEEDS)
	demo/run $(BINARY)

.PHONY: terminal
terminal: build ## Capture docs/terminal.md anew, from real runs (as root)
	$(INSIDE) demo/terminal $(BINARY)

# Tests have no network, so this downloads what they need.
.PHONY: test-downloads
test-downloads:
	$(INSIDE) --network cargo test --locked --test it --test boot --test node fetched_first

.PHONY: test
test: test-downloads ## Run every test, those against a real Ganeti included (as root)
	$(INSIDE) cargo test --locked --no-fail-fast

.PHONY: test-unit
test-unit: setup ## Run the tests that stand beside the code
	$(FIND_CARGO) test --locked --lib --bins

.PHONY: test-it
test-it: test-downloads ## Run the scripts against real disks, tools and servers (as root)
	$(INSIDE) cargo test --locked --test it

.PHONY: test-attacks
test-attacks: ## Try every way out of each kind of confined process (as root)
	$(INSIDE) cargo test --locked --test attacks

.PHONY: test-ganeti
test-ganeti: ## Run the tests against a real Ganeti (as root)
	$(INSIDE) cargo test --locked --test ganeti

.PHONY: test-boot
test-boot: test-downloads ## Install a real Debian, boot it, and compare what it got (as root)
	$(INSIDE) cargo test --locked --test boot

.PHONY: test-node
test-node: test-downloads ## Boot a node in qemu with device mapper, md and nbd, and try the scripts in there (as root)
	$(INSIDE) cargo test --locked --test node

.PHONY: test-fresh
test-fresh: ## Run the README's commands on fresh Debian machines: FRESH="bare newer-qemu next" (as root)
	tests/fresh/run $(FRESH)

.PHONY: bench
bench: ## Measure the provider against other ways, as root; CASES="raw gz" RUNS=3 for some of it
	$(INSIDE) cargo bench --locked --bench install -- --runs $(RUNS) --size $(BENCH_SIZE) --data $(BENCH_DATA) $(CASES)

.PHONY: fuzz
fuzz: ## Give any bytes to every parser; SECONDS=600 or EXECUTIONS=1000000 for each, TARGETS="gpt url" (as root)
	$(INSIDE) fuzz/run $(if $(EXECUTIONS),--executions $(EXECUTIONS) --seconds 0,--seconds $(SECONDS)) $(TARGETS)

# The seed is fixed and so is the number of executions, so that it does not fail because of an input that has nothing to do
# with the change. `make fuzz` searches for longer.
.PHONY: fuzz-short
fuzz-short: ## The same for at most 5 seconds each, before a commit (as root)
	$(INSIDE) fuzz/run --executions 100000 --seconds 5 --seed 1

.PHONY: lint
lint: ## Check formatting, lints, shell scripts and man pages (as root)
	$(INSIDE) make --no-print-directory lint-inside

.PHONY: lint-inside
lint-inside:
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --locked --quiet --no-deps --workspace --document-private-items
	$(if $(SHELL_SCRIPTS),shellcheck $(SHELL_SCRIPTS))
	$(if $(MAN_PAGES),mandoc -T lint -W warning $(MAN_PAGES))

# The folders of completions. Debian's zsh has another folder for packages than for /usr/local, and its fish looks below
# /usr/local only if XDG_DATA_DIRS contains it.
BASHDIR = $(PREFIX)/share/bash-completion/completions
FISHDIR = $(if $(filter /usr/local,$(PREFIX)),$(SYSCONFDIR)/fish/completions,$(PREFIX)/share/fish/vendor_completions.d)
ZSHDIR = $(PREFIX)/share/zsh/$(if $(filter /usr/local,$(PREFIX)),site-functions,vendor-completions)
# The folder of systemd's units; empty installs none. An administrator turns the timer on by
# `systemctl enable --now simpleimage-prune.timer`.
UNITDIR ?= $(PREFIX)/lib/systemd/system
UNITS = simpleimage-prune.service simpleimage-prune.timer

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
	DPKG_ROOT='$(DESTDIR)' CONFDIR='$(CONFDIR)' OSDIR='$(OSDIR)' os-scripts/keep-variants
	ln -sfn '$(CONFDIR)/variants.list' '$(DESTDIR)$(OSDIR)/simpleimage/variants.list'
	test -e '$(DESTDIR)$(CONFDIR)/variants.list' || install -m 0644 variants.list '$(DESTDIR)$(CONFDIR)/variants.list'
	$(foreach page,$(MAN_PAGES),install -D -m 0644 $(page) \
		'$(DESTDIR)$(MANDIR)/man$(patsubst .%,%,$(suffix $(page)))/$(notdir $(page))' &&) :
	install -m 0755 $(EXAMPLE_HOOKS) '$(DESTDIR)$(EXAMPLEDIR)/'
	install -m 0644 example-hooks/README.md example-hooks/guest-root.sh '$(DESTDIR)$(EXAMPLEDIR)/'
	install -m 0644 $(EXAMPLE_VARIANTS) '$(DESTDIR)$(EXAMPLEDIR)/variants/'
	install -D -m 0644 completions/simpleimage.bash '$(DESTDIR)$(BASHDIR)/simpleimage'
	install -D -m 0644 completions/simpleimage.fish '$(DESTDIR)$(FISHDIR)/simpleimage.fish'
	install -D -m 0644 completions/_simpleimage '$(DESTDIR)$(ZSHDIR)/_simpleimage'
	$(if $(UNITDIR),$(foreach unit,$(UNITS),install -D -m 0644 debian/ganeti-instance-simpleimage.$(unit) \
		'$(DESTDIR)$(UNITDIR)/$(unit)' && sed -i -e 's,/usr/bin/,$(BINDIR)/,' \
		-e 's,/var/cache/ganeti-instance-simpleimage,$(CACHEDIR),' '$(DESTDIR)$(UNITDIR)/$(unit)' &&) :)

# Removes only files that install has put there, by name. The list of variants stays if the administrator has changed it,
# or if there is another installation that uses it (the package's, beside one in /usr/local).
.PHONY: uninstall
uninstall: ## Remove what install put there; what was changed, other configuration and kept images stay
	rm -f '$(DESTDIR)$(BINDIR)/simpleimage' '$(DESTDIR)$(BASHDIR)/simpleimage' \
		'$(DESTDIR)$(FISHDIR)/simpleimage.fish' '$(DESTDIR)$(ZSHDIR)/_simpleimage'
	$(if $(UNITDIR),rm -f $(UNITS:%='$(DESTDIR)$(UNITDIR)/%'))
	rm -f $(foreach name,variants.list $(filter-out keep-variants,$(notdir $(wildcard os-scripts/*))),'$(DESTDIR)$(OSDIR)/simpleimage/$(name)')
	rm -f $(foreach page,$(MAN_PAGES),'$(DESTDIR)$(MANDIR)/man$(patsubst .%,%,$(suffix $(page)))/$(notdir $(page))')
	rm -f $(foreach name,README.md guest-root.sh $(notdir $(EXAMPLE_HOOKS)),'$(DESTDIR)$(EXAMPLEDIR)/$(name)') \
		$(foreach name,$(notdir $(EXAMPLE_VARIANTS)),'$(DESTDIR)$(EXAMPLEDIR)/variants/$(name)')
	@remove() { [ ! -d "$$1" ] || rmdir --ignore-fail-on-non-empty "$$1"; }; \
	for folder in '$(OSDIR)/simpleimage' '$(EXAMPLEDIR)/variants' '$(EXAMPLEDIR)' '$(patsubst %/,%,$(dir $(EXAMPLEDIR)))'; do \
		remove '$(DESTDIR)'"$$folder"; \
	done; \
	others=$$(ls -d '$(DESTDIR)/usr/share/ganeti/os/simpleimage' '$(DESTDIR)/usr/local/lib/ganeti/os/simpleimage' 2>/dev/null); \
	if [ -z "$$others" ] && cmp -s variants.list '$(DESTDIR)$(CONFDIR)/variants.list'; then \
		rm -f '$(DESTDIR)$(CONFDIR)/variants.list'; \
	fi; \
	for folder in '$(DESTDIR)$(CONFDIR)/default' '$(DESTDIR)$(CONFDIR)' '$(DESTDIR)$(CACHEDIR)'; do remove "$$folder"; done; \
	for folder in '$(DESTDIR)$(CONFDIR)' '$(DESTDIR)$(CACHEDIR)'; do \
		[ ! -d "$$folder" ] || echo "kept: $$folder"; \
	done

# The folder in which the package is built.
DEB_DIR ?= $(TARGET)/deb

# Copies all crates beside the source first, so that the build itself downloads nothing.
.PHONY: deb
deb: ## Build the Debian package: target/deb/*.deb (as root)
	rm -rf '$(DEB_DIR)'
	mkdir -p '$(DEB_DIR)/source'
	git ls-files -z | xargs -0 cp --parents --no-dereference --preserve=mode --target-directory='$(DEB_DIR)/source'
	$(INSIDE) make --no-print-directory deb-inside DEB_DIR='$(DEB_DIR)'

.PHONY: deb-inside
deb-inside:
	cargo vendor --quiet --locked --versioned-dirs '$(DEB_DIR)/source/vendor' >/dev/null
	cd '$(DEB_DIR)/source' && dpkg-buildpackage --build=binary --no-sign
	lintian --fail-on=error,warning --no-tag-display-limit --info '$(DEB_DIR)'/*.changes

# Not part of `make test`, because it takes ten minutes.
.PHONY: test-deb
test-deb: deb ## Build the package twice, compare, and try it on a bare Debian with Ganeti (as root)
	$(MAKE) deb DEB_DIR='$(DEB_DIR)-again'
	cmp '$(DEB_DIR)'/*.deb '$(DEB_DIR)-again'/*.deb
	$(INSIDE) --network tests/package/run '$(DEB_DIR)'/*.deb

.PHONY: clean
clean: ## Remove what was built
	rm -rf --one-file-system '$(TARGET)' fuzz/target

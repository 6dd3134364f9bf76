# Each task is one line with its help; the steps behind them stand below.

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PYTHON311 ?= python3.11
PY := $(VENV)/bin/python
# An environment for each file of requirements/, and the tests in it.
FRAMEWORKS := torch-jax tensorflow mxnet boosting
# Other versions of JAX, for the tests of its adapter with a loss of each family.
OLDER_JAX := jax-oldest jax-middle
OF_EACH_FAMILY := not Loss or HuberLoss or KLDivLoss or SDMLLoss or CTCLoss
PEERS := .venv-torch-jax
# MARK=slow has every loss compiled by torch's inductor.
MARK ?= not slow
RECORDS := for name in $(PEERS) .venv-tensorflow .venv-mxnet; do $$name/bin/python benches/invalid_ctc.py || exit; done; $(PEERS)/bin/python benches/sure_model.py
# The oldest NumPy that the wheel takes, and the newest one.
SMOKE := smoke-oldest smoke-newest
NUMPY_oldest := numpy==1.23.5
NUMPY_newest := numpy
# A warning is an error, but all of them are shown first.
SPHINX := .venv-docs/bin/python -m sphinx -b html -j auto --fail-on-warning --quiet
# Libraries that are not installed are printed as missing, so the plain environment will do.
MEASURE := $(if $(wildcard $(PEERS)),$(PEERS),$(VENV))

help:                                   ## list the tasks
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "make %-16s %s\n", $$1, $$2}'

build: $(VENV)/.installed               ## make .venv and install the release wheel in it
quick: quick-build                      ## put a quickly built extension module into python/rustloss, for work on the code
demo: build; $(PY) examples/digits.py && $(PY) examples/digit_strips.py ## train two readers of digits, pictures in demo-output/
test: test-rust test-python             ## run the Rust and Python tests
test-loss: named build; $(PY) -m pytest --loss "$(NAME)" ## run the tests about one loss: NAME=HuberLoss
quick-loss: named quick; PYTHONPATH=python $(PY) -m pytest --loss "$(NAME)" ## run them on the quick build, while the loss is worked on
test-slow: slow-rust slow-python        ## run the long tests: dense sampling, large inputs
test-frameworks: $(FRAMEWORKS:%=with-%) $(OLDER_JAX:%=with-%) ## run the tests of the adapters, and compare with the frameworks (needs CPython 3.11)
lint: lint-rust lint-python             ## check format, style, types, stubs and documentation
fmt: fmt-rust fmt-python                ## format Rust and Python
bench: bench-rust bench-python          ## time the kernels, and the wheel beside other libraries
readme: $(VENV)/.requirements; $(PY) benches/readme.py ## render recorded measurements into README, docs/speed.md and the chart
wheel: audited-wheel $(SMOKE)           ## make the sdist and from it a manylinux2014 wheel, audit them, try it with two versions of NumPy
docs: .venv-docs/.installed; $(SPHINX) docs dist/docs ## build the site in dist/docs
records: $(PEERS)/.installed .venv-tensorflow/.installed .venv-mxnet/.installed; $(RECORDS) ## record the answers to invalid calls, and the losses of sure models
accuracy: $(MEASURE)/.installed; $(MEASURE)/bin/python benches/accuracy.py ## measure the worst error of every loss, in ulp
bits: build; $(PY) tests/bits.py record target/bits.txt ## hash every output, to compare two builds bit by bit
licenses:; $(PYTHON) tests/licenses.py --write ## renew THIRD-PARTY-LICENSES.txt from Cargo.lock
lock: relock                            ## renew requirements/{dev,docs,wheel}.txt from pyproject.toml
clean:; cargo clean; rm -rf .venv* dist demo-output docs/gallery docs/losses .*_cache .hypothesis ## remove all that was made

# The wheel: maturin builds the cdylib alone, which is what makes link-time optimisation take place.
SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find src python -name __pycache__ -prune -o -print)

$(VENV)/.installed: $(VENV)/.requirements $(VENV)/.wheel
	$(call install-wheel,$(VENV))

$(VENV)/.wheel: $(VENV)/.requirements $(SOURCES)
	rm -rf $(VENV)/wheels
	$(PY) -m maturin build --release --locked --interpreter $(PY) --out $(VENV)/wheels
	touch $@

$(VENV)/.requirements: requirements/dev.txt
	$(call install-lock,$(VENV),$<,$(PYTHON))

$(FRAMEWORKS:%=.venv-%/.requirements) $(OLDER_JAX:%=.venv-%/.requirements) .venv-docs/.requirements .venv-wheel/.requirements: .venv-%/.requirements: requirements/%.txt
	$(call install-lock,.venv-$*,$<,$(PYTHON311))

$(FRAMEWORKS:%=.venv-%/.installed) $(OLDER_JAX:%=.venv-%/.installed) .venv-docs/.installed: %/.installed: %/.requirements $(VENV)/.wheel
	$(call install-wheel,$*)

# $(1) environment, $(2) list of exact versions, $(3) interpreter
define install-lock
	@$(3) -c '' || { echo "$(1) needs CPython $(if $(filter $(PYTHON311),$(3)),3.11,>= 3.11)"; exit 1; }
	test -x $(1)/bin/python || $(3) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check -r $(2)
	touch $(1)/.requirements
endef

define install-wheel
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps $(VENV)/wheels/*.whl
	touch $(1)/.installed
endef

# Two instruction sets instead of three, and no optimisation across the whole crate.
quick-build: export PYO3_PYTHON = $(abspath $(PY))
quick-build: $(VENV)/.requirements
	cargo rustc --locked --profile quick --features python --lib --crate-type cdylib -- --cfg rustloss_two_levels
	cp target/quick/librustloss.so python/rustloss/_core.abi3.so

named:
	@test -n "$(NAME)" || { echo 'usage: make $(MAKECMDGOALS) NAME=HuberLoss'; exit 1; }

test-rust:
	cargo test --locked

test-python: build
	$(PY) -m pytest

slow-rust:
	cargo test --locked --release -- --include-ignored

slow-python: build
	$(PY) -m pytest -m slow --timeout 1800

$(FRAMEWORKS:%=with-%): with-%: .venv-%/.installed
	.venv-$*/bin/python -m pytest -m '$(MARK)' tests/frameworks/$*

$(OLDER_JAX:%=with-%): with-%: .venv-%/.installed
	.venv-$*/bin/python -m pytest -m '$(MARK)' -k '$(OF_EACH_FAMILY)' tests/frameworks/torch-jax/test_jax_*.py

lint-rust: export PYO3_PYTHON = $(abspath $(PY))
lint-rust: $(VENV)/.requirements
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets --features python -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --features python
	$(PY) tests/structure.py
	$(PY) tests/licenses.py

lint-python: build
	$(PY) -m ruff format --check
	$(PY) -m ruff check
	$(PY) -m mypy
	$(PY) -m mypy.stubtest --mypy-config-file pyproject.toml rustloss._core

fmt-rust:
	cargo fmt

fmt-python: $(VENV)/.requirements
	$(PY) -m ruff format
	$(PY) -m ruff check --fix

bench-rust:
	cargo bench --locked

bench-python: $(MEASURE)/.installed
	$(MEASURE)/bin/python benches/peers.py --record
	$(MEASURE)/bin/python benches/scaling.py --record

# maturin looks for zig as it does for a linker: on the path.
audited-wheel: export PATH := $(abspath .venv-wheel/bin):$(PATH)
audited-wheel: .venv-wheel/.requirements
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	zizmor --offline --quiet .github/workflows
	rm -rf dist/wheels
	CARGO_PROFILE_RELEASE_STRIP=none maturin build --release --locked --sdist --zig --compatibility manylinux2014 --interpreter python --out dist/wheels
	python tests/instructions.py dist/wheels/*.whl
	sh .ci/strip-wheels dist/wheels
	twine check --strict dist/wheels/*
	check-wheel-contents dist/wheels
	abi3audit --strict dist/wheels/*.whl

$(SMOKE): smoke-%: audited-wheel
	$(PYTHON311) -m venv --clear .venv-$@
	.venv-$@/bin/python -m pip install --quiet --disable-pip-version-check pytest $(NUMPY_$*) dist/wheels/*.whl
	.venv-$@/bin/python -m pytest -c tests/smoke/pytest.ini tests/smoke

relock: relock-dev relock-docs relock-wheel

relock-dev relock-docs relock-wheel: relock-%:
	$(PYTHON311) -m venv --clear $(VENV)-lock-$*
	$(VENV)-lock-$*/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-lock-$*/bin/python -m pip install --quiet --group $*
	{ echo '# Made by `make lock` from [dependency-groups] $* in pyproject.toml.'; $(VENV)-lock-$*/bin/python -m pip freeze; } > requirements/$*.txt
	rm -rf $(VENV)-lock-$*

.PHONY: help build demo test test-loss test-slow test-frameworks lint fmt bench readme records wheel docs licenses accuracy bits lock clean \
	test-rust test-python slow-rust slow-python $(FRAMEWORKS:%=with-%) $(OLDER_JAX:%=with-%) lint-rust lint-python \
	quick quick-build quick-loss named fmt-rust fmt-python bench-rust bench-python audited-wheel $(SMOKE) relock relock-dev relock-docs relock-wheel

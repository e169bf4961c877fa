# `make demo` and `make test` need Python 3.11 or newer and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
# torchvision needs a torch of its own version, which is far larger than the one of $(VENV)
VISION := $(VENV)-torchvision
# apart as well: OpenVINO and NNCF bring much that most tests are better without
OPENVINO := $(VENV)-openvino
SOURCES := $(shell find ntre_deploy export kernels runtimes/web/src -type f -not -name '*.pyc') pyproject.toml README.md LICENSE

.PHONY: demo test test-torchvision test-openvino test-cpp-asan web dist lint format clean

demo: $(VENV)/.installed
	$(BIN)/ntre demo --out demo_out

# with JOBS=N, so many processes take file after file; a second thread in each would only be in the way
test: $(VENV)/.installed
	$(if $(JOBS),OMP_NUM_THREADS=1 )$(BIN)/pytest $(if $(JOBS),-n $(JOBS) --dist loadfile)

test-torchvision: $(VISION)/.installed
	$(abspath $(VISION))/bin/pytest -m torchvision

test-openvino: $(OPENVINO)/.installed
	$(if $(JOBS),OMP_NUM_THREADS=1 )$(abspath $(OPENVINO))/bin/pytest -m openvino $(if $(JOBS),-n $(JOBS) --dist loadfile)

# all tests of runtimes/cpp on a library with AddressSanitizer and UBSan; Python has to load the sanitizer before it, and
# leaks at its own end
test-cpp-asan: $(VENV)/.installed
	NTRE_CPP_OPTIONS="-DNTRE_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo" \
	ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	$(BIN)/pytest tests/cpp --ignore tests/cpp/test_checked.py --ignore tests/cpp/test_pixels.py \
	--deselect tests/cpp/test_abi.py::test_the_library_without_an_engine_is_small

# the npm packages of runtimes/web, at the versions of its lock file: its tests are skipped without them
web: runtimes/web/node_modules/.installed

runtimes/web/node_modules/.installed: runtimes/web/package.json runtimes/web/package-lock.json
	cd runtimes/web && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

# what would be published; `build` makes the wheel of the sdist
dist: $(VENV)/.installed
	rm -rf dist build $(VENV)-dist
	$(BIN)/python -P -m build --outdir dist .
	rm -rf build *.egg-info
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(VENV)-dist
	$(abspath $(VENV)-dist)/bin/pip install --quiet --disable-pip-version-check "$$(ls dist/*.whl)[cpu]"
	cd dist && $(abspath $(VENV)-dist)/bin/ntre --version && $(abspath $(VENV)-dist)/bin/ntre doctor

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# from elsewhere, so that the installed wheel is what is checked
	cd $(VENV) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p ntre_deploy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.dependencies: EXTRAS := cpu,export,photos,video,heic,sign,supervision,studio,serve,triton,ray,trt-rtx,docs,dev
# for its `tritonserver` alone, whose Python backend reads arrays of NumPy 1: that one gets a folder of its own
$(VENV)/.dependencies: TRITON := nvidia-pytriton==0.7.0
$(VENV)/.dependencies: NUMPY1 := numpy==1.26.4
$(VENV)/.dependencies: CONSTRAINTS := constraints.txt
$(OPENVINO)/.dependencies: EXTRAS := cpu,export,photos,video,openvino,int8,trt-rtx,dev
$(OPENVINO)/.dependencies: CONSTRAINTS := constraints.txt
$(VISION)/.dependencies: EXTRAS := cpu,export,photos,train,dev
$(VISION)/.dependencies: CONSTRAINTS := constraints-torchvision.txt

$(VENV)/.dependencies $(VISION)/.dependencies $(OPENVINO)/.dependencies: %/.dependencies: pyproject.toml constraints.txt constraints-torchvision.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $*
	$(abspath $*)/bin/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) '.[$(EXTRAS)]'
	$(if $(TRITON),$(abspath $*)/bin/pip install --quiet --disable-pip-version-check --no-deps $(TRITON))
	$(if $(NUMPY1),$(abspath $*)/bin/pip install --quiet --disable-pip-version-check --no-deps --target $*/numpy1 $(NUMPY1) \
		|| echo "no NumPy 1 for this Python: the tests of Triton's server are skipped")
	touch $@

# setuptools would pack what an earlier build left behind
$(VENV)/.installed $(VISION)/.installed $(OPENVINO)/.installed: %/.installed: %/.dependencies $(SOURCES)
	rm -rf build
	$(abspath $*)/bin/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	rm -rf build
	touch $@

clean:
	rm -rf $(VENV) $(VISION) $(OPENVINO) $(VENV)-dist build dist demo_out *.egg-info runtimes/web/node_modules runtimes/web/types

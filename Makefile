# Both targets make their environment when it is not there. Python 3.11 or newer; PYTHON=python3.12 picks another.
PYTHON ?= python3
VENV ?= .venv

.PHONY: quickstart test browser gpu drills clusters wheel image-test versions notebooks paper audit lint format

quickstart: $(VENV)/.installed
	$(VENV)/bin/sweeper run search_spaces/quickstart.yaml --new

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -m "not drill and not browser and not gpu and not images" --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The front's page in headless Chromium. Chromium is the system's: playwright's own is not downloaded.
browser: $(VENV)/.installed-browser
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null \
		|| { echo "make browser needs Chromium: on Debian, apt-get install chromium"; exit 1; }
	$(VENV)/bin/python -m pytest -m browser $(ARGS)

# On a machine with a GPU, in about ten minutes and without network: installs nothing, runs on PYTHON as it is. WHEELS
# names a folder of wheels for packages that it lacks; the results go to benchmarks/results/gpu.md.
gpu:
	$(PYTHON) -m tests.gpu $(if $(WHEELS),--wheels $(WHEELS)) $(ARGS)

# Whole sweeps, killed and disturbed at random moments: hours. ARGS="--list" names them; docs/durability.md has results.
drills: $(VENV)/.installed-dev
	$(if $(ARGS),,$(VENV)/bin/python -m pytest -m drill)
	$(VENV)/bin/python -m tests.drills $(ARGS)

# Real clusters on this machine, for root: Slurm, Ray nodes in network namespaces, an S3 server, MLflow on PostgreSQL. ARGS
# names one of them: preemption, nodes, sharing, bucket, mlflow.
clusters: $(VENV)/.installed-clusters
	$(VENV)/bin/python -m tests.clusters $(ARGS)

# The wheel runs the quickstart in a fresh environment outside the clone; installs from the registry, some minutes.
wheel: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.release.wheel

# Both images of docker/Dockerfile are built and run sweeps (docker, podman or buildah; 25 GB, half an hour), then the commands
# of docker/compose.yaml as plain processes (PostgreSQL). BASE names another base image, ARGS="--only cpu" makes one image.
image-test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.release.image $(if $(BASE),--base $(BASE)) $(ARGS)
	$(VENV)/bin/python -m pytest -m images -p no:randomly tests/docker

# Tests and a small sweep with the oldest and newest versions that pyproject.toml allows; docs/versions.md has results.
versions: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.release.versions $(ARGS)

# The notebooks of examples/, executed from top to bottom with their sweeps and written with their outputs; ARGS="attribute"
# makes one of them.
notebooks: $(VENV)/.installed-notebooks
	$(VENV)/bin/python examples/execute.py $(ARGS)

# The paper's Table 1 and the real typographic sets, from downloaded sets (DATA, a folder) and weights (WEIGHTS, OpenAI's
# ViT-B-32.pt; else open_clip fetches them): docs/paper_table.md. ARGS="--stand-in" tries it on drawn images, some minutes.
paper: $(VENV)/.installed
	$(VENV)/bin/python -m benchmarks.paper.table $(if $(DATA),--data "$(DATA)") $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(ARGS)

# Known vulnerabilities of constraints.txt, by pip-audit in an environment of its own; asks a service on the network.
audit: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.release.audit $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# pip alone takes minutes for these packages; uv takes seconds. Where uv is not installed, the environment gets its own.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("sweeper needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --constraint constraints.txt --group dev
	touch $@

$(VENV)/.installed-browser: $(VENV)/.installed-dev
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --constraint constraints.txt --group browser
	touch $@

$(VENV)/.installed-notebooks: $(VENV)/.installed
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --constraint constraints.txt --group notebooks
	touch $@

$(VENV)/.installed-clusters: $(VENV)/.installed-dev
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --constraint constraints.txt --group clusters
	touch $@

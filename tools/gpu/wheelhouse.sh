#!/usr/bin/env bash
# Fill .whl/ with the wheels that a lent GPU machine lacks (tools/gpu/wheels.txt), for Python 3.12 on x86-64, and say how
# large all that travels is: the tracked files and .whl/ have to stay under 64 MiB. Here, where there is a network:
#
#     tools/gpu/wheelhouse.sh            # PYTHON=... names another interpreter whose pip is to fetch them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-.venv/bin/python}
LIMIT_MIB=64

platforms=(manylinux_2_39 manylinux_2_35 manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 manylinux_2_24
    manylinux_2_17 manylinux2014 manylinux1)
arguments=()
for platform in "${platforms[@]}"; do arguments+=(--platform "${platform}_x86_64"); done

# A second version of a package would stop the whole installation there.
rm -rf .whl
mkdir .whl
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${arguments[@]}" -d .whl -r tools/gpu/wheels.txt

du -h .whl/*.whl | sort -h
wheels=$(du -sm .whl | cut -f1)
tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 du -cm --apparent-size | tail -1 | cut -f1)
echo "$wheels MiB of wheels and $tree MiB of files travel; $LIMIT_MIB MiB may"
if [ $((wheels + tree)) -ge "$LIMIT_MIB" ]; then
    echo "too much: leave out what tools/gpu/wheels.txt can do without" >&2
    exit 1
fi

#!/usr/bin/env bash
# install.sh PYTHON ENVIRONMENT: make an environment with a real SGLang that runs on the CPU, anew where there is one.
#
# SGLang is built for CUDA and names what it needs for that. Here it is installed without its dependencies, beside
# those that the CPU's path imports; shim/sitecustomize.py stands in for the rest when a server is started.
# Needs an index from which torch comes as a CPU build; docs/install.md says how to add PyTorch's.
set -euo pipefail
python=$1 environment=$2
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

"$python" -m venv --clear "$environment"
"$environment/bin/python" -m pip install --quiet -c "$here/constraints.txt" -r "$here/requirements.txt"
"$environment/bin/python" -m pip install --quiet --no-deps -c "$here/constraints.txt" \
    -r "$here/without-dependencies.txt"

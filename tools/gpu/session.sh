#!/usr/bin/env bash
# Everything to be done on a lent GPU, in one command of under nine minutes (README.md beside this has the call):
#
#     tools/gpu/session.sh          # wheels, tests, both benchmarks, a profile
#     tools/gpu/session.sh quick    # wheels and tests, under three minutes
#
# Each part has a limit of its own and leaves what it has found in $OUT; one that fails or is ended stops none of those
# after it. PACED_GPU_TESTS_ON=cpu tries all of it without a GPU. PYTHON: the interpreter (python3); SITE: where the wheels
# are installed (/tmp/site); COMMIT: of the tree, which has no repository with it there.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit

mode=${1:-full}
case $mode in
    full) total=530 ;;
    quick) total=175 ;;
    *) echo "session.sh: full or quick, not $mode" >&2 && exit 2 ;;
esac
export PYTHON=${PYTHON:-python3} SITE=${SITE:-/tmp/site} COMMIT=${COMMIT:-unknown} OUT=${OUT:-/tmp/paced-gpu-out}
mkdir -p "$OUT"
exec > >(tee "$OUT/log.txt") 2>&1
dry=()
[ "${PACED_GPU_TESTS_ON:-}" != cpu ] || dry=(--dry-run)

failed=0
part() { # part SECONDS NAME COMMAND...: at most so long, and no longer than what is left
    local limit=$1 name=$2 left=$((total - SECONDS)) began=$SECONDS status=0
    shift 2
    [ "$limit" -le "$left" ] || limit=$left
    if [ "$limit" -lt 10 ]; then
        echo "== $name: left out, $left s are left"
        failed=1
        return
    fi
    echo "== $name: at most $limit s"
    timeout --kill-after=5 "$limit" "$@" || status=$?
    case $status in
        0) echo "== $name: done in $((SECONDS - began)) s" ;;
        124 | 137) echo "== $name: ended at its limit, $((SECONDS - began)) s" ;;
        *) echo "== $name: failed after $((SECONDS - began)) s, exit code $status" ;;
    esac
    [ "$status" -eq 0 ] || failed=1
}

tests() { # tests SECONDS: pytest ends itself a little before, between two tests, so that it says what it has found
    part "$1" tests tools/gpu/test.sh -vv --timeout=90 --session-timeout=$(($1 - 20))
}

if compgen -G '.whl/*.whl' >/dev/null; then
    part 60 wheels "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$SITE" .whl/*.whl
fi
export PYTHONPATH="$PWD:$SITE${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
# One process on a machine whose name may lead nowhere.
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-lo}

part 60 environment "$PYTHON" tools/gpu/environment.py --out "$OUT/environment.txt"
if [ "$mode" = quick ]; then
    tests 150
else
    tests 230
    part 60 profile "$PYTHON" -m benchmarks.gpu.profile --out "$OUT/profile" "${dry[@]}"
    # What the tests have not used goes to the benchmarks, in equal shares; each ends by itself half a minute before.
    share=$(((total - SECONDS) / 2))
    part $share divergence "$PYTHON" -m benchmarks.gpu.divergence --out "$OUT/divergence.csv" \
        --minutes "$("$PYTHON" -c "print(max($share - 30, 20) / 60)")" --commit "$COMMIT" "${dry[@]}"
    share=$((total - SECONDS))
    part $share step "$PYTHON" -m benchmarks.gpu.step --out "$OUT/step.csv" \
        --minutes "$("$PYTHON" -c "print(max($share - 35, 20) / 60)")" --commit "$COMMIT" "${dry[@]}"
fi
echo "== all: $SECONDS s, ${failed/1/something failed or was cut short}" | sed 's/, 0$/, all of it done/'
find "$OUT" -type f -size +0 -printf '%9s %P\n' # eight files come back, of at most 16 MiB
exit "$failed"

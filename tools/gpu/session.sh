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
tee=${!:-0}
dry=()
sizes=(--sizes 8192x1024 8192x4096 8192x1024/2048 1024x1024 16384x1024 4096x1024)
[ "${PACED_GPU_TESTS_ON:-}" != cpu ] || { dry=(--dry-run) && sizes=(); }

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
    # As Ctrl-C: pytest then still says what failed, and why.
    timeout --signal=INT --kill-after=8 "$limit" "$@" || status=$?
    case $status in
        0) echo "== $name: done in $((SECONDS - began)) s" ;;
        124 | 137) echo "== $name: ended at its limit, $((SECONDS - began)) s" ;;
        *) echo "== $name: failed after $((SECONDS - began)) s, exit code $status" ;;
    esac
    [ "$status" -eq 0 ] || failed=1
}

minutes() { # minutes SECONDS: at least 20 s
    local seconds=$(($1 < 20 ? 20 : $1))
    printf '%d.%02d' $((seconds / 60)) $((seconds % 60 * 100 / 60))
}

tests() { # tests SECONDS: pytest ends itself a little before, between two tests, so that it says what it has found
    # Files beside each other: most of their time is compiling kernels and starting processes, on sixteen cores.
    local together=()
    if "$PYTHON" -c 'import xdist' 2>/dev/null; then
        together=(-n "${PACED_GPU_TESTS_WORKERS:-6}" --dist loadfile)
        export PACED_GPU_TESTS_THREADS=${PACED_GPU_TESTS_THREADS:-2}
    fi
    part "$1" tests bash tools/gpu/test.sh -vv --timeout=120 --session-timeout=$(($1 - 20)) "${together[@]}"
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
    tests 200
    # What the tests have not used goes to the benchmarks, but for the profile's minute; each ends by itself before its
    # limit, with what it found. Those sizes come first that issue 13 has a goal for.
    share=$(((total - SECONDS - 60) * 9 / 20))
    part $share divergence "$PYTHON" -m benchmarks.gpu.divergence --out "$OUT/divergence.csv" \
        --minutes "$(minutes $((share - 30)))" --commit "$COMMIT" "${sizes[@]}" "${dry[@]}"
    share=$((total - SECONDS - 60))
    part $share step "$PYTHON" -m benchmarks.gpu.step --out "$OUT/step.csv" \
        --minutes "$(minutes $((share - 50)))" --commit "$COMMIT" "${dry[@]}"
    part 90 profile "$PYTHON" -m benchmarks.gpu.profile --out "$OUT/profile" "${dry[@]}"
fi
echo "== all: $SECONDS s, ${failed/1/something failed or was cut short}" | sed 's/, 0$/, all of it done/'
find "$OUT" -type f -size +0 -printf '%9s %P\n' # eight files come back, of at most 16 MiB
# The end of the output is all that the answer shows by itself: the log has the rest.
sleep 1
said='^== |FAILED |^ERROR |(passed|failed|skipped).* in [0-9.]+s|^<= |^ahead of all|^(step at|longest text|losses) '
short=$(grep -aE "$said" "$OUT/log.txt" | cut -c1-240 | tail -n 70)
printf '\nin short:\n%s\n' "$short"
exec >&- 2>&- # tee ends with its input; a process that was left behind may hold that open
for _ in 1 2 3; do kill -0 "$tee" 2>/dev/null && sleep 1; done
exit "$failed"

# shellcheck shell=bash
# What all scripts of this folder share; they begin with
#
#     source "${PACED_REPO:-${SLURM_SUBMIT_DIR:-.}}/slurm/common.sh"
#
# since Slurm runs a copy of a script, and where that lies says nothing. PACED_REPO is exported by submit.sh; a script
# that is handed to sbatch by hand is taken to be submitted from the repository.
#
#     run_step NAME [SRUN OPTION...] -- COMMAND...   a step on the allocation's nodes; returns the code of the rank
#                                                    that ended first, having shown why, last
#     run_ranks NAME VERB CONFIG [key=value...]      `paced VERB ...`, a rank for each of the job's tasks
#     start_step, wait_step                          the two halves of run_step, for what runs beside it
#     hear_signals, finish CODE                      stopping, starting again and ending: survive.sh
set -uo pipefail

say() { echo "$(date '+%F %T') ${SLURM_JOB_NAME:-paced} ${SLURM_JOB_ID:-}: $*"; }

fail() { # MESSAGE [CODE]: the last line of the log; 2 is a mistake in the input, as in `paced`
    echo "paced: $1" >&2
    exit "${2:-2}"
}

STOPPED=75    # `paced`: asked to stop, everything is saved, start it again (paced_megatron/exit_codes.py)
TAIL_LINES=20 # of the log of the rank that failed

PACED_REPO=${PACED_REPO:-${SLURM_SUBMIT_DIR:-$PWD}}
[ -f "$PACED_REPO/slurm/common.sh" ] || fail "$PACED_REPO is not the repository: submit from there, or export PACED_REPO"
export PACED_REPO
PACED_CLUSTER_ENV=${PACED_CLUSTER_ENV:-$PACED_REPO/slurm/cluster.env}
[ -f "$PACED_CLUSTER_ENV" ] || fail "$PACED_CLUSTER_ENV: no such file; PACED_CLUSTER_ENV names the cluster's settings"
export PACED_CLUSTER_ENV
# shellcheck source=cluster.env
source "$PACED_CLUSTER_ENV" || fail "$PACED_CLUSTER_ENV: bash does not understand it"

# shellcheck source=survive.sh
source "$PACED_REPO/slurm/survive.sh"

# -- where a rank runs -------------------------------------------------------------------------------------------------

PYTHON=""
CONTAINER_OPTIONS=() # of srun; sbatch would refuse a script with options that it does not know

in_environment() { # sets PYTHON, the one of the tasks
    unset RANK LOCAL_RANK WORLD_SIZE # of a job in which somebody has called sbatch; Slurm says who a task is
    export PYTHONPATH="$PACED_REPO${PYTHONPATH:+:$PYTHONPATH}" # this checkout, also where the package is installed
    export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false CUDA_DEVICE_MAX_CONNECTIONS=1
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
    export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun no longer takes it from the job
    if [ -n "$NETWORK_INTERFACE" ]; then
        export NCCL_SOCKET_IFNAME="$NETWORK_INTERFACE"
        [[ "$NETWORK_INTERFACE" == ["^="]* ]] || export GLOO_SOCKET_IFNAME="$NETWORK_INTERFACE"
    fi
    if [ -n "$SCRATCH" ]; then
        export HF_HOME="${HF_HOME:-$SCRATCH/huggingface}" TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-$SCRATCH/triton}"
    fi
    if [ -n "$CONTAINER_IMAGE" ]; then
        PYTHON=$CONTAINER_PYTHON
        container_options
        return
    fi
    [ "${#MODULES[@]}" -eq 0 ] || module load "${MODULES[@]}" || fail "module load ${MODULES[*]}: see MODULES in $PACED_CLUSTER_ENV"
    PYTHON=$VENV/bin/python
    [ -x "$PYTHON" ] || fail "$PYTHON: no such program; VENV in $PACED_CLUSTER_ENV names the environment with the package"
}

container_options() {
    srun --help 2>/dev/null | grep -q -- --container-image \
        || fail "CONTAINER_IMAGE is set, but this Slurm has no pyxis (srun --container-image); leave it empty and set VENV"
    CONTAINER_OPTIONS=("--container-image=$CONTAINER_IMAGE" "--container-workdir=$PWD" --no-container-mount-home
        "--container-mounts=$PACED_REPO:$PACED_REPO,$PWD:$PWD${CONTAINER_MOUNTS:+,$CONTAINER_MOUNTS}")
}

port_taken() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; } # HOST PORT

free_port() { # HOST FIRST: the first port from FIRST on where nobody answers on this host
    local port
    for port in $(seq "$2" $(($2 + 200))); do
        if ! port_taken "$1" "$port"; then echo "$port" && return; fi
    done
    fail "$1: no port is free from $2 to $(($2 + 200))" 1
}

port_of_job() { # WHAT: another one for each cluster, job, start and purpose, from 20000 to 26999
    local number
    number=$(cksum <<<"${SLURM_CLUSTER_NAME:-} ${SLURM_JOB_ID:-0} ${SLURM_RESTART_COUNT:-0} $1")
    echo $((20000 + ${number%% *} % 7000))
}

rendezvous() { # NODELIST: MASTER_ADDR, its first node, where this script runs; and MASTER_PORT
    MASTER_ADDR=$(scontrol show hostnames "$1" | head -n 1)
    if [ -z "$MASTER_PORT" ]; then
        MASTER_PORT=$(free_port "$MASTER_ADDR" "$(port_of_job ranks)") || exit
    elif port_taken "$MASTER_ADDR" "$MASTER_PORT"; then
        fail "$MASTER_ADDR:$MASTER_PORT is taken; another MASTER_PORT in $PACED_CLUSTER_ENV, or none: a free one is found"
    fi
    export MASTER_ADDR MASTER_PORT
}

# -- steps -------------------------------------------------------------------------------------------------------------

log_dir() { # a step's logs: JOB-STEP-NODE-TASK.log
    LOG_DIR=${PACED_LOG_DIR:-${LOG_DIR:-$PWD/logs}}
    mkdir -p "$LOG_DIR" || fail "$LOG_DIR: no folder can be made there; see LOG_DIR in $PACED_CLUSTER_ENV"
    export PACED_LOG_DIR=$LOG_DIR
}

start_step() { # NAME [SRUN OPTION...] -- COMMAND...: in the background; sets STEP_PID
    local name=$1 options=()
    shift
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    shift
    log_dir
    rm -f "$PACED_LOG_DIR/$SLURM_JOB_ID-$name-"*.code # of a start before a requeue
    # --export=ALL: `sbatch --export=NONE` would otherwise leave the tasks without a PATH.
    srun --job-name="$name" --kill-on-bad-exit=1 --export=ALL "${CONTAINER_OPTIONS[@]}" "${options[@]}" \
        bash "$PACED_REPO/slurm/task.sh" "$name" "$@" &
    STEP_PID=$!
}

wait_step() { # NAME PID: its code, as run_step has it
    wait_through_signals "$2"
    explained_code "$1" $?
}

run_step() { # NAME [SRUN OPTION...] -- COMMAND...
    STEP_NAME=$1 # before the question: a signal that comes later finds it
    [ -z "$STOP_ASKED" ] || return "$STOPPED"
    start_step "$@"
    wait_step "$1" "$STEP_PID"
}

# explained_code NAME CODE: srun's code is that of a rank which it has killed itself (143) as soon as another one has
# failed. task.sh notes each rank's own: the earliest one is the cause, and rank 0's where it ended with the same.
explained_code() {
    local name=$1 code=$2 first="" zero task node log
    local notes=("$PACED_LOG_DIR/$SLURM_JOB_ID-$name-"*.code)
    if [ -f "${notes[0]}" ]; then
        first=$(sort -n "${notes[@]}" | head -n 1)
        zero=$(awk '$3 == 0' "${notes[@]}")
        read -r _ code task node log <<<"$first"
        [ "$(cut -d ' ' -f 2 <<<"$zero")" != "$code" ] || read -r _ code task node log <<<"$zero"
    fi
    [ "$code" -eq 0 ] && return 0
    if [ "$code" -eq $STOPPED ]; then
        say "step $name has stopped with everything saved"
    elif [ -n "$first" ]; then
        say "step $name: rank $task on $node ended first, with exit code $code; the end of $log:"
        grep -v '^[[:space:]]*$' "$log" | tail -n $TAIL_LINES
        killed_by "$code" "rank $task on $node"
    else
        say "step $name: srun ended with exit code $code"
    fi
    return "$code"
}

killed_by() { # CODE WHO: what a process that was killed could not say itself
    local name memory=""
    [ "$1" -gt 128 ] && name=$(kill -l "$(($1 - 128))" 2>/dev/null) || return 0
    [ "$name" != KILL ] || memory=" (out of memory?)"
    say "$2 was killed by SIG$name$memory"
}

RANK_NODES="" RANK_TASKS="" RANK_OPTIONS=() # where not all of the job's nodes have ranks (servers.sh)

run_ranks() { # NAME VERB CONFIG [key=value...]
    local name=$1 nodes=${RANK_NODES:-$SLURM_NNODES} tasks=${RANK_TASKS:-${SLURM_NTASKS:-$SLURM_NNODES}} code=0
    shift
    if [ "$LAUNCHER" = torchrun ]; then
        # torchrun itself would die of USR1, which its ranks know what to do with; and it ends with 1 whatever they end with.
        run_step "$name" "${RANK_OPTIONS[@]}" --ntasks="$nodes" --ntasks-per-node=1 -- \
            env --block-signal=USR1 "$PYTHON" -m torch.distributed.run \
            --nnodes="$nodes" --nproc-per-node="$((tasks / nodes))" --master-addr="$MASTER_ADDR" \
            --master-port="$MASTER_PORT" -m paced_megatron.cli "$@" || code=$?
        [ -z "$STOP_ASKED" ] || [ -z "$(what_is_saved)" ] || code=$STOPPED
        return "$code"
    else
        # What comes while Python still imports is heard later, when `paced` listens, and does not end it.
        run_step "$name" "${RANK_OPTIONS[@]}" -- \
            env --block-signal=TERM --block-signal=USR1 "$PYTHON" -m paced_megatron.cli "$@"
    fi
}

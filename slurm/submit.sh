#!/usr/bin/env bash
# Check a recipe against the cluster, and queue it:
#
#     slurm/submit.sh RECIPE [key=value ...]                     the whole loop (`paced run`)
#     slurm/submit.sh --verb train RECIPE [key=value ...]        one phase: rollout, weigh, respond, train, export, evaluate
#     slurm/submit.sh --verb evaluate FOLDER... [OPTION...]      `paced evaluate` of models or runs
#     slurm/submit.sh --verb convert to-megatron INPUT OUT       `paced convert`
#     slurm/submit.sh --chain RECIPE [key=value ...]             each phase of each stage a job, dependent on the last
#     slurm/submit.sh --status RUN | ID...                       how the jobs of a run's folder stand, in words
#
#     --stage N    with --verb: only this stage
#     --het        a heterogeneous job: the ranks in one component, SERVER_NODES nodes with SGLang servers in the other
#     --dry-run    the same checks, and the line with which it would be submitted
#     --no-plan    without `paced plan` (memory of a rank), which takes ten seconds
#
# Nodes and ranks follow from the recipe's layout (parallel.*) and from cluster.env, which has to be filled in before;
# PACED_CLUSTER_ENV names another copy of it. What is wrong is one line and exit code 2, before anything is queued.
# The job's number, where its logs are and how to stop it are printed. Stopped, failed or out of time: the same
# line again goes on from what is saved.
PACED_REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=common.sh
source "$PACED_REPO/slurm/common.sh"
# shellcheck source=chain.sh
source "$PACED_REPO/slurm/chain.sh"

usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

VERB=run DRY_RUN="" PLAN=yes CHAIN="" STATUS="" HET="" STAGE=""

read_arguments() { # sets what is above, and ARGUMENTS
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage && exit 0 ;;
            --verb)
                [ $# -ge 2 ] || fail "--verb: which one? submit.sh --help lists them"
                VERB=$2 && shift
                ;;
            --stage)
                [[ "${2:-}" =~ ^[0-9]+$ ]] || fail "--stage: which one? A number from 1"
                STAGE=$2 && shift
                ;;
            --chain) CHAIN=yes ;;
            --status) STATUS=yes ;;
            --het) HET=yes ;;
            --dry-run) DRY_RUN=yes ;;
            --no-plan) PLAN="" ;;
            -*) fail "submit.sh $1: no such option; submit.sh --help lists them" ;;
            *) break ;;
        esac
        shift
    done
    ARGUMENTS=("$@")
    case $VERB in
        run | rollout | weigh | respond | evaluate-before | train | export | evaluate | convert) ;;
        *) fail "submit.sh --verb $VERB: no such verb; submit.sh --help lists them" ;;
    esac
    [ $# -ge 1 ] || [ -n "$STATUS" ] || fail "which recipe? slurm/submit.sh RECIPE [key=value ...]; --help says more"
}

script_of() { # VERB
    local with_servers=""
    has_servers "$1" && with_servers=yes
    case ${HET:+het}:$1:$with_servers in
        het:*) echo het.sbatch ;;
        :run:* | :train:yes) echo run.sbatch ;;
        :rollout:yes | :respond:yes | :evaluate*:yes) echo rollout.sbatch ;;
        :convert:* | :evaluate:*) echo "$1.sbatch" ;;
        *) echo train.sbatch ;;
    esac
}

has_servers() { # VERB: whether its job starts SGLang servers (servers.sh)
    [[ " $SERVED " == *" $1 "* ]]
}

# -- checks ------------------------------------------------------------------------------------------------------------

check_cluster_env() {
    local name
    for name in ACCOUNT PARTITION; do
        [ "${!name}" != CHANGE_ME ] || fail "$PACED_CLUSTER_ENV: $name is still CHANGE_ME; write yours, or \"\" where there is none"
    done
    for name in GPUS_PER_NODE TASKS_PER_NODE CPUS_PER_TASK SIGNAL_BEFORE_S; do
        [[ "${!name}" =~ ^[0-9]+$ ]] || fail "$PACED_CLUSTER_ENV: $name='${!name}' is no whole number"
    done
    [[ "$LAUNCHER" = srun || "$LAUNCHER" = torchrun ]] || fail "$PACED_CLUSTER_ENV: LAUNCHER=$LAUNCHER; srun or torchrun"
    command -v sbatch >/dev/null || fail "there is no sbatch here: submit from a login node of the cluster"
}

check_gpus() { # not more than a node has, by what we are told and by what Slurm says
    local most
    [ "$TASKS_PER_NODE" -ge 1 ] || fail "$PACED_CLUSTER_ENV: TASKS_PER_NODE=$TASKS_PER_NODE; at least one rank is on a node"
    most=$(sinfo --noheader ${PARTITION:+--partition="$PARTITION"} --format=%G) || fail "sinfo does not answer; is this cluster up?"
    [ -n "$most" ] || fail "$PACED_CLUSTER_ENV: PARTITION=$PARTITION is no partition of this cluster; \`sinfo -s\` lists them"
    [ "$GPUS_PER_NODE" -gt 0 ] || return 0
    [ "$TASKS_PER_NODE" -le "$GPUS_PER_NODE" ] \
        || fail "$PACED_CLUSTER_ENV: TASKS_PER_NODE=$TASKS_PER_NODE ranks want a GPU each, and a node has GPUS_PER_NODE=$GPUS_PER_NODE"
    most=$(grep -oE 'gpu(:[^:,()]+)?:[0-9]+' <<<"$most" | sed 's/.*://' | sort -n | tail -n 1)
    [ "$GPUS_PER_NODE" -le "${most:-0}" ] \
        || fail "$PACED_CLUSTER_ENV: GPUS_PER_NODE=$GPUS_PER_NODE, but a node of ${PARTITION:-this cluster} has ${most:-none}"
}

check_software() {
    if [ -n "$CONTAINER_IMAGE" ]; then
        case $CONTAINER_IMAGE in
            /* | ./* | ../* | *.sqsh) [ -f "$CONTAINER_IMAGE" ] || fail "$CONTAINER_IMAGE: no such image; see CONTAINER_IMAGE in $PACED_CLUSTER_ENV" ;;
        esac
        container_options
    fi
    PYTHON=$VENV/bin/python
    [ -x "$PYTHON" ] || fail "$PYTHON: no such program. submit.sh reads the recipe here, so VENV in $PACED_CLUSTER_ENV has to name an environment with the package, also where the job has a container (\`make install\` makes .venv; no GPU is needed)"
    export PYTHONPATH="$PACED_REPO${PYTHONPATH:+:$PYTHONPATH}"
}

check_port() {
    [ -n "$MASTER_PORT" ] || return 0
    [[ "$MASTER_PORT" =~ ^[0-9]{4,5}$ ]] \
        || fail "$PACED_CLUSTER_ENV: MASTER_PORT=$MASTER_PORT is no port from 1024 to 65535"
    ! port_taken 127.0.0.1 "$MASTER_PORT" \
        || fail "$PACED_CLUSTER_ENV: MASTER_PORT=$MASTER_PORT is taken on this machine; choose another, or \"\": each job finds a free one"
}

read_recipe() { # sets WORLD_SIZE, NODES, RANKS_PER_NODE, RUN_DIR, SERVED
    local facts recipe=${ARGUMENTS[0]}
    [ -f "$recipe" ] || fail "$recipe: no such recipe; examples/ has some"
    facts=$("$PYTHON" -m paced_megatron.cluster.layout --ranks-per-node "$TASKS_PER_NODE" "${ARGUMENTS[@]}") || exit
    eval "$facts"
}

check_servers() {
    [[ "$SERVER_NODES" =~ ^[0-9]+$ ]] || fail "SERVER_NODES='$SERVER_NODES' is no whole number"
    [ -z "$HET" ] || has_servers "$VERB" || fail "--het: for $VERB the recipe starts no SGLang servers (rollout.engine: sglang, rollout.launch)"
    [ -z "$HET" ] || [ "$SERVER_NODES" -ge 1 ] || fail "--het: SERVER_NODES=0; how many nodes have servers? See $PACED_CLUSTER_ENV"
    [ -z "$HET" ] || [ -z "$CHAIN" ] || fail "--het and --chain: one of them"
}

check_plan() {
    local memory=() code=0
    [ -n "$PLAN" ] || return 0
    [ "$GPUS_PER_NODE" -eq 0 ] || memory=(--memory-gb "$GPU_MEMORY_GB")
    "$PYTHON" -m paced_megatron.cli plan "${memory[@]}" "${ARGUMENTS[@]}" || code=$?
    [ $code -ne 1 ] || fail "${ARGUMENTS[0]} does not fit GPU_MEMORY_GB=$GPU_MEMORY_GB of $PACED_CLUSTER_ENV (above, with a layout that does); --no-plan submits it all the same"
    [ $code -eq 0 ] || exit $code # it has said why
}

# -- the job -----------------------------------------------------------------------------------------------------------

prepare_job() { # NAME: sets SCRIPT and OPTIONS for VERB; makes the folder of logs
    SCRIPT=$PACED_REPO/slurm/$(script_of "$VERB")
    sbatch_options "$1"
    if [ -n "$HET" ]; then
        OPTIONS+=(: "${OPTIONS[@]/#--nodes=*/--nodes=$SERVER_NODES}" --ntasks-per-node=1)
        [ "$GPUS_PER_NODE" -eq 0 ] || OPTIONS+=(--gpus-per-node="$GPUS_PER_NODE")
    fi
    check_submission "$SCRIPT" "${ARGUMENTS[@]}"
    [ -n "$DRY_RUN" ] || mkdir -p "$PACED_LOG_DIR" \
        || fail "$PACED_LOG_DIR: no folder can be made there; see LOG_DIR in $PACED_CLUSTER_ENV"
}

sbatch_options() { # NAME: sets OPTIONS, of cluster.env and the layout
    local nodes=$NODES gpus=$RANKS_PER_NODE
    case $SCRIPT in
        */run.sbatch) if has_servers "$VERB"; then nodes=$((NODES + SERVER_NODES)) gpus=$GPUS_PER_NODE; fi ;;
        */rollout.sbatch) gpus=$GPUS_PER_NODE ;;
    esac
    OPTIONS=(--job-name="$1" --nodes="$nodes" --ntasks-per-node="$RANKS_PER_NODE" --cpus-per-task="$CPUS_PER_TASK"
        --time="$TIME" --signal="B:USR1@$SIGNAL_BEFORE_S" --requeue --open-mode=append --output="$PACED_LOG_DIR/%x-%j.log")
    [ "$GPUS_PER_NODE" -eq 0 ] || OPTIONS+=(--gpus-per-node="$gpus")
    [ -z "$ACCOUNT" ] || OPTIONS+=(--account="$ACCOUNT")
    [ -z "$PARTITION" ] || OPTIONS+=(--partition="$PARTITION")
    [ -z "$QOS" ] || OPTIONS+=(--qos="$QOS")
    [ -z "$MEMORY" ] || OPTIONS+=(--mem="$MEMORY")
    OPTIONS+=("${SBATCH_OPTIONS[@]}")
}

check_submission() { # SCRIPT [ARGUMENT...]: what Slurm says to it
    local answer
    answer=$(sbatch --test-only "${OPTIONS[@]}" "$@" 2>&1) || fail "sbatch would refuse this: ${answer//$'\n'/; }"
}

submit() { # SCRIPT [ARGUMENT...]: prints the job's number
    sbatch --parsable "${OPTIONS[@]}" "$@" | cut -d ';' -f 1
}

show_line() { # for --dry-run
    printf 'VERB=%q STAGE=%q PACED_REPO=%q PACED_CLUSTER_ENV=%q PACED_LOG_DIR=%q' \
        "$VERB" "$STAGE" "$PACED_REPO" "$PACED_CLUSTER_ENV" "$PACED_LOG_DIR"
    printf ' %q' sbatch "${OPTIONS[@]}" "$SCRIPT" "${ARGUMENTS[@]}"
    echo
}

shape_of_job() { # nodes and ranks: the recipe's, or one rank where there is no recipe
    NODES=1 RANKS_PER_NODE=1 RUN_DIR=$PWD SERVED=""
    case ${ARGUMENTS[0]} in
        *.yaml | *.yml) read_recipe && check_plan ;;
        *) [[ "$VERB" = convert || "$VERB" = evaluate ]] || read_recipe ;;
    esac
    PACED_LOG_DIR=${LOG_DIR:-$RUN_DIR/logs}
}

main() {
    local job
    read_arguments "$@"
    if [ -n "$STATUS" ]; then
        check_software
        show_status "${ARGUMENTS[@]}"
        return
    fi
    check_cluster_env
    check_gpus
    check_port
    check_software
    shape_of_job
    check_servers
    export VERB STAGE PACED_LOG_DIR SERVER_NODES
    if [ -n "$CHAIN" ]; then
        submit_chain
        return
    fi
    prepare_job "$VERB"
    if [ -n "$DRY_RUN" ]; then
        show_line
        return
    fi
    job=$(submit "$SCRIPT" "${ARGUMENTS[@]}")
    [ -n "$job" ] || fail "sbatch has failed (above)" 1
    note_job "$job" "$VERB" -
    echo "job $job: $VERB on $NODES x $RANKS_PER_NODE ranks"
    echo "  log      $PACED_LOG_DIR/$VERB-$job.log"
    echo "  ranks    $PACED_LOG_DIR/$job-STEP-NODE-TASK.log"
    echo "  state    slurm/submit.sh --status $RUN_DIR"
    echo "  stop     scancel --batch --signal=USR1 $job (saves; it is requeued), scancel $job (ends it)"
}

main "$@"

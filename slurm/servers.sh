# shellcheck shell=bash disable=SC2034 # some are read by common.sh
# SGLang servers as steps of a job, beside its ranks. Sourced after common.sh.
#
#     run_beside_servers VERB RECIPE [key=value...]   all of a job: servers where the recipe wants them, ranks, the end
#     start_servers NODE...                           returns when each answers; sets SERVER_OVERRIDES for `paced`
#     stop_servers
#
# Each server has a keeper, a background shell that starts it again when it dies, on the same port; the engine then gives
# it its weights again by itself. A server that dies SERVER_STARTS times is given up. When none of a kind is left, the
# ranks are told to save, and the job fails: they would wait for ever.
#
# What the recipe wants comes from paced_megatron/cluster/servers.py: SERVED_STUDENT, SERVED_TEACHER, LAUNCH_PYTHON,
# LAUNCH_ARGS, LAUNCH_ENV, SERVER_GPUS, COLOCATE.

SERVING=()          # nodes
SERVER_OPTIONS=()   # of srun
SERVER_CONTAINER=() # of srun, too
SERVER_OVERRIDES=() # of `paced`: where the servers are
KEEPERS=()
SERVED=() # for each server "KIND HOST PORT NAME"
SERVERS_GONE=""
SERVER_PAUSE_S=2 # before a server is started again
STEADY_S=3600    # a server that has run so long has not died of its start

run_beside_servers() { # VERB RECIPE [key=value...]
    local code
    [ $# -ge 2 ] || fail "$SLURM_JOB_NAME: which recipe? sbatch slurm/... RECIPE [key=value ...]"
    in_environment
    rendezvous "${SLURM_JOB_NODELIST_HET_GROUP_0:-$SLURM_JOB_NODELIST}"
    hear_signals
    ask_recipe "$@"
    place_servers "$1"
    start_servers "${SERVING[@]}"
    say "$*: ranks on ${RANK_NODES:-$SLURM_NNODES} nodes, ${#SERVED[@]} servers, start ${SLURM_RESTART_COUNT:-0}"
    run_ranks "$1" "$@" "${SERVER_OVERRIDES[@]}" ${STAGE:+--stage "$STAGE"}
    code=$?
    stop_servers
    if [ -n "$SERVERS_GONE" ]; then fail "$SERVERS_GONE" 1; fi
    finish "$code"
}

ask_recipe() { # VERB RECIPE [key=value...]
    local plan command=("$PYTHON" -m paced_megatron.cluster.servers "$@")
    [ -z "$CONTAINER_IMAGE" ] || command=(srun --overlap --nodes=1 --ntasks=1 "${CONTAINER_OPTIONS[@]}" "${command[@]}")
    plan=$("${command[@]}") || exit
    eval "$plan"
}

served() { [ -n "$SERVED_STUDENT$SERVED_TEACHER" ]; }

place_servers() { # VERB: which nodes have servers, and which the ranks
    local nodes=() ranks
    served || return 0
    if [ -n "${SLURM_JOB_NODELIST_HET_GROUP_1:-}" ]; then # het.sbatch
        mapfile -t SERVING < <(scontrol show hostnames "$SLURM_JOB_NODELIST_HET_GROUP_1")
        SERVER_OPTIONS=(--het-group=1)
        return
    fi
    mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    ranks=$((${#nodes[@]} - SERVER_NODES))
    [ "$ranks" -ge 1 ] || fail "SERVER_NODES=$SERVER_NODES leaves no node for the ranks: the job has ${#nodes[@]}"
    if [ "$SERVER_NODES" -eq 0 ]; then
        SERVING=("${nodes[@]}")
        [[ "$1" != run && "$1" != train ]] || [ "$GPUS_PER_NODE" -eq 0 ] || [ "$COLOCATE" -eq 1 ] \
            || say "ranks and servers share the GPUs at the same time: set rollout.colocate=true, or SERVER_NODES"
        return
    fi
    SERVING=("${nodes[@]:ranks}")
    RANK_NODES=$ranks
    RANK_TASKS=$((${SLURM_NTASKS:-$SLURM_NNODES} * ranks / ${#nodes[@]}))
    RANK_OPTIONS=("--nodelist=$(IFS=, && echo "${nodes[*]:0:ranks}")" "--nodes=$ranks" "--ntasks=$RANK_TASKS")
}

servers_per_node() {
    [ -z "$SERVERS_PER_NODE" ] || { echo "$SERVERS_PER_NODE" && return; }
    [ "$GPUS_PER_NODE" -gt 0 ] || { echo 1 && return; }
    [ "$SERVER_GPUS" -le "$GPUS_PER_NODE" ] \
        || fail "rollout.launch.args: a server takes $SERVER_GPUS GPUs, and a node has $GPUS_PER_NODE; servers over nodes are not built"
    echo $((GPUS_PER_NODE / SERVER_GPUS))
}

start_servers() { # NODE...
    local node place per_node kind port number=0 model
    served || return 0
    SERVER_PYTHON=${SERVER_PYTHON:-$LAUNCH_PYTHON}
    per_node=$(servers_per_node) || exit
    [ -z "$SERVED_STUDENT" ] || [ -z "$SERVED_TEACHER" ] || [ $(($# * per_node)) -ge 2 ] \
        || fail "the teacher is of another size than the student and needs a server of its own: there is room for one only; SERVERS_PER_NODE, SERVER_NODES"
    server_container
    log_dir
    server_key
    rm -f "$PACED_LOG_DIR/$SLURM_JOB_ID-"*.given-up # of a start before a requeue
    trap stop_servers EXIT
    trap on_given_up USR2
    for node in "$@"; do
        for ((place = 0; place < per_node; place++, number++)); do
            # Where both are served, every other server is the teacher's.
            kind=student model=$SERVED_STUDENT
            if [ -z "$SERVED_STUDENT" ] || { [ -n "$SERVED_TEACHER" ] && [ $((number % 2)) -eq 1 ]; }; then
                kind=teacher model=$SERVED_TEACHER
            fi
            port=$(server_port "$node" "$place" "$number") || exit
            SERVED+=("$kind $node $port server-$number")
            keep_server "server-$number" "$node" "$place" "$port" "$model" &
            KEEPERS+=($!)
        done
    done
    wait_for_servers
    SERVER_OVERRIDES=("rollout.launch={}" "rollout.urls=$(urls student teacher)")
    [ -z "$SERVED_TEACHER" ] || SERVER_OVERRIDES+=("rollout.teacher_urls=$(urls teacher)")
}

server_container() { # also where the ranks have none
    local CONTAINER_IMAGE=${SERVER_IMAGE:-$CONTAINER_IMAGE} CONTAINER_OPTIONS=()
    [ -z "$CONTAINER_IMAGE" ] || container_options
    SERVER_CONTAINER=("${CONTAINER_OPTIONS[@]}")
}

urls() { # KIND...: those of the first kind of which there are servers, as a list in YAML
    local kind list served host port
    for kind in "$@"; do
        list=()
        for served in "${SERVED[@]}"; do
            read -r this host port _ <<<"$served"
            [ "$this" != "$kind" ] || list+=("http://$host:$port")
        done
        [ "${#list[@]}" -eq 0 ] || break
    done
    (IFS=, && echo "[${list[*]}]")
}

server_key() { # one for each job: whoever reaches the port could otherwise give a server other weights
    local all='^[A-Za-z0-9._~+/=-]+$'
    SGLANG_API_KEY=${SGLANG_API_KEY:-$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')}
    [[ "$SGLANG_API_KEY" =~ $all ]] || fail "SGLANG_API_KEY: letters, digits and . _ ~ + / = - only"
    SERVER_KEY_FILE=$PACED_LOG_DIR/.$SLURM_JOB_ID-key.yaml
    rm -f "$SERVER_KEY_FILE"
    (umask 077 && echo "api-key: '$SGLANG_API_KEY'" >"$SERVER_KEY_FILE") || exit
    export SGLANG_API_KEY SERVER_KEY_FILE
}

server_port() { # NODE PLACE NUMBER
    local port
    if [ -z "$SERVER_PORT" ]; then
        free_port "$1" $(($(port_of_job servers) + 10 * $3))
        return
    fi
    port=$((SERVER_PORT + 10 * $2))
    ! port_taken "$1" "$port" \
        || fail "$1:$port is taken; another SERVER_PORT in $PACED_CLUSTER_ENV, or none: a free one is found"
    echo "$port"
}

# -- a server's keeper, in the background -----------------------------------------------------------------------------

keep_server() { # NAME NODE PLACE PORT MODEL
    local name=$1 node=$2 place=$3 port=$4 model=$5 start=0 began code step="" log
    log=$PACED_LOG_DIR/$SLURM_JOB_ID-$name-$node-$place.log
    trap '[ -z "$step" ] || kill "$step" 2>/dev/null; wait; exit 0' TERM
    while [ "$start" -lt "$SERVER_STARTS" ]; do
        start=$((start + 1)) began=$SECONDS
        # It takes none of the ranks' cores or memory away from them (--overlap, --mem=0).
        env -u SRUN_CPUS_PER_TASK srun --job-name="$name" --overlap --mem=0 --export=ALL --nodes=1 --ntasks=1 \
            --nodelist="$node" "${SERVER_OPTIONS[@]}" --output="$log" --open-mode=append "${SERVER_CONTAINER[@]}" \
            bash "$PACED_REPO/slurm/serve.sh" "$SERVER_PYTHON" "$model" "$node" "$port" "$SERVER_GPUS" "$place" \
            "${LAUNCH_ENV[@]}" -- "${LAUNCH_ARGS[@]}" &
        step=$!
        wait "$step"
        code=$? step=""
        is_this_start || exit 0
        [ $((SECONDS - began)) -lt "$STEADY_S" ] || start=1
        say "$name on $node:$port has ended with code $code (start $start of $SERVER_STARTS); its log: $log"
        sleep "$SERVER_PAUSE_S" &
        wait $!
    done
    say "$name on $node:$port is given up"
    touch "$PACED_LOG_DIR/$SLURM_JOB_ID-$name.given-up"
    kill -USR2 $$
}

healthy() { # HOST PORT: whether it answers /health, which generates a token
    # shellcheck disable=SC2016 # $0 and $1 are the inner shell's
    timeout 60 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "GET /health HTTP/1.0\r\nHost: %s\r\n\r\n" "$0" >&3 \
        && read -r _ code _ <&3 && [ "$code" = 200 ]' "$1" "$2" 2>/dev/null
}

wait_for_servers() {
    local served host port name deadline=$((SECONDS + SERVER_START_S))
    for served in "${SERVED[@]}"; do
        read -r _ host port name <<<"$served"
        until healthy "$host" "$port"; do
            [ ! -e "$PACED_LOG_DIR/$SLURM_JOB_ID-$name.given-up" ] || no_server "$name" "does not start"
            [ "$SECONDS" -lt "$deadline" ] || no_server "$name" "has not answered within $SERVER_START_S s (SERVER_START_S)"
            [ -z "$STOP_ASKED" ] || return 0 # the ranks do not begin any more: the time is up, or the job was cancelled
            sleep 0.5
        done
    done
    say "${#SERVED[@]} servers answer: ${SERVED[*]}"
}

no_server() { # NAME WHY
    local logs=("$PACED_LOG_DIR/$SLURM_JOB_ID-$1-"*.log)
    [ ! -f "${logs[0]}" ] || { say "the end of ${logs[0]}:" && tail -n "$TAIL_LINES" "${logs[0]}"; }
    fail "$1 $2" 1
}

on_given_up() { # USR2, from a keeper
    local kind served this name left
    SIGNALLED=1
    for kind in student teacher; do
        left=none
        for served in "${SERVED[@]}"; do
            read -r this _ _ name <<<"$served"
            [ "$this" = "$kind" ] || continue
            [ "$left" = some ] || left=gone
            [ -e "$PACED_LOG_DIR/$SLURM_JOB_ID-$name.given-up" ] || left=some
        done
        [ "$left" = gone ] || continue
        SERVERS_GONE="no server of the $kind is left: each has died $SERVER_STARTS times (SERVER_STARTS); see their logs in $PACED_LOG_DIR"
        say "$SERVERS_GONE"
        stop_ranks "no server is left" # those that have not begun do not begin
    done
}

stop_servers() {
    [ -n "${SERVER_KEY_FILE:-}" ] || return 0
    if [ "${#KEEPERS[@]}" -gt 0 ]; then
        kill "${KEEPERS[@]}" 2>/dev/null
        wait "${KEEPERS[@]}"
    fi
    KEEPERS=()
    rm -f "$SERVER_KEY_FILE" "$PACED_LOG_DIR/$SLURM_JOB_ID-"*.given-up
}

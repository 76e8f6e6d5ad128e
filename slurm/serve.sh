#!/usr/bin/env bash
# One SGLang server, as the task of a step (servers.sh):
#     serve.sh PYTHON MODEL HOST PORT GPUS PLACE [NAME=VALUE...] -- ARGUMENT...
# It gets GPUS of the GPUs that the step has, those of the server number PLACE on its node. Its key comes by a file that
# only its owner can read: a command line can be read by every user of the node.
set -uo pipefail
python=$1 model=$2 host=$3 port=$4 gpus=$5 place=$6
shift 6

if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    IFS=, read -ra all <<<"$CUDA_VISIBLE_DEVICES"
    mine=("${all[@]:place*gpus:gpus}")
    CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${mine[*]}")
    export CUDA_VISIBLE_DEVICES
fi
key=$SGLANG_API_KEY key_file=$SERVER_KEY_FILE
# What belongs to the ranks is not the server's; and -m puts the working directory first on Python's path.
unset SGLANG_API_KEY SERVER_KEY_FILE PYTHONPATH RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT OMP_NUM_THREADS
cd "${key_file%/*}" || exit
while [ "$1" != -- ]; do
    export "${1?}" # as the recipe's rollout.launch.env has it
    shift
done
shift
# SGLang prints its arguments when it starts, the key too.
exec "$python" -m sglang.launch_server --model-path "$model" --host "$host" --port "$port" --config "$key_file" "$@" \
    > >(sed -u -f <(printf 's|%s|<key>|g\n' "$key")) 2>&1

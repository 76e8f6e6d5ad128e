#!/usr/bin/env bash
# One task of a step (run_step in common.sh): task.sh STEP COMMAND... Runs the command, with its output in
# LOG_DIR/JOB-STEP-NODE-TASK.log, task 0's also in the job's log; and where it fails, notes when and with which code.
set -uo pipefail
name=$1
shift
node=${SLURMD_NODENAME:-$(hostname -s)} task=${SLURM_PROCID:-0} stopped=75
stem=$PACED_LOG_DIR/$SLURM_JOB_ID-$name
log=$stem-$node-$task.log
exec 2>>"$log" # of bash itself, which tells of a command that was killed
trap : TERM USR1 # the command hears them too, and has to end first; its code is ours
echo "== $(date '+%F %T') start ${SLURM_RESTART_COUNT:-0} of $*" >>"$log"
export PET_NODE_RANK=${SLURM_NODEID:-0} # torchrun's --node-rank, which no task could be given on srun's line

if [ "$task" -eq 0 ]; then
    "$@" </dev/null 2>&1 | (trap '' TERM USR1 INT && exec tee -a "$log")
    code=${PIPESTATUS[0]}
else
    "$@" </dev/null >>"$log" 2>&1
    code=$?
fi
[ "$code" -eq 0 ] || echo "$(date +%s.%N) $code $task $node $log" >"$stem-$task.code"
# srun kills the others when a task fails. One that has stopped has not: they have only to leave.
[ "$code" -ne $stopped ] || exit 0
# And rank 0, which knows the cause where it is its own, has a moment to say it (FAILURE_GRACE_S of runtime/launch.py).
for _ in $(seq 50); do
    if [ "$code" -eq 0 ] || [ "$task" -eq 0 ] || [ -f "$stem-0.code" ]; then break; fi
    sleep 0.1
done
exit "$code"

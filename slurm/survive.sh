# shellcheck shell=bash
# How a job is stopped, started again and ended. Sourced by common.sh; a batch script says
#
#     hear_signals        before its first step
#     finish CODE         as its last line
#
# SIGUSR1 reaches the script alone: SIGNAL_BEFORE_S before the time limit (--signal=B:USR1@N), or when somebody says
# `scancel --batch --signal=USR1 JOB`. It has the ranks save and the job start again. SIGTERM reaches script and
# ranks: scancel, pre-emption, a node that is taken away. They save too, within KillWait (30 s on most clusters), and
# whether the job starts again is Slurm's to say.

STEP_NAME=""  # the step that is told to stop
STOP_ASKED="" # set by every trap: no further step of ranks begins
SIGNALLED=""  # set by every trap

# bash runs a trap only between two commands, or within `wait`, which ends with it: hence steps in the background.
wait_through_signals() { # PID: its code
    local code
    while true; do
        SIGNALLED=""
        wait "$1"
        code=$?
        [ -n "$SIGNALLED" ] || return "$code"
    done
}

hear_signals() {
    trap on_usr1 USR1
    trap on_term TERM
}

on_term() {
    SIGNALLED=1
    STOP_ASKED=1
    say "TERM: the job is ended from outside"
}

on_usr1() {
    SIGNALLED=1
    stop_ranks USR1
}

stop_ranks() { # WHY
    [ -z "$STOP_ASKED" ] || return 0 # told a second time they would end at once, unsaved
    STOP_ASKED=1
    [ -n "$STEP_NAME" ] || return 0
    say "$1: the ranks of step $STEP_NAME are told to save"
    tell_to_stop "$STEP_NAME" & # bash does nothing else during a trap, and the step may not have begun yet
}

# Not by `kill` of srun, which would end the ranks without asking them. scancel sends the signal to all nodes of the job
# and fails where one of them has no task of this step, as beside servers, although the ranks have it: so it is called
# once only, when rank 0, which tells the others, has begun.
tell_to_stop() { # STEP NAME
    local step answer
    for _ in {1..60}; do
        kill -0 $$ 2>/dev/null || return # the job's script has ended
        step=$(squeue --steps --noheader --jobs="$SLURM_JOB_ID" --format='%i %j' |
            awk -v name="$1" '$2 == name { print $1; exit }')
        if [ -n "$step" ] && has_begun "$1"; then
            answer=$(scancel --signal=USR1 "$step" 2>&1) || [[ "$answer" == *"Invalid job id"* ]] \
                || say "step $1: scancel --signal=USR1 $step: ${answer//$'\n'/; }"
            return
        fi
        sleep 1
    done
    say "step $1 could not be told to save: Slurm knows no such step"
}

has_begun() { # STEP NAME: task 0 writes this first (task.sh)
    grep -q "^== .* start ${SLURM_RESTART_COUNT:-0} of " "$PACED_LOG_DIR/$SLURM_JOB_ID-$1-"*-0.log 2>/dev/null
}

finish() { # CODE: end the job with it; 75 (stopped, all is saved) has it queued again
    if [ "$1" -eq "$STOPPED" ] && is_this_start; then
        queue_again "$(what_is_saved)"
    fi
    exit "$1"
}

# Not so where somebody has cancelled the job, where Slurm has queued it, or where that was so long ago (this node's
# slurmd died and we did not) that the job runs once more elsewhere. A controller that does not answer says none of that.
is_this_start() {
    local job
    job=$(scontrol --oneliner show job "$SLURM_JOB_ID" | head -n 1)
    [ -z "$job" ] || [[ "$job" == *" JobState=RUNNING "* && "$job" == *" Restarts=${SLURM_RESTART_COUNT:-0} "* ]]
}

# What rank 0 said last: "paced: stopped by SIGUSR1: stage 1: step 7 of 12 is saved; ...". Each node it has been on has
# a log of its own.
what_is_saved() {
    local log
    log=$(find "$PACED_LOG_DIR" -name "$SLURM_JOB_ID-$STEP_NAME-*-0.log" -printf '%T@ %p\n' | sort -n | tail -n 1)
    [ -z "$log" ] || sed -n 's/^paced: stopped by [A-Z0-9]*: \(.*\); .*/\1/p' "${log#* }" | tail -n 1
}

queue_again() { # SAVED
    local stops=$PACED_LOG_DIR/$SLURM_JOB_ID.stops starts=${SLURM_RESTART_COUNT:-0} refused
    if [ "$starts" -gt 0 ] && [ "$1" = "$(tail -n 1 "$stops" 2>/dev/null)" ]; then
        not_again "this start has got no further than the one before it (${1:-nothing is saved}), and the next would not
either: TIME has to hold the ranks' start, a step and a checkpoint, beside SIGNAL_BEFORE_S ($PACED_CLUSTER_ENV)"
    fi
    echo "$1" >>"$stops"
    [ "$starts" -lt "$MAX_REQUEUES" ] || not_again "it was queued again $starts times (MAX_REQUEUES in $PACED_CLUSTER_ENV)"
    SIGNALLED=""
    refused=$(scontrol requeue "$SLURM_JOB_ID" 2>&1) || not_again "Slurm refuses to ($refused)"
    say "all is saved; the job is queued again"
    for _ in {1..300}; do # until Slurm ends this start, which can be before the first of these sleeps
        [ -z "$SIGNALLED" ] || return
        sleep 0.2
    done
}

not_again() { # WHY
    fail "all is saved, and the job is not queued again: ${1//$'\n'/ }; submitted once more it goes on from here" "$STOPPED"
}

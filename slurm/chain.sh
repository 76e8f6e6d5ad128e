# shellcheck shell=bash disable=SC2034 # submit.sh reads some
# What submit.sh does beyond one job: a chain of them, and how they stand. Sourced by submit.sh.
#
# In a chain each phase of each stage is a job that waits for the one before it (--dependency=afterok). A job that is
# requeued has not failed, and those after it go on waiting. When one fails, --kill-on-invalid-dep=yes cancels those after
# it: nothing of it stays in the queue that somebody would have to find and cancel, and the same command submits the chain
# again, whose jobs do nothing where their output is complete.

JOBS=slurm-jobs.tsv # in the logs of the run's folder; paced_megatron/cluster/status.py reads it

submit_chain() {
    local links verb stage jobs=()
    links=$("$PYTHON" -m paced_megatron.cluster.chain "${ARGUMENTS[@]}") || exit
    export STAGE
    AFTER=-
    while read -r verb stage; do
        VERB=$verb STAGE=$stage
        prepare_job "$verb-$stage"
        [ "$AFTER" = - ] || OPTIONS+=(--dependency="afterok:$AFTER" --kill-on-invalid-dep=yes)
        if [ -n "$DRY_RUN" ]; then
            AFTER="ID-OF-$verb-$stage" && show_line
            continue
        fi
        AFTER=$(submit "$SCRIPT" "${ARGUMENTS[@]}")
        if [ -z "$AFTER" ]; then
            [ "${#jobs[@]}" -eq 0 ] || scancel "${jobs[@]}"
            fail "sbatch has failed (above); what was submitted of the chain is cancelled" 1
        fi
        jobs+=("$AFTER")
        note_job "$AFTER" "$verb-$stage" "$([ "${#jobs[@]}" -eq 1 ] && echo - || echo "${jobs[-2]}")"
        echo "job $AFTER: $verb of stage $stage, on $NODES x $RANKS_PER_NODE ranks"
    done <<<"$links"
    [ -n "$DRY_RUN" ] || echo "  state    slurm/submit.sh --status $RUN_DIR"
    [ -n "$DRY_RUN" ] || echo "  stop     scancel ${jobs[*]}"
}

note_job() { # ID NAME AFTER
    SUBMITTED=${SUBMITTED:-$(date '+%F %T.%N')}
    mkdir -p "$RUN_DIR/logs" || fail "$RUN_DIR/logs: no folder can be made there; see run_dir in the recipe"
    printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$PACED_LOG_DIR/$2-$1.log" "$SUBMITTED" >>"$RUN_DIR/logs/$JOBS"
}

show_status() { # RUN | ID...
    "$PYTHON" -m paced_megatron.cluster.status "$@"
}

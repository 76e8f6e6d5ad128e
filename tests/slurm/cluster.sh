#!/usr/bin/env bash
# A real Slurm for tests: slurmctld and several slurmd on this machine, as root, without systemd and cgroups.
#
#   cluster.sh install                        Debian's packages, ten seconds; nothing where they are there
#   cluster.sh start DIR [SLOT [NODES [CPUS [GPUS]]]]
#                                             until all nodes are idle; SLOT (0 to 9, here 9) chooses ports and names
#   cluster.sh node DIR NAME start|kill       one slurmd, by its pid file
#   cluster.sh stop DIR                       jobs, daemons, what killed daemons left, lines of /etc/hosts
#   . DIR/env                                 for a shell that is to be a client of it
#
# Key, sockets, state, logs and pids lie under DIR, nothing in /etc/slurm, /etc/munge or /run; only /etc/hosts gets a
# marked line for each node. DIR has to be short: a Unix socket's path has a limit. Several clusters run side by side,
# each in a slot of its own. No cgroups: limits of memory and the isolation of GPUs are not enforced, and can't be tested.
set -euo pipefail

die() { echo "cluster.sh: $*" >&2 && exit 1; }

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; } # alive PIDFILE

# end PIDFILE NAME SIGNAL. The name guards against a pid that has been given to somebody else since.
end() {
    local pid
    [ -s "$1" ] || return 0
    pid=$(cat "$1")
    if grep -qa "$2" "/proc/$pid/cmdline" 2>/dev/null; then
        kill "-$3" "$pid" 2>/dev/null || true
        for _ in $(seq 100); do
            if [ ! -d "/proc/$pid" ] || grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null; then break; fi
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
    fi
    rm -f "$1"
}

install_packages() {
    command -v slurmctld slurmd sbatch munged >/dev/null && return
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
}

port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

write_configuration() { # DIR SLOT NODES CPUS GPUS
    local dir=$1 slot=$2 nodes=$3 cpus=$4 gpus=$5 base=$((27000 + 400 * $2)) host index gres=""
    host=$(hostname -s)
    echo "CgroupPlugin=cgroup/v1" >"$dir/cgroup.conf"
    : >>"$dir/plugstack.conf"
    echo "AutoDetect=off" >"$dir/gres.conf"
    if [ "$gpus" -gt 0 ]; then
        gres="Gres=gpu:fake:$gpus"
        # slurmd wants character devices; the number at the end becomes CUDA_VISIBLE_DEVICES.
        for index in $(seq 0 $((gpus - 1))); do [ -c "$dir/dev/gpu$index" ] || mknod "$dir/dev/gpu$index" c 1 3; done
        for index in $(seq "$nodes"); do
            echo "NodeName=s${slot}n$index Name=gpu Type=fake File=$dir/dev/gpu[0-$((gpus - 1))]"
        done >>"$dir/gres.conf"
    fi
    {
        cat <<CONF
ClusterName=slot$slot
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$base
SlurmdPort=$((base + 1))
SrunPortRange=$((base + 100))-$((base + 399))
AuthType=auth/munge
# a requeued job waits until its old credential has expired: 120 s otherwise
AuthInfo=socket=$dir/run/munge.sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
# neither cgroups nor systemd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AcctGatherNodeFreq=0
MpiDefault=none
SwitchType=switch/none
PlugStackConfig=$dir/plugstack.conf
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
# accounting without a database: a line for each job that has ended
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/jobcomp.log
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0,requeue_delay=1,max_rpc_cnt=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
# what is to be ended is at once, and what is to save has the time for it on a busy machine too
KillWait=20
# a job can be asked about for an hour after its end
MinJobAge=3600
SlurmdTimeout=10
SlurmctldTimeout=30
InactiveLimit=0
CompleteWait=0
UnkillableStepTimeout=20
TreeWidth=16
RebootProgram=/bin/true
LaunchParameters=enable_nss_slurm
PropagateResourceLimitsExcept=ALL
CONF
        # Every NodeAddr is 127.0.0.1: with NoInAddrAny a slurmd listens on the address of the machine's name alone.
        for index in $(seq "$nodes"); do
            echo "NodeName=s${slot}n$index NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + 10 + index))" \
                "CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=16000 $gres" \
                "State=UNKNOWN"
        done
        echo "PartitionName=main Nodes=ALL Default=YES MaxTime=24:00:00 DefaultTime=10 State=UP"
        echo "PartitionName=debug Nodes=ALL Default=NO MaxTime=5 State=UP"
    } >"$dir/slurm.conf"
    cat >"$dir/env" <<CONF
for name in \$(compgen -e | grep -E '^(SLURM|SBATCH|SALLOC|SRUN)_'); do unset "\$name"; done
export SLURM_CONF=$dir/slurm.conf
CONF
}

# edit_hosts DIR SLOT NODES: the names lead somewhere, for whoever is told them as MASTER_ADDR; 0 nodes: remove them.
edit_hosts() {
    local mark="# paced cluster $1" index rest
    (
        flock 9
        rest=$(grep -vF "$mark" /etc/hosts || true)
        {
            echo "$rest"
            for index in $(seq "$3"); do echo "127.0.$((11 + $2)).$index s${2}n$index $mark"; done
        } >/etc/hosts
    ) 9>/tmp/paced-slurm-hosts.lock
}

# The daemon keeps SLURM_CONF: by it `stop` finds what a killed one has left.
start_node() { # DIR NAME
    mkdir -p "$1/spool.$2"
    SLURM_CONF=$1/slurm.conf setsid slurmd -N "$2" -f "$1/slurm.conf" -L "$1/log/slurmd.$2.log" \
        </dev/null >>"$1/log/slurmd.$2.out" 2>&1
}

start() { # DIR [SLOT [NODES [CPUS [GPUS]]]]
    local slot=${2:-9} nodes=${3:-4} dir index
    [ "$(id -u)" = 0 ] || die "has to be root"
    [ ${#1} -le 60 ] || die "$1 is too long for a Unix socket in it"
    if port_taken $((27000 + 400 * slot)); then die "slot $slot is taken"; fi
    mkdir -p "$1"
    dir=$(cd "$1" && pwd)
    chmod 755 "$dir"
    mkdir -p "$dir"/{log,run,state,munge,dev}
    write_configuration "$dir" "$slot" "$nodes" "${4:-8}" "${5:-8}"
    edit_hosts "$dir" "$slot" "$nodes"
    chmod 700 "$dir/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$dir/munge/key")
    munged --force --num-threads=2 --key-file="$dir/munge/key" --socket="$dir/run/munge.sock" \
        --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log" --seed-file="$dir/munge/seed"
    export SLURM_CONF=$dir/slurm.conf
    setsid slurmctld -f "$dir/slurm.conf" -L "$dir/log/slurmctld.log" </dev/null >>"$dir/log/slurmctld.out" 2>&1
    for index in $(seq "$nodes"); do start_node "$dir" "s${slot}n$index"; done
    wait_until_idle "$dir" 60
}

wait_until_idle() { # DIR SECONDS
    local until=$((SECONDS + $2)) nodes
    while true; do
        nodes=$(timeout 10 sinfo -hN -p main -o '%N %t' 2>&1) || nodes=""
        if [ -n "$nodes" ] && ! grep -qvE ' idle$' <<<"$nodes"; then return; fi
        if [ $SECONDS -ge $until ]; then
            echo "$nodes" >&2
            tail -n 20 "$1"/log/*.log >&2
            die "the nodes are not idle after $2 s"
        fi
        sleep 0.2
    done
}

# Step daemons and tasks live on when their slurmd is killed: they have this cluster's SLURM_CONF and a job's number.
kill_orphans() { # DIR
    local file pid variables
    for file in /proc/[0-9]*/environ; do
        pid=${file#/proc/} pid=${pid%/environ}
        [ "$pid" != $$ ] || continue
        { variables=$(tr '\0' '\n' <"$file"); } 2>/dev/null || continue
        grep -qxF "SLURM_CONF=$1/slurm.conf" <<<"$variables" || continue
        if grep -q '^SLURM_JOB_ID=' <<<"$variables" || [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = slurmstepd ]; then
            kill -KILL "$pid" 2>/dev/null || true
        fi
    done
}

stop() { # DIR
    local dir file
    dir=$(cd "$1" 2>/dev/null && pwd) || return 0
    export SLURM_CONF=$dir/slurm.conf
    if alive "$dir/run/slurmctld.pid"; then
        timeout 5 scancel --full --signal=KILL --state=RUNNING -u root 2>/dev/null || true
        timeout 5 scancel -u root 2>/dev/null || true
        for _ in $(seq 15); do
            [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break
            sleep 0.2
        done
    fi
    for file in "$dir"/run/slurmd.*.pid; do end "$file" slurmd TERM; done
    end "$dir/run/slurmctld.pid" slurmctld TERM
    end "$dir/run/munged.pid" munged TERM
    kill_orphans "$dir"
    edit_hosts "$dir" 0 0
}

node() { # DIR NAME start|kill
    case $3 in
        start) start_node "$1" "$2" ;;
        kill) end "$1/run/slurmd.$2.pid" slurmd KILL ;;
        *) die "node: start or kill, not $3" ;;
    esac
}

verb=${1:-}
shift || true
case $verb in
    install) install_packages ;;
    start | stop | node) "$verb" "$@" ;;
    *) sed -n '2,/^set/{/^set/!p}' "${BASH_SOURCE[0]}" && exit 2 ;;
esac

#!/bin/bash
# A Slurm cluster of two nodes on this machine's loopback, for tests.
#
#   tests/slurm/cluster.sh test [PYTEST ARGUMENTS]   install, start, run the tests, stop
#   tests/slurm/cluster.sh up | down                 start it and leave it; stop it
#
# Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge, which `test` and `up`
# install where they are missing. Everything else lives in $ABLATE_SLURM (default
# /tmp/ablate-slurm): configuration, munge key, state, logs. The daemons that the packages start
# are left alone: these have their own ports, socket and configuration.
set -euo pipefail

HOME_DIR="${ABLATE_SLURM:-/tmp/ablate-slurm}"
HERE="$(cd "$(dirname "$0")" && pwd)"
PYTHON="${PYTHON:-python3}"
HOST="$(hostname -s)"
export SLURM_CONF="$HOME_DIR/slurm.conf"

need_root() {
    [ "$(id -u)" = 0 ] || { echo "a test cluster needs root (slurmd starts jobs)" >&2; exit 2; }
}

install() {
    local missing=()
    for program in slurmctld slurmd munged sbatch; do
        command -v "$program" > /dev/null || missing+=("$program")
    done
    [ ${#missing[@]} = 0 ] && return
    echo "installing slurmctld slurmd slurm-client munge (missing: ${missing[*]})"
    apt-get update -qq
    # The packages must not start daemons of their own, which have no configuration.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qq -y --no-install-recommends \
        slurmctld slurmd slurm-client munge > "$HOME_DIR/apt.log"
}

configure() {
    mkdir -p "$HOME_DIR"/{state,spool,log,run}
    [ -f "$HOME_DIR/munge.key" ] || head -c 1024 /dev/urandom > "$HOME_DIR/munge.key"
    chmod 700 "$HOME_DIR" && chmod 600 "$HOME_DIR/munge.key"
    # cred_expire: how long a requeued job waits before it may start again (default 120 s).
    # The partition `low` is preempted at once, `patient` after a grace of 20 s, by `urgent`.
    cat > "$SLURM_CONF" <<CONF
ClusterName=ablate
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmctldPort=17817
AuthType=auth/munge
AuthInfo=socket=$HOME_DIR/run/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
MinJobAge=300
ReturnToService=2
MpiDefault=none
StateSaveLocation=$HOME_DIR/state
SlurmdSpoolDir=$HOME_DIR/spool/%n
SlurmctldPidFile=$HOME_DIR/run/slurmctld.pid
SlurmdPidFile=$HOME_DIR/run/slurmd-%n.pid
SlurmctldLogFile=$HOME_DIR/log/slurmctld.log
SlurmdLogFile=$HOME_DIR/log/slurmd-%n.log
NodeName=n1 NodeHostname=$HOST NodeAddr=127.0.0.1 Port=17818 CPUs=2 RealMemory=2000
NodeName=n2 NodeHostname=$HOST NodeAddr=127.0.0.1 Port=17819 CPUs=2 RealMemory=2000
PartitionName=main Nodes=n[1-2] Default=YES PriorityTier=1 PreemptMode=OFF
PartitionName=low Nodes=n1 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=patient Nodes=n1 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=n1 PriorityTier=10 PreemptMode=OFF
CONF
}

up() {
    need_root
    mkdir -p "$HOME_DIR"
    install
    configure
    munged --force --key-file="$HOME_DIR/munge.key" --socket="$HOME_DIR/run/munge.socket" \
        --pid-file="$HOME_DIR/run/munged.pid" --log-file="$HOME_DIR/log/munged.log" \
        --seed-file="$HOME_DIR/run/munged.seed"
    slurmctld -c
    slurmd -N n1
    slurmd -N n2
    for _ in $(seq 60); do
        [ "$(sinfo --noheader --Node --partition=main --states=idle --format=%N 2> /dev/null |
            wc -l)" = 2 ] && { sinfo --Node --partition=main; return; }
        sleep 0.5
    done
    echo "the nodes did not come up; see $HOME_DIR/log" >&2
    sinfo >&2 || true
    return 1
}

down() {
    [ -f "$SLURM_CONF" ] && scancel --user="$(id -un)" 2> /dev/null || true
    for name in slurmd-n1 slurmd-n2 slurmctld munged; do
        local file="$HOME_DIR/run/$name.pid"
        [ -f "$file" ] && kill "$(cat "$file")" 2> /dev/null || true
    done
    sleep 2
    rm -rf "$HOME_DIR"
}

case "${1:-}" in
    up) up ;;
    down) down ;;
    test)
        shift
        trap down EXIT
        up
        cd "$HERE/../.."
        ABLATE_TEST_SLURM=1 "$PYTHON" -m pytest "$@"
        ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac

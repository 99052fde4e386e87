#!/bin/sh
# Slurm with two nodes, a and b, on one machine. Each has network, processes, name and /tmp/ray of its own, as Ray tells
# nodes by their addresses. All of it ends with this process:
#     unshare --net --pid --mount --fork --mount-proc --kill-child sh slurm_nodes.sh FOLDER
set -eu
folder=$1 node=${2:-}
export SLURM_CONF="$folder/slurm.conf"
munge="$folder/munge"

if [ -z "$node" ]; then
    mkdir -p "$folder/state" "$folder/spool" /tmp/ray
    mkdir -m 700 "$munge"
    (umask 077 && head -c 1024 /dev/urandom >"$munge/key")
    cat >"$SLURM_CONF" <<END
ClusterName=two
SlurmctldHost=a(10.77.0.1)
SlurmUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
NodeName=a NodeAddr=10.77.0.1 CPUs=2 RealMemory=1000
NodeName=b NodeAddr=10.77.0.2 CPUs=2 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
END
    ip link add name node-a type veth peer name node-b
    for node in a b; do
        unshare --net --uts --pid --mount --fork --mount-proc --kill-child sh "$0" "$folder" $node &
        while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
        ip link set "node-$node" netns $!
    done
    wait
    exit
fi

hostname "$node"
mount -t tmpfs tmpfs /tmp/ray
ip link set lo up
until ip link set "node-$node" up 2>/dev/null; do sleep 0.05; done
if [ "$node" = a ]; then
    ip addr add 10.77.0.1/24 dev node-a
    munged --force --key-file="$munge/key" --socket="$munge/socket" --pid-file="$munge/pid" --log-file="$munge/log" \
        --seed-file="$munge/seed"
    slurmctld -c
else
    ip addr add 10.77.0.2/24 dev node-b
    until [ -S "$munge/socket" ]; do sleep 0.05; done
fi
slurmd -N "$node"
# What enters the node looks for this process.
exec sleep infinity

#!/bin/busybox sh
# The lab's first process on the root disk: makes the system ready, runs the command that the
# share holds, leaves its exit status there, and powers off.
#
# The share (/dev/vdb): checkout/ the project, site/ glassvm where that is another, files/ what --file brought, results/ what goes back,
# control/ settings and command (in), status and timed-out (out).

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/run/applets
export HOME=/root USER=root LANG=C.UTF-8 TERM="${TERM:-vt100}" TMPDIR=/tmp
b=/bin/busybox

$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t tracefs tracefs /sys/kernel/tracing
$b mkdir -p /dev/pts /dev/shm
$b mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
$b mount -t tmpfs -o mode=1777 shm /dev/shm
$b mount -t tmpfs -o mode=1777 tmp /tmp
$b mount -t tmpfs -o mode=755 run /run
$b ln -s /proc/self/fd /dev/fd
# What is not a program of its own is busybox's, last in PATH.
$b mkdir /run/applets
$b --install -s /run/applets
$b mount -t ext4 /dev/vdb /share
hostname lab
ip link set lo up

modprobe kvm_amd || echo "lab: cannot load kvm_amd"
for module in vhost_net vhost_vsock tun; do
    modprobe -q "$module"
done

# -I -S: nothing of the project, nothing of its Python packages.
python3 -I -S /sbin/lab-steady

. /share/control/settings # LAB_TIMEOUT in seconds, or 0; LAB_SHELL when one is wanted
# The project is not installed here, so that pytest has to be told of its plugin.
export GLASSVM_LAB=1 PYTHONPATH=/share/checkout:/share/site PYTEST_PLUGINS=vmm.pytest_plugin
cd /share/checkout

if [ -n "$LAB_SHELL" ]; then
    stty -F /dev/console rows "$LAB_ROWS" cols "$LAB_COLUMNS"
    setsid -c sh -l </dev/console >/dev/console 2>&1
    status=$?
else
    # Warnings too: the stack of a processor that hangs is one. They are for console.log.
    echo 5 >/proc/sys/kernel/printk
    # The output's port has the number of its device in its name.
    tries=0
    until set -- /dev/vport*p1 && [ -c "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { echo "lab: no port for the command's output"; exit 1; }
        sleep 0.1
    done
    # A session of its own, so that all of it can be ended.
    setsid sh /share/control/command </dev/null >"$1" 2>&1 &
    command=$!
    if [ "$LAB_TIMEOUT" -gt 0 ]; then
        (
            sleep "$LAB_TIMEOUT"
            : >/share/control/timed-out
            kill -TERM "-$command"
            sleep 5
            kill -KILL "-$command"
        ) &
    fi
    wait "$command"
    status=$?
fi

echo "$status" >/share/control/status
cd /
# Whatever the command left running would keep the share busy. Process 1 is not among them.
kill -KILL -1
tries=0
until umount /share 2>/dev/null || [ "$tries" -ge 50 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
sync
echo o >/proc/sysrq-trigger
# The kernel powers off from a thread of its own; process 1 must not end before.
sleep 60

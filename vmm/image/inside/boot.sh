#!/bin/sh
# Run once by init, before anybody can log in.
PATH=/usr/sbin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666,gid=5 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
mount -t tmpfs -o mode=755,nosuid,nodev run /run
mkdir -p /run/lock
ln -sf /proc/self/fd /dev/fd
mount -o remount,rw /
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname -F /etc/hostname
[ -e /etc/ld.so.cache ] || ldconfig
# A module for each device that there is, and what the power button needs. Those for features of the
# processor (KVM among them) come when they are wanted.
find /sys/devices -path /sys/devices/system -prune -o -name modalias -exec cat {} + | sort -u | xargs -r modprobe -abq
modprobe -abq evdev button
ip link set lo up
for device in /sys/class/net/e*; do
    [ -e "$device" ] || continue
    name="${device##*/}"
    ip link set "$name" up
    busybox udhcpc -b -i "$name" -s /etc/udhcpc/lease -t 5 -T 1 >/dev/null 2>&1 &
done

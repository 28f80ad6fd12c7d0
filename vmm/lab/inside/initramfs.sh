#!/bin/busybox sh
# The first process: loads the modules in their order, mounts the root disk and goes there.
# A failure ends this process; the kernel panics, and QEMU ends with it.
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    /bin/busybox insmod "$module" || /bin/busybox echo "lab: cannot load $module"
done
tries=0
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || { /bin/busybox echo "lab: no root disk"; exit 1; }
    /bin/busybox sleep 0.1
done
/bin/busybox mount -t ext4 /dev/vda /root || exit 1
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/lab-init

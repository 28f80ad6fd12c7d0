#!/bin/busybox sh
# The first process: loads the modules in their order, mounts the root disk and goes there.
# Of the kernel's command line it knows root=, ro, rw and init=.
b=/bin/busybox

fail() {
    $b echo "initrd: $1; a shell to look around, 'reboot -f' leaves it"
    exec $b sh </dev/console >/dev/console 2>&1
}

$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
for module in /modules/*.ko; do
    $b insmod "$module" || $b echo "initrd: cannot load $module"
done
root=/dev/vda mode=ro init=/sbin/init
for word in $($b cat /proc/cmdline); do
    case "$word" in
        root=*) root="${word#root=}" ;;
        init=*) init="${word#init=}" ;;
        ro | rw) mode="$word" ;;
    esac
done
tries=0
while true; do
    case "$root" in
        LABEL=* | UUID=*) device="$($b findfs "$root" 2>/dev/null)" ;;
        *) device="$root" ;;
    esac
    [ -b "$device" ] && break
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || fail "no root disk $root"
    $b sleep 0.05
done
$b mount -o "$mode" "$device" /root || fail "cannot mount $device"
$b umount /proc
$b mount --move /dev /root/dev
exec $b switch_root /root "$init"

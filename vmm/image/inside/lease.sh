#!/bin/sh
# What udhcpc has done with every lease: $1 is the event, the rest are variables.
case "$1" in
    deconfig)
        ip addr flush dev "$interface"
        ;;
    bound | renew)
        ip addr replace "$ip/${mask:-24}" dev "$interface"
        for gateway in $router; do
            ip route replace default via "$gateway" dev "$interface"
        done
        for server in $dns; do
            echo "nameserver $server"
        done >/etc/resolv.conf
        ;;
esac

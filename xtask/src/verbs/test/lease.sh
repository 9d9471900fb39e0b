#!/bin/sh
# Takes over an address that was leased, and keeps the name of who leased it.
[ "$1" = bound ] || exit 0
ip addr add "$ip/24" dev "$interface"
echo "$serverid" >/tmp/server

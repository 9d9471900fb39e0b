#!/bin/sh
# Reads, writes and reads again what is not dom0's, at the addresses given; then the memory of a device above all RAM, which is.
for address; do
	before=$(devmem "$address" 32)
	devmem "$address" 32 0x12345678
	echo "devices: at $address $before $(devmem "$address" 32)"
done
for device in /sys/bus/pci/devices/*; do
	if [ "$(cat "$device/device")" = 0x1110 ]; then
		address=$(sed -n '3s/ .*//p' "$device/resource")
		devmem "$address" 32 0x12345678
		echo "devices: own $address $(devmem "$address" 32)"
	fi
done
echo "devices: end"

#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# From simpleimage (seed_persist=yes): copies the seed into the root file system, where cloud-init's NoCloud source looks
# too, and removes its partition, so that the root can grow past it at the next boot. Whatever fails, the seed stays
# where it is, and the boot goes on.

serial=@SERIAL@
kept=/var/lib/cloud/seed/nocloud
mount=/run/simpleimage-seed

say() {
	echo "simpleimage: $*"
}

give_up() {
	say "$*; the seed stays on its volume"
	exit 0
}

# Prints the device of the volume with our serial and label.
find_volume() {
	found=$(findfs "UUID=$serial" 2>/dev/null) || return 1
	[ "$(blkid -o value -s LABEL "$found" 2>/dev/null)" = CIDATA ] && echo "$found"
}

# All files of the volume to $kept, which appears whole or not at all.
copy() {
	rm -rf "$kept.new" && (umask 077 && mkdir -p "$kept.new") || return 1
	for file in meta-data user-data network-config vendor-data; do
		[ ! -e "$mount/$file" ] || { cp "$mount/$file" "$kept.new/$file" && cmp -s "$mount/$file" "$kept.new/$file"; } || return 1
	done
	[ -s "$kept.new/meta-data" ] && [ -e "$kept.new/user-data" ] && sync && rm -rf "$kept" && mv "$kept.new" "$kept" && sync
}

copy_from() {
	(umask 077 && mkdir -p "$mount") && mount -t vfat -o ro "$1" "$mount" || return 1
	copy
	copied=$?
	umount "$mount" && rmdir "$mount"
	return "$copied"
}

# Takes partition $2 of disk $1 out of its table, and tells the kernel. The disk is in use, so that the table can't be
# read again as a whole.
remove() {
	if command -v sfdisk >/dev/null; then
		sfdisk --quiet --no-reread --no-tell-kernel --delete "$1" "$2"
	else
		sgdisk --delete="$2" "$1"
	fi || return 1
	partx --delete --nr "$2" "$1" || say "the kernel goes on with the old partition table until the next boot"
}

volume=$(find_volume) || { say "there is no seed volume, nothing to do"; exit 0; }
device=$(readlink -f "$volume") || give_up "$volume can't be found"
node=${device##*/}
copy_from "$device" || give_up "copying the seed from $device failed"
say "the seed is in $kept now"
# A whole disk is Ganeti's to remove.
[ -e "/sys/class/block/$node/partition" ] || exit 0
number=$(cat "/sys/class/block/$node/partition")
disk=$(readlink -f "/sys/class/block/$node/..") && disk=/dev/${disk##*/}
remove "$disk" "$number" || say "removing partition $number of $disk failed; it may be removed by hand"
exit 0

#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# An external-storage provider of Ganeti for the tests (ganeti-extstorage-interface(7)), all of its scripts in one file.
# A volume is a file in the folder that the file `store` names, attached to a loop device. A new volume is full of
# another tenant's data. Whoever but Ganeti detaches a volume gets a line in `complaints`. While there is a file `busy`,
# the guest of a volume goes on writing to it after a snapshot.
set -eu

store=$(cat "$(dirname "$0")/store")
volume=$store/${VOL_NAME-}

device() {
	losetup --noheadings --output NAME --associated "$volume"
}

check_still_attached() {
	if [ -e "$volume.attached" ] && [ -z "$(device)" ]; then
		echo "$VOL_NAME: found detached by $(basename "$0")" >>"$store/complaints"
	fi
}

case $(basename "$0") in
create)
	tr '\0' '\245' </dev/zero | head --bytes="${VOL_SIZE}M" >"$volume"
	;;
attach)
	[ -e "$volume" ]
	check_still_attached
	[ -n "$(device)" ] || losetup --find "$volume"
	touch "$volume.attached"
	device
	;;
detach)
	check_still_attached
	[ -z "$(device)" ] || losetup --detach "$(device)"
	rm -f "$volume.attached"
	;;
snapshot)
	[ -z "$(device)" ] || blockdev --flushbufs "$(device)"
	cp "$volume" "$store/$VOL_SNAPSHOT_NAME"
	if [ -e "$store/busy" ]; then
		echo 'written after the snapshot' | dd of="$(device)" conv=notrunc,fsync status=none
	fi
	;;
grow)
	truncate --size="${VOL_NEW_SIZE}M" "$volume"
	[ -z "$(device)" ] || losetup --set-capacity "$(device)"
	;;
remove)
	rm -f "$volume"
	;;
setinfo | verify) ;;
*)
	echo "not a script of external storage: $0" >&2
	exit 1
	;;
esac

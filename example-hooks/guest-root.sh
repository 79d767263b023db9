#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# What the example hooks share that change files of the installed Linux system: it is sourced, and stands in the
# variant's folder, beside hooks/.
#
# Mounting means that the node's kernel reads structures that somebody else made, and a bug in its file systems becomes a
# way into the node. For images of people whom you don't trust let cloud-init do it, inside the guest.

# In a mount namespace of its own: what is mounted below is gone with this process, even after SIGKILL.
[ "${1:-}" = unshared ] || exec unshare --mount --propagation private -- "$0" unshared

# The mounted root file system.
root=
mounted=

fail() {
	echo "${0##*/}: $*" >&2
	exit 1
}

unmount() {
	[ -z "$mounted" ] && return
	umount "$root" && mounted=
}

# Runs on every exit. The mount point goes with rmdir, which can't remove anything of the guest.
cleanup() {
	status=$?
	trap - EXIT
	trap '' HUP INT TERM
	unmount || status=1
	if [ -n "$root" ] && [ -z "$mounted" ]; then
		rmdir "$root" || status=1
	fi
	exit "$status"
}

# Where file systems may be: lines of offset and size in bytes. The whole disk first, then its partitions.
places() {
	echo "0 $(blockdev --getsize64 "$TARGET_DISK_DEVICE")"
	index=1
	while [ "$index" -le "${SIMPLEIMAGE_PARTITION_COUNT:-0}" ]; do
		eval "echo \"\$SIMPLEIMAGE_PARTITION_${index}_OFFSET \$SIMPLEIMAGE_PARTITION_${index}_SIZE\""
		index=$((index + 1))
	done
}

# Mounts the file system at offset $1 with size $2 (bytes), if it is one that is known.
mount_place() {
	type=$(blkid --probe --usages filesystem --offset "$1" --size "$2" --match-tag TYPE --output value \
		"$TARGET_DISK_DEVICE") || return
	case $type in
	# The file system itself may ask for a kernel panic on errors.
	ext2 | ext3 | ext4) own=errors=remount-ro ;;
	# Another disk from the same image may be mounted.
	xfs) own=nouuid ;;
	*) return 1 ;;
	esac
	# mount's loop device detaches itself when it is unmounted.
	mount -t "$type" -o "loop,offset=$1,sizelimit=$2,nosuid,nodev,noexec,$own" "$TARGET_DISK_DEVICE" "$root" || return
	mounted=yes
}

# Leaves the root file system mounted: the first that has /etc/os-release, else the first that has /etc.
mount_root() {
	[ -b "${TARGET_DISK_DEVICE:-}" ] || fail "TARGET_DISK_DEVICE names no block device"
	root=$(mktemp -d /run/simpleimage-root.XXXXXX)
	all=$(places)
	for mark in os-release .; do
		while read -r offset size; do
			mount_place "$offset" "$size" || continue
			# A link counts without being followed: it may lead out of the guest.
			if is_folder "$root/etc" && { [ -e "$root/etc/$mark" ] || [ -L "$root/etc/$mark" ]; }; then
				return
			fi
			unmount || fail "can't unmount $root"
		done <<-PLACES
			$all
		PLACES
	done
	fail "no root file system (ext2, ext3, ext4 or xfs) found on $TARGET_DISK_DEVICE"
}

# To be called at the end, so that a failure to write is an error of the hook.
unmount_root() {
	unmount || fail "can't unmount $root"
}

is_folder() {
	[ -d "$1" ] && [ ! -L "$1" ]
}

# Refuses a file in the guest that would lead us elsewhere: a link to a file of this node, a FIFO, a device.
check_file() {
	[ ! -L "$root/$1" ] || fail "/$1 in the guest is a symbolic link, which is not followed"
	[ ! -e "$root/$1" ] || [ -f "$root/$1" ] || fail "/$1 in the guest is not a regular file"
}

# Makes the missing folders on the way to the guest's file $1, and refuses links among them.
make_folders() {
	way=
	rest=$1
	while [ "$rest" != "${rest#*/}" ]; do
		way=$way/${rest%%/*}
		rest=${rest#*/}
		[ ! -L "$root$way" ] || fail "$way in the guest is a symbolic link, which is not followed"
		is_folder "$root$way" || mkdir -m 0755 "$root$way" || fail "$way in the guest is not a folder"
	done
}

# Puts standard input in the place of the guest's file $1, with mode $2, as a new file: nothing is written through the
# old one.
replace() {
	make_folders "$1"
	check_file "$1"
	new=$(mktemp "$root/$(dirname "$1")/.simpleimage.XXXXXX")
	cat >"$new"
	chmod "$2" "$new"
	mv -f -T "$new" "$root/$1"
}

trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

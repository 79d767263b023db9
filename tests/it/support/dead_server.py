# SPDX-License-Identifier: BSD-2-Clause
"""A file system with one file, `disk0`, whose server answers until it gets SIGUSR1, and then never again.

dead_server.py FOLDER: speaks FUSE's protocol itself (linux/fuse.h), of which it needs little.
"""
import ctypes
import errno
import os
import signal
import stat
import struct
import sys

place = sys.argv[1]
device = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
if libc.mount(b"server", place.encode(), b"fuse.dead", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
dead = False


def die(*_):
    global dead
    dead = True
    open(place + ".dead", "w", encoding="ascii").close()


signal.signal(signal.SIGUSR1, die)
print("ready", flush=True)
SIZE = 4 << 20


def attributes(node):
    mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o600
    return struct.pack("<6Q10I", node, 0 if node == 1 else SIZE, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode, node):
    if opcode == 26:  # FUSE_INIT
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 12, 10, 1 << 17, 1, 32, 0, 0)
    if opcode == 1:  # FUSE_LOOKUP: nothing of it is kept
        return struct.pack("<4Q2I", 2, 0, 0, 0, 0, 0) + attributes(2)
    if opcode == 3:  # FUSE_GETATTR
        return struct.pack("<QII", 0, 0, 0) + attributes(node)
    if opcode in (14, 27):  # FUSE_OPEN, FUSE_OPENDIR
        return struct.pack("<QII", 1, 0, 0)
    return b""


while True:
    request = os.read(device, 1 << 18)
    length, opcode, unique, node = struct.unpack("<IIQQ", request[:24])
    if dead:
        continue
    reply, error = answer(opcode, node), 0
    if opcode in (2, 42):  # FUSE_FORGET has no answer
        continue
    if not reply and opcode not in (18, 25, 29):
        error = -errno.ENOSYS
    os.write(device, struct.pack("<IiQ", 16 + len(reply), error, unique) + reply)

"""failing.py: disks of a running machine whose host fails: making them, a guest that writes to them, and what a policy has to do.

    m = Machine(...)
    g = Guest(m)
    fails(m, g, "raw-pause", "pause", break_it, mend, at=4)
"""
import hashlib
import os
import re
import shutil
import struct
import subprocess
import time

from lodgefs import crc32c
from machine import LODGE, check, wait_for

MIB = 1 << 20
FORMATS = ["raw", "lodgefs"] + (["qcow2"] if shutil.which("qemu-img") else [])
POLICIES = ("report", "pause", "ignore")


def sh(*cmd, code=0):
    p = subprocess.run(cmd, capture_output=True, text=True)
    check(" ".join(os.path.basename(c) for c in cmd[:4]), p.returncode == code, p.stdout + p.stderr) if p.returncode != code else None
    return p.stdout + p.stderr


def make(fmt, path, size="32M"):
    """A disk in that file or block device of the host: what --disk is given, with a name like the file's."""
    if fmt == "lodgefs":
        sh(LODGE, "store", "create", f"{path}:lodgefs", "--size", "64M", "-o", "journal=1M", "--force")
    name = f"{path}/d" if fmt == "lodgefs" else path
    if fmt != "raw" or not path.startswith("/dev/"):
        sh(LODGE, "disk", "create", f"{name}:{fmt}", "--size", size, *(["--force"] if fmt == "qcow2" else []))
    return f"{name}:{fmt}"


def whole(fmt, path):
    if fmt == "lodgefs":
        sh(LODGE, "store", "check", f"{path}:lodgefs")
    elif fmt == "qcow2":
        sh(LODGE, "disk", "info", f"{path}:qcow2")  # waits for the lock of a machine that was just killed; QEMU does not
        # What was set aside when errors were ignored nobody could give back: leaks, and nothing else.
        p = subprocess.run(["qemu-img", "check", "-q", path], capture_output=True, text=True)
        check(f"qemu-img finds no damage in {os.path.basename(path)}", p.returncode in (0, 3), p.stdout + p.stderr)


def take_lease(path):
    """Another host says that it has the store."""
    with open(path, "r+b") as f:
        f.seek(8192)
        s = bytearray(f.read(512))
        struct.pack_into("<Q", s, 8, struct.unpack_from("<Q", s, 8)[0] + 7)
        s[40:56] = os.urandom(16)
        s[56:120] = b"elsewhere".ljust(64, b"\0")
        struct.pack_into("<I", s, 4, 0)
        struct.pack_into("<I", s, 4, crc32c(bytes(s)))
        f.seek(8192)
        f.write(s)


class Guest:
    def __init__(self, m):
        self.m, self.md5 = m, m.run("dd if=/dev/urandom of=/tmp/r bs=64k count=16 2>/dev/null; md5sum </tmp/r").split()[0]
        names = m.run("for d in /sys/block/vd*; do echo $(cat $d/serial) ${d##*/}; done").split()
        self.dev = dict(zip(names[::2], names[1::2]))

    def write(self, ident, seek):
        """1 MiB at `seek` MiB: "0" when the guest was told that it is durable."""
        return self.m.run(f"dd if=/tmp/r of=/dev/{self.dev[ident]} bs=64k seek={seek * 16} oflag=direct conv=fsync 2>/dev/null; echo $?", 60).split()[0]

    def begin_write(self, ident, seek):
        # Nothing is waited for: the write may pause the machine before the shell has said a word.
        self.m.type(f"rm -f /tmp/done; (dd if=/tmp/r of=/dev/{self.dev[ident]} bs=64k seek={seek * 16} oflag=direct conv=fsync 2>/dev/null; echo $? >/tmp/done) &\n")

    def end_write(self):
        return self.m.run("while ! [ -s /tmp/done ]; do sleep 0.1; done; cat /tmp/done", 60).split()[-1]

    def read(self, ident, seek):
        """The sum of 1 MiB; None: an error. (The kernel may say something in between.)"""
        said = self.m.run(f"dd if=/dev/{self.dev[ident]} of=/tmp/back bs=64k skip={seek * 16} count=16 iflag=direct 2>/dev/null && set -- $(md5sum </tmp/back) || set -- none; "
                          'echo "sum=$1"', 60)
        found = re.findall(r"sum=(\w+)", said)[-1]
        return None if found == "none" else found

    def is_there(self, ident, seek):
        return self.read(ident, seek) == self.md5

    def begin_read(self, ident, seek):
        self.m.type(f"rm -f /tmp/done; (dd if=/dev/{self.dev[ident]} of=/tmp/back bs=64k skip={seek * 16} count=16 iflag=direct 2>/dev/null; "
                    "md5sum </tmp/back | cut -c1-32 >/tmp/done) &\n")


def gets(m, state):
    """Whether the machine comes into that state."""
    return wait_for(lambda: m.call("status")["state"] == state)


def fails(m, g, ident, policy, break_it, mend, at):
    """Something of the host breaks while the guest writes, and is mended."""
    break_it()
    if policy == "pause":
        g.begin_write(ident, at)
        check(f"{ident}: the machine is paused", gets(m, "paused"))
        m.call("resume")
        check(f"{ident}: and again, as nothing has changed", gets(m, "paused"))
        mend()
        m.call("resume")
        check(f"{ident}: mended, and the guest has noticed nothing", g.end_write() == "0" and g.is_there(ident, at))
    else:
        said = g.write(ident, at)
        check(f"{ident}: the guest is told {'the error' if policy == 'report' else 'that all is well'}", (said == "0") == (policy == "ignore"), said)
        mend()
        time.sleep(.2)
        check(f"{ident}: mended, it goes on", g.write(ident, at) == "0" and g.is_there(ident, at))
    check(f"{ident}: what was acknowledged before is there", g.is_there(ident, 0))
    check(f"{ident}: the machine runs", m.call("status")["state"] == "running")


def first_mib(fmt, path):
    """What the host reads of the disk in that file: the sum of its first MiB."""
    name = f"{path}/d" if fmt == "lodgefs" else path
    sh(LODGE, "disk", "convert", f"{name}:{fmt}", f"{os.environ.get('LODGE_TMP', '/tmp')}/first:raw", "--force")
    with open(f"{os.environ.get('LODGE_TMP', '/tmp')}/first", "rb") as f:
        return hashlib.md5(f.read(MIB)).hexdigest()

#!/usr/bin/env python3
# time-limit: 300
"""The host fails under the disks of a running machine, raw, qcow2 and lodgefs, each with each policy: full, over the quota, files removed and cut off, a
second opener, read-only. What was asked for happens, the machine lives, and what was acknowledged is there.

Mounts a small tmpfs, which needs root.
"""
import os
import resource
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import HOME, LODGE, TMP, VM, Machine, check, fill_up, mini_image

if os.getuid():
    print("SKIP: mounting needs root")
    sys.exit(77)
mini = mini_image()
MIB = 1 << 20
FORMATS = ["raw", "lodgefs"] + (["qcow2"] if shutil.which("qemu-img") else [])
small, filler = f"{TMP}/small", f"{TMP}/small/filler"


def sh(*cmd, code=0):
    p = subprocess.run(cmd, capture_output=True, text=True)
    check(" ".join(os.path.basename(c) for c in cmd[:4]), p.returncode == code, p.stdout + p.stderr) if p.returncode != code else None
    return p.stdout + p.stderr


def make(fmt, ident):
    """(flag of --disk, file of the host)"""
    path = f"{small}/{ident}"
    if fmt == "lodgefs":
        sh(LODGE, "store", "create", f"{path}:lodgefs", "--size", "64M", "-o", "journal=1M")
    name = f"{path}/d" if fmt == "lodgefs" else path
    sh(LODGE, "disk", "create", f"{name}:{fmt}", "--size", "32M")
    return f"{name}:{fmt},id={ident}", path


def whole(fmt, path):
    if fmt == "lodgefs":
        sh(LODGE, "store", "check", f"{path}:lodgefs")
    elif fmt == "qcow2":
        # What was set aside when errors were ignored nobody could give back: leaks, and nothing else.
        p = subprocess.run(["qemu-img", "check", "-q", path], capture_output=True, text=True)
        check(f"qemu-img finds no damage in {os.path.basename(path)}", p.returncode in (0, 3), p.stdout + p.stderr)


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

    def is_there(self, ident, seek):
        return self.m.run(f"dd if=/dev/{self.dev[ident]} bs=64k skip={seek * 16} count=16 iflag=direct 2>/dev/null | md5sum", 60).split()[0] == self.md5


def until(m, state):
    for _ in range(1200):
        if m.call("status")["state"] == state:
            return True
        time.sleep(0.05)
    return False


def fails(m, g, ident, policy, break_it, mend, at):
    """Something of the host breaks while the guest writes, and is mended."""
    break_it()
    if policy == "pause":
        g.begin_write(ident, at)
        check(f"{ident}: the machine is paused", until(m, "paused"))
        m.call("resume")
        check(f"{ident}: and again, as nothing has changed", until(m, "paused"))
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


def quota(m, g, ident, policy):
    limit = lambda n: resource.prlimit(m.p.pid, resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY))
    # Whatever lies behind that place in the file cannot be written.
    n = {"raw": 8, "qcow2": 1, "lodgefs": 4}[ident.split("-")[0]] * MIB
    fails(m, g, ident, policy, lambda: limit(n), lambda: limit(resource.RLIM_INFINITY), 20)


def main():
    disks = {f"{fmt}-{policy}": (fmt, policy, *make(fmt, f"{fmt}-{policy}")) for fmt in FORMATS for policy in ("report", "pause", "ignore")}
    flags = [f"{flag},on-error={policy}" for fmt, policy, flag, _ in disks.values()]
    files = {}
    for fmt in FORMATS:
        for what in ("gone", "cut"):
            flag, files[fmt, what] = make(fmt, f"{fmt}-{what}")
            flags.append(flag)
    argv = ["--kernel", mini["kernel"], "--initrd", mini["initrd"], "--append", mini["append"], "--memory", "160M", "--smp", "1", "--seed", "3"]
    with Machine(*argv, *sum((["--disk", f"{f},queues=1"] for f in flags), []), name="dv1") as m:
        m.expect(b"debian:mini ready", 90)
        m.expect(b"# ", 10)
        g = Guest(m)
        for ident, (fmt, policy, _, _) in disks.items():
            check(f"{ident}: written before", g.write(ident, 0) == "0")
            fails(m, g, ident, policy, lambda: fill_up(filler), lambda: os.unlink(filler), 4)
            quota(m, g, ident, policy)
        for fmt in FORMATS:
            check(f"{fmt}: written before", g.write(f"{fmt}-gone", 0) == "0" and g.write(f"{fmt}-cut", 2) == "0" and g.write(f"{fmt}-cut", 24) == "0")
            os.unlink(files[fmt, "gone"])
            check(f"{fmt}: the file is removed, and the disk works", g.write(f"{fmt}-gone", 3) == "0" and g.is_there(f"{fmt}-gone", 0) and g.is_there(f"{fmt}-gone", 3))
            os.truncate(files[fmt, "cut"], min(2 * MIB, os.path.getsize(files[fmt, "cut"]) // 8))
            check(f"{fmt}: the file is cut off: what is gone is not handed out as the data", not g.is_there(f"{fmt}-cut", 24))
            g.write(f"{fmt}-cut", 1)
            check(f"{fmt}: and the machine runs", m.call("status")["state"] == "running")
        for flag in (f"{flags[0]}", f"{disks['lodgefs-report'][2]}"):
            p = subprocess.run([VM, "--name", "dv2", *argv, "--disk", flag], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                               env=dict(os.environ, LODGE_HOME=HOME))
            check(f"a second machine is refused {flag.split(',')[1]}", p.returncode == 1 and "in use" in p.stderr and str(m.p.pid) in p.stderr, p.stderr)
        m.type("poweroff\n")
        check("powers off with 0", m.wait(60) == 0)
    for ident, (fmt, policy, _, path) in disks.items():
        whole(fmt, path)
    for _ in range(100):  # the kernel takes a ring down a little after its process is gone
        if not subprocess.run(["mount", "-o", "remount,ro", small], capture_output=True).returncode:
            break
        time.sleep(.1)
    p = subprocess.run([VM, "--name", "dv3", *argv, "--disk", disks["raw-report"][2]], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                       env=dict(os.environ, LODGE_HOME=HOME))
    check("a host that may only be read: refused, with what to do", p.returncode == 2 and "readonly" in p.stderr, p)


os.makedirs(small)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", small], check=True)
try:
    main()
finally:
    subprocess.run(["umount", "-l", small], check=True)

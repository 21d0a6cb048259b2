#!/usr/bin/env python3
# time-limit: 300
"""The host fails under the disks of a running machine, raw, qcow2 and lodgefs, each with each policy: full, over a limit of file sizes, files removed and cut
off, a second opener, read-only. What was asked for happens, the machine lives, and what was acknowledged is there. More of it: disk-vm-host.py.

Mounts a small tmpfs, which needs root.
"""
import os
import resource
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from failing import FORMATS, MIB, POLICIES, Guest, fails, make, whole
from machine import HOME, TMP, VM, Machine, check, fill_up, mini_image, wait_for

if os.getuid():
    print("SKIP: mounting needs root")
    sys.exit(77)
mini = mini_image()
small, filler = f"{TMP}/small", f"{TMP}/small/filler"


def file_sizes(m, g, ident, policy):
    limit = lambda n: resource.prlimit(m.p.pid, resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY))
    # Whatever lies behind that place in the file cannot be written.
    n = {"raw": 8, "qcow2": 1, "lodgefs": 4}[ident.split("-")[0]] * MIB
    fails(m, g, ident, policy, lambda: limit(n), lambda: limit(resource.RLIM_INFINITY), 20)


def main():
    disks = {f"{fmt}-{policy}": (fmt, policy) for fmt in FORMATS for policy in POLICIES}
    flags = {ident: f"{make(fmt, f'{small}/{ident}')},id={ident},on-error={policy}" for ident, (fmt, policy) in disks.items()}
    flags |= {i: f"{make(fmt, f'{small}/{i}')},id={i}" for fmt in FORMATS for i in (f"{fmt}-gone", f"{fmt}-cut")}
    argv = ["--kernel", mini["kernel"], "--initrd", mini["initrd"], "--append", mini["append"], "--memory", "160M", "--smp", "1", "--seed", "3"]
    with Machine(*argv, *sum((["--disk", f"{f},queues=1"] for f in flags.values()), []), name="dv1") as m:
        m.expect(b"debian:mini ready", 90)
        m.expect(b"# ", 10)
        g = Guest(m)
        for ident, (fmt, policy) in disks.items():
            check(f"{ident}: written before", g.write(ident, 0) == "0")
            fails(m, g, ident, policy, lambda: fill_up(filler), lambda: os.unlink(filler), 4)
            file_sizes(m, g, ident, policy)
        for fmt in FORMATS:
            gone, cut = f"{small}/{fmt}-gone", f"{small}/{fmt}-cut"
            check(f"{fmt}: written before", g.write(f"{fmt}-gone", 0) == "0" and g.write(f"{fmt}-cut", 2) == "0" and g.write(f"{fmt}-cut", 24) == "0")
            os.unlink(gone)
            check(f"{fmt}: the file is removed, and the disk works", g.write(f"{fmt}-gone", 3) == "0" and g.is_there(f"{fmt}-gone", 0) and g.is_there(f"{fmt}-gone", 3))
            os.truncate(cut, min(2 * MIB, os.path.getsize(cut) // 8))
            check(f"{fmt}: the file is cut off: what is gone is an error", g.read(f"{fmt}-cut", 24) is None)
            g.write(f"{fmt}-cut", 1)
            check(f"{fmt}: and the machine runs", m.call("status")["state"] == "running")
        for ident in ("raw-report", "lodgefs-report"):
            p = subprocess.run([VM, "--name", "dv2", *argv, "--disk", flags[ident]], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                               env=dict(os.environ, LODGE_HOME=HOME))
            check(f"a second machine is refused {ident}", p.returncode == 1 and "in use" in p.stderr and str(m.p.pid) in p.stderr, p.stderr)
        m.type("poweroff\n")
        check("powers off with 0", m.wait(60) == 0)
    for ident, (fmt, policy) in disks.items():
        whole(fmt, f"{small}/{ident}")
    # The kernel takes a ring down a little after its process is gone.
    wait_for(lambda: not subprocess.run(["mount", "-o", "remount,ro", small], capture_output=True).returncode)
    p = subprocess.run([VM, "--name", "dv3", *argv, "--disk", flags["raw-report"]], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                       env=dict(os.environ, LODGE_HOME=HOME))
    check("a host that may only be read: refused, with what to do", p.returncode == 2 and "readonly" in p.stderr, p)


os.makedirs(small)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=56m", "tmpfs", small], check=True)
try:
    main()
finally:
    subprocess.run(["umount", "-l", small], check=True)

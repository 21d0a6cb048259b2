#!/usr/bin/env python3
# time-limit: 300
"""More of what disk-vm.py is about, on hosts that can fail in other ways: block devices with I/O errors, and ones that turn read-only; a file system's quota;
files that are cut off and mended; a lease that another host takes; pages that the host's cache has lost; disks of 16 TiB. raw, qcow2 and lodgefs, with
report, pause and ignore.

Mounts a small tmpfs with loop devices on it, and a btrfs; both need root.
"""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from failing import FORMATS, MIB, POLICIES, Guest, fails, first_mib, gets, make, sh, take_lease, whole
from machine import LODGE, TMP, Machine, check, fill_up, mini_image

if os.getuid():
    print("SKIP: mounting needs root")
    sys.exit(77)
mini = mini_image()
small, filler, big = f"{TMP}/small", f"{TMP}/small/filler", f"{TMP}/btrfs"
EACH = {f"{fmt}-{policy}": (fmt, policy) for fmt in FORMATS for policy in POLICIES}
loops = []


def machine(name, flags):
    m = Machine("--kernel", mini["kernel"], "--initrd", mini["initrd"], "--append", mini["append"], "--memory", "160M", "--smp", "1", "--seed", "3",
                *sum((["--disk", f"{f},queues=1"] for f in flags), []), name=name)
    try:
        m.expect(b"debian:mini ready", 90)
        m.expect(b"# ", 10)
    except BaseException:
        m.__exit__()
        raise
    return m


def loop(path, size):
    with open(path, "wb") as f:
        f.truncate(size)
    loops.append(sh("losetup", "-f", "--show", path).strip())
    return loops[-1]


def lease(m, g, ident, policy, path):
    check(f"{ident}: written before", g.write(ident, 0) == "0")
    take_lease(path)
    if policy == "pause":
        g.begin_write(ident, 4)
        check(f"{ident}: the machine is paused", gets(m, "paused"))
        m.call("resume")
        check(f"{ident}: and again, as the store is somebody else's", gets(m, "paused"))
    else:
        check(f"{ident}: the guest is told as was asked for", (g.write(ident, 4) == "0") == (policy == "ignore"))


def huge(g, ident):
    end = (16 << 20) - 1  # MiB
    check(f"{ident}: the guest sees 16 TiB", g.m.run(f"cat /sys/block/{g.dev[ident]}/size").strip() == str(16 << 31))
    for at in (0, end // 2, end):
        check(f"{ident}: it works at {at} MiB", g.write(ident, at) == "0" and g.is_there(ident, at))


def lost(m, g):
    """A device that fails behind the page cache: the flush is held, and may never be called done."""
    check("lost: written before", g.write("lost", 0) == "0")
    fill_up(filler)
    g.begin_write("lost", 8)
    check("lost: the machine is paused", gets(m, "paused"))
    os.unlink(filler)
    m.call("resume")
    check("lost: there is room, and what the host has forgotten is not called durable", gets(m, "paused"))


def devices():
    flags, paths = [], {}
    for ident, (fmt, policy) in EACH.items():
        paths[ident] = loop(f"{small}/{ident}", 32 * MIB if fmt == "raw" else 64 * MIB)
        flags.append(f"{make(fmt, paths[ident])},id={ident},on-error={policy},cache=none")
    for fmt in FORMATS:
        flags.append(f"{make(fmt, f'{small}/{fmt}-16T', '16T')},id={fmt}-16T")
    for policy in POLICIES:
        flags.append(f"{make('lodgefs', f'{small}/lease-{policy}')},id=lease-{policy},on-error={policy}")
    flags.append(f"{loop(f'{small}/lost', 32 * MIB)}:raw,id=lost,on-error=pause")
    with machine("dh1", flags) as m:
        g = Guest(m)
        for fmt in FORMATS:
            huge(g, f"{fmt}-16T")
        for ident, (fmt, policy) in EACH.items():
            dev = paths[ident]
            check(f"{ident}: written before", g.write(ident, 0) == "0")
            fails(m, g, ident, policy, lambda: fill_up(filler), lambda: os.unlink(filler), 4)
            fails(m, g, ident, policy, lambda: sh("blockdev", "--setro", dev), lambda: sh("blockdev", "--setrw", dev), 6)
        for policy in ("report", "ignore"):
            lease(m, g, f"lease-{policy}", policy, f"{small}/lease-{policy}")
        lost(m, g)
        m.call("reset")  # reports it to the guest that was
        m.call("resume")
        m.expect(b"debian:mini ready", 90)
        m.expect(b"# ", 10)
        later = Guest(m)
        lease(m, later, "lease-pause", "pause", f"{small}/lease-pause")
    for ident, (fmt, policy) in EACH.items():
        whole(fmt, paths[ident])
    for policy in POLICIES:
        path = f"{small}/lease-{policy}"
        whole("lodgefs", path)
        sh(LODGE, "store", "take", f"{path}:lodgefs")
        check(f"lease-{policy}: what was acknowledged before is there", first_mib("lodgefs", path) == (later if policy == "pause" else g).md5)


def cut(m, g, ident, policy, path):
    """Cut off, and what was there is put back. lodgefs trusts nothing after that until the store is opened again."""
    check(f"{ident}: written before", g.write(ident, 0) == "0" and g.write(ident, 20) == "0")
    size = os.path.getsize(path)
    with open(path, "r+b") as f:
        f.seek(size // 8)
        tail = f.read()
        f.truncate(size // 8)
        mend = lambda: (f.seek(size // 8), f.write(tail), f.flush())
        if policy == "pause":
            g.begin_read(ident, 20)
            check(f"{ident}: cut off: the machine is paused", gets(m, "paused"))
            mend()
            m.call("resume")
            check(f"{ident}: put back, and the guest has noticed nothing", g.end_write() == g.md5)
        else:
            said = g.read(ident, 20)
            check(f"{ident}: cut off: the guest is told as was asked for", said is not None and said != g.md5)
            mend()
            check(f"{ident}: put back, it is there", g.is_there(ident, 20))
    check(f"{ident}: what lies before the cut is there", g.is_there(ident, 0))


def files():
    back = f"{TMP}/btrfs.img"
    dev = loop(back, 320 * MIB)
    sh("mkfs.btrfs", "-q", "-M", dev)
    os.makedirs(big)
    sh("mount", dev, big)
    try:
        sh("btrfs", "subvolume", "create", f"{big}/s")
        sh("btrfs", "quota", "enable", big)
        flags = [f"{make(fmt, f'{big}/s/{ident}')},id={ident},on-error={policy}" for ident, (fmt, policy) in EACH.items()]
        cuts = {f"cut-{fmt}-{policy}": (fmt, policy) for fmt in FORMATS for policy in ("pause", "ignore")}
        flags += [f"{make(fmt, f'{big}/{ident}')},id={ident},on-error={policy}" for ident, (fmt, policy) in cuts.items()]
        limit = lambda n: sh("btrfs", "qgroup", "limit", n, "0/256", big)  # the first subvolume
        with machine("dh2", flags) as m:
            g = Guest(m)
            for ident, (fmt, policy) in EACH.items():
                check(f"{ident}: written before", g.write(ident, 0) == "0")
                fails(m, g, ident, policy, lambda: limit("512K"), lambda: limit("none"), 4)
            for ident, (fmt, policy) in cuts.items():
                cut(m, g, ident, policy, f"{big}/{ident}")
            m.type("poweroff\n")
            check("powers off with 0", m.wait(60) == 0)
        for ident, (fmt, policy) in EACH.items():
            whole(fmt, f"{big}/s/{ident}")
    finally:
        subprocess.run(["umount", "-l", big])


os.makedirs(small)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", small], check=True)
try:
    devices()
    if shutil.which("mkfs.btrfs"):
        files()
    else:
        print("SKIP: mkfs.btrfs is not installed; tools/setup --test gets it")
finally:
    for d in loops:
        subprocess.run(["losetup", "-d", d])
    subprocess.run(["umount", "-l", small], check=True)

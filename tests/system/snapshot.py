#!/usr/bin/env python3
# time-limit: 420
"""Snapshots of running machines: exact to the page, whatever fails nothing is left, and a machine goes on from them."""
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, SLOW, lodge, pid, until, wait_rounds
from migration import rpc
from machine import BUILD, HOME, LODGE, TMP, check, skip, wait_for

STAMP, STAMP_X86 = (os.path.join(BUILD, "guest", f"stamp-{isa}.elf") for isa in ("rv64", "x86"))
STORE = os.path.join(HOME, "data", "snapshots")


def last(p):
    return json.loads(p.stdout.strip().split("\n")[-1])


def boot(name, smp, memory="128M", *more):
    lodge("run", *(("--kernel", STAMP_X86) if "kvm" in more else ("--firmware", STAMP)), "--memory", memory, "--smp", str(smp), "--name", name, "-d", *more)
    until(f"{name} starts", lambda: "rounds" in lodge("logs", name).stdout)


def store():
    return sorted(os.listdir(STORE)) if os.path.isdir(STORE) else []


def files_of(name):
    return len(os.listdir(f"/proc/{pid(name)}/fd"))


def threads_of(name):
    return len(os.listdir(f"/proc/{pid(name)}/task"))


if not os.path.exists(STAMP):
    skip("riscv64-linux-gnu-gcc is not installed")

# ---- exact: each page is of one moment, by what the guest itself finds when it goes on ----
WAYS = [(2, "64M", []), (3, "256K", []), (2, "256K", ["--engine", "interp"])]
if os.access("/dev/kvm", os.R_OK | os.W_OK) and os.path.exists(STAMP_X86):
    WAYS += [(2, "64M", ["--engine", "kvm"]), (3, "256K", ["--engine", "kvm"])]
for smp, queue, how in WAYS:
    what = f"{smp} vCPUs, queue {queue}{', ' + how[1] if how else ''}"
    memory = 64 if "kvm" in how else 128
    boot("a", smp, f"{memory}M", *how)
    wait_rounds("a", 3)
    # A quick disk may keep up with the writers of a small guest; kvm's has little to write.
    full = queue == "256K" and "kvm" not in how
    for attempt in range(10):
        st = last(lodge("snapshot", "create", "a", "--name", "s", "--queue", queue, "--json"))
        if not full or st["throttled"] and st["packed"]:
            break
        lodge("snapshot", "rm", "s")
    check(f"{what}: pages were caught and swept", st["caught"] > 0 and st["swept"] > 0, st)
    check(f"{what}: each page once", st["caught"] + st["swept"] == st["pages"] == memory * 256, st)
    check(f"{what}: the queue kept its limit", st["queue_max"] * 4096 <= {"256K": 1 << 18, "64M": 1 << 26}[queue], st)
    if full:
        check(f"{what}: writers waited", st["throttled"] > 0, st)
        check(f"{what}: some pages were compressed", st["packed"] > 0, st)
    wait_rounds("a", 2)
    check(f"{what}: verifies", lodge("snapshot", "verify", "s").returncode == 0)
    lodge("kill", "a")
    lodge("restore", "s", "--name", "b", "-d")
    lodge("restore", "s", "--name", "c", "-d")
    wait_rounds("b", 3)
    wait_rounds("c", 3)
    check(f"{what}: two machines go on from it, each page is of its moment", True)
    # A snapshot of a machine that came from one.
    lodge("snapshot", "create", "b", "--name", "s2", "--queue", queue)
    lodge("kill", "b")
    lodge("kill", "c")
    lodge("snapshot", "rm", "s")
    lodge("snapshot", "verify", "s2")
    lodge("snapshot", "export", "s2", os.path.join(TMP, "s2.export"))
    lodge("snapshot", "rm", "s2")
    lodge("snapshot", "import", os.path.join(TMP, "s2.export"), "--name", "s3")
    lodge("restore", "s3", "-d")
    wait_rounds("b", 2)
    check(f"{what}: and from a snapshot of one of them, exported and imported", True)
    lodge("kill", "b")
    lodge("snapshot", "rm", "s3")
    os.unlink(os.path.join(TMP, "s2.export"))
check("nothing is left in the store", store() == [], store())

# ---- those that an earlier version wrote: packed, one hart that ticks; with a page store, two harts, working set and hot code; and what changed since that one ----
KEPT = os.path.join(os.environ["LODGE_TOP"], "tests/fixtures/snapshot")
shutil.copyfile(STAMP, "stamp.elf")
os.makedirs(STORE, exist_ok=True)
for kept in os.listdir(KEPT):
    with (lzma.open if kept.endswith(".xz") else open)(os.path.join(KEPT, kept), "rb") as f, open(os.path.join(STORE, kept.removesuffix(".xz")), "wb") as to:
        shutil.copyfileobj(f, to)
check("all of them are here", store() == ["child-1.snap", "stamp-1.snap", "whole-1.snap"], store())
for name in "child-1", "stamp-1", "whole-1":
    lodge("snapshot", "verify", name)
    lodge("restore", name, "--name", "old", "-d")
    check(f"{name}: goes on", wait_for(lambda: "gap" in lodge("logs", "old").stdout, 20))
    if name != "stamp-1":
        wait_rounds("old", 3)
        check(f"{name}: each page is of its moment", True)
    lodge("kill", "old")
    lodge("snapshot", "rm", name)

# ---- clones of a machine that runs ----
boot("a", 2)
names = lodge("clone", "a", "-n", "3").stdout.split()
check("three clones", names == ["a-1", "a-2", "a-3"], names)
for n in names + ["a"]:
    wait_rounds(n, 2)
check("nothing is kept for them in the store", store() == [], store())
for n in names + ["a"]:
    lodge("kill", n)

# ---- refused, stopped, failed: the machine runs on and nothing is left ----
boot("a", 2)
lodge("snapshot", "create", "a", "--name", "s")
p = lodge("snapshot", "create", "a", "--name", "s", ok=False)
check("a name that is taken", p.returncode == 1 and "is there already" in p.stderr, p.stderr)
p = lodge("snapshot", "create", "a", "--name", "x/y", ok=False)
check("a name that is none", p.returncode == 2 and "snapshot name" in p.stderr, p.stderr)
p = lodge("snapshot", "create", "nobody", ok=False)
check("no such machine", p.returncode == 3, p.stderr)
p = lodge("snapshot", "create", "a", "--with-disks", ok=False)
check("--with-disks without a disk", p.returncode == 1 and "no disk" in p.stderr, p.stderr)
p = lodge("restore", "s", ok=False)
check("its name is taken", p.returncode == 4 and "--name" in p.stderr, p.stderr)
p = lodge("restore", "t", ok=False)
check("no such snapshot", p.returncode == 3 and "did you mean s" in p.stderr, p.stderr)

# Two at once: a tiny queue's throttling makes the first one last. On a busy host it may still be over before the second comes.
busy = None
for _ in range(20):
    first = subprocess.Popen([LODGE, "snapshot", "create", "a", "--name", "one", "--queue", "256K"], env=ENV, stderr=subprocess.PIPE, text=True)
    while first.poll() is None and busy is None:
        p = lodge("snapshot", "create", "a", "--name", "two", ok=False)
        if p.returncode == 4:
            busy = p.stderr
        elif p.returncode == 0:
            lodge("snapshot", "rm", "two")
    first.wait()
    if busy:
        break
    # Or the second had come first, and it was the first that was refused.
    if first.returncode == 0:
        lodge("snapshot", "rm", "one")
check("two at once: the second is refused and says by whom", busy is not None and "(one)" in busy, busy)
check("the first of the two is whole", first.returncode == 0 and lodge("snapshot", "verify", "one").returncode == 0)
lodge("snapshot", "rm", "one")

for sig in signal.SIGINT, signal.SIGKILL:
    p = subprocess.Popen([LODGE, "snapshot", "create", "a", "--name", "gone", "--queue", "256K"], env=ENV, stderr=subprocess.PIPE, text=True)
    time.sleep(0.06)
    p.send_signal(sig)
    err = p.communicate(timeout=20 * SLOW)[1]
    check(f"{sig.name}: nothing is left", p.returncode != 0 and "gone.snap" not in store(), (p.returncode, err, store()))
    wait_rounds("a", 2)
    until(f"{sig.name}: the machine has noticed", lambda: rpc("a", "snapshot_status")["state"] != "writing")

# A full disk: writes fail in the middle.
mnt = os.path.join(TMP, "small")
os.makedirs(mnt, exist_ok=True)
if os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", mnt], capture_output=True).returncode == 0:
    try:
        os.rename(STORE, STORE + ".away")
        os.symlink(mnt, STORE)
        for i in range(3):
            p = lodge("snapshot", "create", "a", "--name", "full", ok=False)
            check("a full disk is said", p.returncode == 1 and "No space" in p.stderr, p.stderr)
        wait_rounds("a", 2)
        check("a full disk: nothing is left", wait_for(lambda: os.listdir(mnt) == [] and (room := os.statvfs(mnt)).f_bfree == room.f_blocks), os.listdir(mnt))
    finally:
        os.unlink(STORE)
        os.rename(STORE + ".away", STORE)
        subprocess.run(["umount", mnt])
else:
    print("PASS: a full disk was not tried: no tmpfs can be mounted here")

# kill -9 of the machine in the middle.
boot("k", 2)
p = subprocess.Popen([LODGE, "snapshot", "create", "k", "--name", "dead", "--queue", "256K"], env=ENV, stderr=subprocess.PIPE, text=True)
until("k is being saved", lambda: rpc("k", "snapshot_status")["state"] == "writing" or p.poll() is not None)
os.kill(pid("k"), signal.SIGKILL)
err = p.communicate(timeout=20 * SLOW)[1]
check("kill -9 of the machine: there is no snapshot", p.returncode != 0 and "k ended in the middle of it" in err and "dead.snap" not in store(), err)

# ---- damage ----
path = os.path.join(STORE, "s.snap")
whole = os.path.join(TMP, "damaged.snap")
shutil.copyfile(path, whole)
good = open(whole, "r+b")
size = os.path.getsize(whole)
for at in 100, 4090, (2 << 20) + 4096 * 1500 + 9, size - 40, 1 << 20:
    good.seek(at)
    byte = good.read(1)
    good.seek(at)
    good.write(bytes([byte[0] ^ 4]))
    good.flush()
    p = lodge("snapshot", "verify", whole, ok=False)
    check(f"a bit at {at:#x} is found", p.returncode == 1 and "damaged" in p.stderr, p.stderr)
    good.seek(at)
    good.write(byte)
    good.flush()
good.truncate(size // 2)
p = lodge("restore", whole, "--name", "d", "-d", ok=False)
check("a file that was cut is refused", p.returncode == 1 and "cut short" in p.stderr, p.stderr)
good.truncate(0)
good.truncate(size)
p = lodge("restore", whole, "--name", "d", "-d", ok=False)
check("one that was never finished says so", p.returncode == 1 and "never finished" in p.stderr, p.stderr)
good.close()

# ---- no leak ----
lodge("kill", "a")
boot("a", 1)  # ticks only: a hundred of them are quick
fds, threads = files_of("a"), threads_of("a")
rss = []
for i in range(100):
    lodge("snapshot", "create", "a", "--name", "loop")
    lodge("snapshot", "rm", "loop")
    if i in (30, 99):
        rss.append(int(re.search(r"RssAnon:\s+(\d+)", open(f"/proc/{pid('a')}/status").read()).group(1)))
check("100 in a loop: no descriptor, no thread is left", wait_for(lambda: files_of("a") <= fds and threads_of("a") == threads), (files_of("a"), fds, threads_of("a"), threads))
check("100 in a loop: no memory is left", rss[1] < rss[0] + 16384, rss)
lodge("kill", "a")

#!/usr/bin/env python3
# time-limit: 420
"""Clones of machines that write to disks: each clone's disks and its memory are of one moment, in raw, qcow2 and lodgefs, and its own from then on; the
machine that was cloned writes on and its disks are its own; nothing is left when clones are removed, or do not come about. Also of snapshots, and on kvm."""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, lodge, until, wait_rounds
from machine import BUILD, HOME, LODGE, TMP, check, mini_image, skip, wait_for

PAIR = os.path.join(BUILD, "guest", "pairstamp")
VMS = os.path.join(HOME, "data", "vms")
N = int(os.environ.get("LODGE_CLONES", "2"))
if not os.path.exists(PAIR):
    skip("riscv64-linux-gnu-gcc is not installed")
subprocess.run([LODGE, "image", "pull", "debian:mini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=100)
image = mini_image()


def sh(name, command):
    return lodge("exec", "--wait", "60", name, "--", "sh", "-c", command).stdout


def rounds(name):
    text = lodge("logs", name).stdout
    if "FAIL" in text:
        check(f"{name}: memory and disks are of one moment", False, text[text.index("FAIL") - 20:][:200])
    return [max(map(int, re.findall(rf"pairstamp /dev/vd{d} rounds (\d+)", text)), default=0) for d in "abc"]


def stamps_on(name, more, what):
    """Each stamper has gone over its disk and its memory and found nothing wrong."""
    first = rounds(name)
    until(what, lambda: all(b >= a + more for a, b in zip(first, rounds(name))), 90, lambda: (first, rounds(name)))


def fsck(disk):
    """Of a disk that no machine has; and the sha256 of it."""
    out = os.path.join(TMP, "out.raw")
    lodge("disk", "convert", disk, f"{out}:raw", "--force")
    p = subprocess.run(["e2fsck", "-fn", out], capture_output=True, text=True)
    check(f"{os.path.relpath(disk, HOME)}: e2fsck finds nothing", p.returncode == 0, p.stdout[-300:])
    os.unlink(out)


def places():
    return sorted(os.listdir(VMS)) if os.path.isdir(VMS) else []


def unnamed():
    """Bytes of files in the folder of the machines."""
    return sum(os.stat(os.path.join(d, f)).st_size for d, _, files in os.walk(VMS) for f in files if f.endswith((".base", ".qcow2")))


q, r, store, fs = (os.path.join(TMP, n) for n in ("q.qcow2", "r.raw", "pool.lodge", "fs.raw"))
lodge("disk", "create", f"{q}:qcow2", "--size", "32M")
lodge("disk", "create", f"{r}:raw", "--size", "32M")
lodge("store", "create", f"{store}:lodgefs", "--size", "128M")
lodge("disk", "create", f"{store}/one:lodgefs", "--size", "32M")
with open(fs, "wb") as f:
    f.truncate(96 << 20)
subprocess.run(["mke2fs", "-q", "-t", "ext4", fs], check=True)
lodge("run", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "192M", "--smp", "2", "--name", "a", "-d",
      "--disk", f"{q}:qcow2", "--disk", f"{r}:raw", "--disk", f"{store}/one:lodgefs", "--disk", f"{fs}:raw")
sh("a", "modprobe ext4; mount -t ext4 /dev/vdd /mnt; cd /mnt; for i in 1 2 3 4; do head -c 3000000 /dev/urandom > d$i; done; sha256sum d1 d2 d3 d4 > sums; sync")
lodge("cp", PAIR, "a:/bin/pairstamp")
for d in "abc":
    sh("a", f"pairstamp /dev/vd{d} 256 512 >/dev/console 2>&1 </dev/null &")
sh("a", "(i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo line $i >> /mnt/log; sync; usleep 20000; done; touch /tmp/logged) >/dev/null 2>&1 </dev/null &")
stamps_on("a", 2, "the stampers run")

# ---- of a machine that runs ----
names = lodge("clone", "a", "-n", str(N), seconds=100 + 10 * N).stdout.split()
check(f"{N} clones", names == [f"a-{i}" for i in range(1, N + 1)], names)
sums = {}
for n in names + ["a"]:
    stamps_on(n, 2, f"{n}: its three disks are of the moment of its memory, and are its own")
    check(f"{n}: memory and disks of one moment, in qcow2, raw and lodgefs", True)
    sums[n] = sh(n, f"cd /mnt; sha256sum -c sums | grep -c OK; echo {n} > who; head -c 2000000 /dev/urandom > own; sync; sha256sum < own").split()
check("what lay on the file system is whole in each", all(s[0] == "4" for s in sums.values()), sums)
first = {n: sh(n, "head -c 40000 /mnt/log").split("\n")[:-1] for n in names + ["a"]}
check("the log of each goes on without a gap", all(l == [f"line {i}" for i in range(1, len(l) + 1)] for l in first.values()), {n: l[-3:] for n, l in first.items()})
for n in names + ["a"]:
    said = sh(n, "touch /tmp/stop; until [ -e /tmp/logged ]; do usleep 20000; done; cat /mnt/who; sha256sum < /mnt/own; umount /mnt || echo busy; "
              "dmesg | grep -c -E 'EXT4-fs error|I/O error'; true").split()
    check(f"{n}: has what it wrote itself", said == [n, sums[n][1], "-", "0"], said)
top = os.path.join(VMS, names[0], "disk3.qcow2")
chain = json.loads(subprocess.run(["qemu-img", "info", "-U", "--backing-chain", "--output", "json", top], capture_output=True, text=True).stdout or "[]")
if chain:
    check("qemu-img sees an overlay on a raw file", [c["format"] for c in chain] == ["qcow2", "raw"], chain)
check("the clones share what they began with", len({os.stat(os.path.join(VMS, n, "disk3.base")).st_ino for n in names}) == 1)
p = lodge("rm", names[0], ok=False)
check("a clone that runs is not removed", p.returncode == 4 and os.path.exists(top), p.stderr)
for n in names + ["a"]:
    lodge("kill", n)
for n in names:
    fsck(f"{VMS}/{n}/disk3.qcow2:qcow2")
fsck(f"{fs}:raw")
check("the machine's own disks are whole", lodge("disk", "check", f"{q}:qcow2").returncode == 0 and lodge("store", "check", f"{store}:lodgefs").returncode == 0)
check("and have no snapshot of it", not lodge("disk", "snapshot", f"{q}:qcow2").stdout.strip().split("\n")[1:], lodge("disk", "snapshot", f"{q}:qcow2").stdout)
check("clones are kept when they end", places() == ["a", *names], places())
lodge("rm", *names)
check("and nothing is left when they are removed", places() == ["a"] and unnamed() == 0, places())

# ---- a clone that does not come about ----
lodge("run", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "128M", "--name", "c", "-d", "--disk", f"{r}:raw")
sh("c", "mkdir -p /etc/machine-id/x")
p = lodge("clone", "c", ok=False)
check("one that gets no identity leaves nothing", p.returncode == 1 and "machine-id" in p.stderr and places() == ["a", "c"], (p.stderr, places()))
for wait in 0.05, 0.4, 1.0:
    t = subprocess.Popen([LODGE, "clone", "c", "-n", "3"], env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(wait)
    t.send_signal(signal.SIGKILL)
    t.wait()
until("none of theirs is left", lambda: not lodge("ps").stdout.count("c-") and places() == ["a", "c"], detail=places)
sh("c", "rm -r /etc/machine-id; echo 1 > /etc/machine-id; dd if=/dev/zero of=/dev/vda bs=1M count=4 conv=fsync 2>/dev/null")
check("after a killed lodge clone the machine goes on", "c" in lodge("ps").stdout.split())
n = lodge("clone", "c", "--name", "after").stdout.strip()
check("and can be cloned, and nothing of the others is there", n == "after-1" and places() == ["a", "after-1", "c"], places())
p = lodge("clone", "c", "--name", "after", ok=False)
check("a name that is taken", p.returncode == 4 and "after-1" in p.stderr, p.stderr)
lodge("kill", "after-1")
p = lodge("clone", "c", "--name", "after", ok=False)
check("a clone that is kept is not written over", p.returncode == 1 and "lodge rm after-1" in p.stderr, p.stderr)
lodge("rm", "after-1")
if os.geteuid() == 0:
    small = os.path.join(TMP, "small")
    os.makedirs(small, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", small], capture_output=True).returncode == 0:
        sh("c", "head -c 8000000 /dev/urandom > /dev/vda; sync")
        os.rename(VMS, VMS + ".away")
        os.symlink(small, VMS)
        try:
            p = lodge("clone", "c", ok=False)
        finally:
            os.unlink(VMS)
            os.rename(VMS + ".away", VMS)
        check("no room for the copy: it is said, and the machine goes on", p.returncode == 1 and "No space" in p.stderr and os.listdir(small) == [], p.stderr)
        subprocess.run(["umount", "-l", small])
        sh("c", "head -c 8000000 /dev/urandom > /dev/vda; sync")
lodge("kill", "c")

# ---- of a snapshot ----
lodge("disk", "create", f"{store}/two:lodgefs", "--size", "16M")
lodge("run", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "128M", "--name", "b", "-d",
      "--disk", f"{q}:qcow2", "--disk", f"{store}/two:lodgefs")
sh("b", "for d in a b; do head -c 5000000 /dev/urandom > /dev/vd$d; done; sync; for d in a b; do sha256sum < /dev/vd$d; done > /tmp/then")
lodge("snapshot", "create", "b", "--name", "s", "--with-disks", "--hold")
lodge("snapshot", "create", "b", "--name", "bare", "--memory-only")
sh("b", "for d in a b; do head -c 5000000 /dev/urandom > /dev/vd$d; done; sync")
p = lodge("clone", "s", ok=False)
check("of a snapshot whose machine has the disk: refused, with what to do", p.returncode == 4 and "clone that machine, or stop it" in p.stderr, p.stderr)
p = lodge("clone", "bare", ok=False)
check("of a snapshot without the disks: refused, with why", p.returncode == 1 and "--memory-only" in p.stderr, p.stderr)
lodge("kill", "b")
names = lodge("clone", "s", "-n", "2", "--name", "k").stdout.split()
for n in names:
    said = sh(n, "echo 3 > /proc/sys/vm/drop_caches; for d in a b; do sha256sum < /dev/vd$d; done | cmp - /tmp/then && echo same; echo x > /dev/vda; sync").strip()
    check(f"{n}: its disks are those of the snapshot", said == "same", said)
for n in names:
    lodge("kill", n)
lodge("rm", *names)
out = os.path.join(TMP, "s.raw")
lodge("disk", "convert", f"{q}:qcow2", f"{out}:raw", "--snapshot", "s")
if shutil.which("qemu-img"):
    p = subprocess.run(["qemu-img", "convert", "-l", "snapshot.name=s", "-O", "raw", q, out + ".q"], capture_output=True, text=True)
    check("lodge disk convert --snapshot is what qemu-img convert -l is", p.returncode == 0 and
          subprocess.run(["cmp", out, out + ".q"]).returncode == 0, p.stderr)

# ---- on kvm ----
STAMP = os.path.join(BUILD, "guest", "stamp-x86.elf")
if os.access("/dev/kvm", os.R_OK | os.W_OK) and os.path.exists(STAMP):
    with open(r, "wb") as f:
        f.write(os.urandom(6 << 20) + bytes(6 << 20))
    want = hashlib.sha256(open(r, "rb").read()).hexdigest()
    lodge("run", "--kernel", STAMP, "--engine", "kvm", "--memory", "64M", "--smp", "2", "--name", "x", "-d", "--disk", f"{r}:raw")
    wait_rounds("x", 2)
    names = lodge("clone", "x", "-n", "2").stdout.split()
    for n in names + ["x"]:
        wait_rounds(n, 2)
        check(f"kvm: {n}: every page is of its moment", True)
        lodge("kill", n)
    for n in names:
        lodge("disk", "convert", f"{VMS}/{n}/disk0.qcow2:qcow2", f"{out}:raw", "--force")
        check(f"kvm: {n}: its disk is the machine's", hashlib.sha256(open(out, "rb").read()).hexdigest() == want)
    lodge("rm", *names)
    check("kvm: nothing is left", unnamed() == 0, places())

#!/usr/bin/env python3
# time-limit: 200
"""Snapshots under faults at random points: the client killed, the machine killed, the disk full; containers cut, damaged, of a newer format; `lodge restore`
killed, or stopped by Ctrl-C, while it puts a disk back. LODGE_FAULTS is how many of each (100 on demand), LODGE_SEED makes it the same again."""
import hashlib
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, SLOW, lodge, until
from machine import BUILD, HOME, LODGE, TMP, check, skip, wait_for

STAMP = os.path.join(BUILD, "guest", "stamp-rv64.elf")
STORE = os.path.join(HOME, "data", "snapshots")
N = int(os.environ.get("LODGE_FAULTS", "4"))
SEED = int(os.environ.get("LODGE_SEED", str(random.randrange(1 << 30))))
rnd = random.Random(SEED)
print(f"LODGE_SEED={SEED}", flush=True)


def boot(name):
    lodge("run", "--firmware", STAMP, "--memory", "64M", "--smp", "2", "--name", name, "-d")


def reports(name):
    text = lodge("logs", name).stdout
    if "FAIL" in text:
        check(f"{name}: every page is of its generation", False, text[-300:])
    return text.count("gap")


def goes_on(name, what):
    n = reports(name)
    until(what, lambda: reports(name) > n, detail=lambda: "the guest stands still")


def store():
    return sorted(os.listdir(STORE)) if os.path.isdir(STORE) else []


def start(name):
    return subprocess.Popen([LODGE, "snapshot", "create", "m", "--name", name, "--queue", "256K"], env=ENV, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


if not os.path.exists(STAMP):
    skip("riscv64-linux-gnu-gcc is not installed")
boot("m")
began = time.monotonic()
lodge("snapshot", "create", "m", "--name", "good", "--queue", "256K")
took = time.monotonic() - began

# ---- the client ----
whole = 0
for i in range(N):
    p = start("c")
    time.sleep(rnd.uniform(0, took))
    p.send_signal(signal.SIGKILL)
    p.communicate(timeout=30 * SLOW)
    if "c.snap" in store():
        lodge("snapshot", "verify", "c")
        lodge("snapshot", "rm", "c")
        whole += 1
    goes_on("m", f"client killed, number {i + 1}")
check(f"{N} clients killed: {whole} snapshots were whole, nothing is left of the others, the guest goes on", store() == ["good.snap"], store())
# The machine notices that its client has gone.
check("and can be saved again", wait_for(lambda: lodge("snapshot", "create", "m", "--name", "after", ok=False).returncode == 0, 30))
lodge("snapshot", "rm", "after")

# ---- a full disk ----
mnt = os.path.join(TMP, "small")
os.makedirs(mnt, exist_ok=True)
fitted = 0
if os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", mnt], capture_output=True).returncode == 0:
    os.rename(STORE, STORE + ".away")
    os.symlink(mnt, STORE)
    try:
        for i in range(N):
            # The last one's file goes when the machine has closed it.
            until("the room comes back", lambda: (room := os.statvfs(mnt)).f_bfree == room.f_blocks)
            subprocess.run(["mount", "-o", f"remount,size={rnd.randrange(64, 30000)}k", mnt], check=True)
            p = lodge("snapshot", "create", "m", "--name", "f", "--queue", "256K", ok=False)
            if p.returncode == 0:  # what compresses well may have found room
                lodge("snapshot", "verify", "f")
                lodge("snapshot", "rm", "f")
                fitted += 1
            elif "No space" not in p.stderr:
                check("too little room is said", False, p.stderr)
            goes_on("m", f"full disk, number {i + 1}")
            if os.listdir(mnt):
                check("a full disk leaves nothing", False, (p.returncode, p.stderr, os.listdir(mnt)))
    finally:
        os.unlink(STORE)
        os.rename(STORE + ".away", STORE)
        subprocess.run(["umount", mnt])
    check(f"{N} times little room: it fitted {fitted} times, else it is said and nothing is left; the guest goes on", fitted < N, fitted)
else:
    print("PASS: a full disk was not tried: no tmpfs can be mounted here")

# ---- a file that takes no more: an error in the middle, at any byte ----
machine = int(open(os.path.join(HOME, "run", "m", "pid")).read())
for i in range(N):
    resource.prlimit(machine, resource.RLIMIT_FSIZE, (rnd.randrange(1 << 20, (2 << 20) + (64 << 20)), resource.RLIM_INFINITY))
    p = lodge("snapshot", "create", "m", "--name", "e", "--queue", "256K", ok=False)
    if p.returncode != 1 or "File too large" not in p.stderr or store() != ["good.snap"]:
        check("an error of the target is said, and nothing is left", False, (p.returncode, p.stderr, store()))
    goes_on("m", f"error of the target, number {i + 1}")
resource.prlimit(machine, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
lodge("snapshot", "create", "m", "--name", "e", "--queue", "256K")
lodge("snapshot", "verify", "e")
lodge("snapshot", "rm", "e")
check(f"{N} errors of the target: said, nothing is left, the guest goes on and can be saved again", True)

# ---- the machine ----
for i in range(N):
    p = start("k")
    time.sleep(rnd.uniform(0, took))
    os.kill(int(open(os.path.join(HOME, "run", "m", "pid")).read()), signal.SIGKILL)
    p.communicate(timeout=30 * SLOW)
    if "k.snap" in store():
        lodge("snapshot", "verify", "k")
        lodge("snapshot", "rm", "k")
    lodge("restore", "good", "--name", "m", "-d")
    goes_on("m", f"machine killed, number {i + 1}")
check(f"{N} machines killed: nothing is left, and an older snapshot brings the machine back", store() == ["good.snap"], store())
lodge("kill", "m")

# ---- the container ----
good = os.path.join(STORE, "good.snap")
bad = os.path.join(TMP, "bad.snap")
subprocess.run(["cp", "--sparse=always", good, bad], check=True)
os.chmod(bad, 0o600)
size = os.path.getsize(bad)
with open(bad, "r+b") as f:
    for i in range(N * 4):
        at = rnd.choice((rnd.randrange(size), rnd.randrange(4096), size - 1 - rnd.randrange(65536)))
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 1 << rnd.randrange(8)]))
        f.flush()
        p = lodge("snapshot", "verify", bad, ok=False)
        if p.returncode == 0 or p.returncode < 0 or not p.stderr:
            check(f"a flipped bit at {at:#x} is found", False, p)
        f.seek(at)
        f.write(byte)
        f.flush()
    check(f"{N * 4} flipped bits are found", True)
    head = f.seek(0) or f.read(4096)
    for what, at, value, word in (("format", 8, 2, "format"), ("feature", 12, 1, "features")):
        new = bytearray(head)
        new[at:at + 4] = struct.pack("<I", value)
        new[4064:] = hashlib.sha256(bytes(new[:4064])).digest()
        f.seek(0)
        f.write(new)
        f.flush()
        p = lodge("restore", bad, "--name", "x", "-d", ok=False)
        check(f"a newer {what} is refused by name", p.returncode == 1 and ("newer" in p.stderr or word in p.stderr), p.stderr)
    f.seek(0)
    f.write(head)
    f.flush()
    for i in range(N):
        f.truncate(rnd.randrange(size) if i else 0)
        p = lodge("restore", bad, "--name", "x", "-d", ok=False)
        if p.returncode != 1 or not p.stderr:
            check("a file that was cut is refused", False, p)
    check(f"{N} files that were cut are refused", True)
check("and no machine came of any", "x" not in lodge("ps").stdout.split())

# ---- a restore that is stopped ----
if not shutil.which("qemu-io"):
    print("SKIP: a restore with disks was not stopped: no qemu-io")
    sys.exit(0)
disk, flat, SIZE = os.path.join(TMP, "d.qcow2"), os.path.join(TMP, "d.raw"), 1 << 20


def fill(byte):
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -P {byte} 0 {SIZE}", disk], check=True, stdout=subprocess.DEVNULL)


def holds(look="check"):
    lodge("disk", look, f"{disk}:qcow2")
    lodge("disk", "convert", f"{disk}:qcow2", f"{flat}:raw", "--force")
    data = open(flat, "rb").read()
    if len(set(data)) != 1:
        check("the disk holds the one or the other", False, sorted(set(data)))
    return data[0]


def is_kept():
    return "lodge-before-restore" in lodge("disk", "snapshot", f"{disk}:qcow2").stdout


def lives_on():
    """A machine whose lodge restore has died ends with it, or has been let go: then it ticks on, for more than a second."""
    n = None
    while "m" in lodge("ps").stdout.split():
        now = lodge("logs", "m").stdout.count("gap")
        n = now if n is None else min(n, now)
        if now > n + 12:
            return True
        time.sleep(0.05)
    return False


def stopped(what, sig, said):
    """lodge restore has died. Also where that was before it held signals back."""
    if lives_on():
        return
    # Killed in the middle of a change to the disk: the next who writes to it repairs it.
    kept, has = is_kept(), holds("repair" if sig == signal.SIGKILL else "check")
    if (kept or has != 2) if sig == signal.SIGINT else (has != 2 and not kept):
        check(f"{what}: no machine, and the disk is put back, or after SIGKILL keeps what it had", False, (kept, has, said))


def apply(name):
    lodge("disk", "snapshot", f"{disk}:qcow2", "--apply", name)


lodge("disk", "create", f"{disk}:qcow2", "-s", str(SIZE >> 20) + "M")
fill(1)
lodge("run", "--firmware", STAMP, "--memory", "64M", "--smp", "2", "--name", "m", "-d", "--disk", f"{disk}:qcow2")
lodge("snapshot", "create", "m", "--name", "disk", "--with-disks")
lodge("kill", "m")
began = time.monotonic()
lodge("restore", "disk", "--name", "m", "-d")
took = time.monotonic() - began
for sig in signal.SIGKILL, signal.SIGINT:
    came = 0
    for i in range(N):
        lodge("kill", "m", ok=False)
        fill(2)
        p = subprocess.Popen([LODGE, "restore", "disk", "--name", "m", "-d"], env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(wait := rnd.uniform(0, took * 1.1))
        p.send_signal(sig)
        err = p.communicate(timeout=30 * SLOW)[1]
        if p.returncode == 0:
            came += 1
        else:
            stopped(f"{sig.name} after {wait:.3f} s", sig, err)
            lodge("kill", "m", ok=False)
            lodge("restore", "disk", "--name", "m", "-d")
        goes_on("m", f"{sig.name}, number {i + 1}")
        lodge("kill", "m")
        if is_kept() or holds() != 1:
            check(f"{sig.name}: what comes next has the snapshot's disk, and nothing else is left on it", False, (is_kept(), holds()))
    check(f"{N} restores with a disk, {sig.name}: {came} were done by then; else the disk held the one or the other, and the next one goes through", True)

# ---- after it was let go, whatever becomes of lodge restore ----
debugger = shutil.which("gdb") or shutil.which("gdb-multiarch")
if debugger:
    fill(2)
    p = subprocess.run([debugger, "-batch", "-nx", "-ex", "break signals_let_go", "-ex", "run", "-ex", "delete", "-ex", "signal SIGINT", "--args", LODGE, "restore", "disk", "--name", "m", "-d"],
                       env=ENV, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100 * SLOW)
    check("Ctrl-C when its machine runs: lodge restore was there", "Breakpoint 1" in p.stdout and "SIGINT" in p.stdout, p)
    check("Ctrl-C when its machine runs: it goes on", lives_on(), p.stdout)
    lodge("kill", "m")
    check("and has the snapshot's disk, and nothing else on it", not is_kept() and holds() == 1, holds())
else:
    print("PASS: Ctrl-C when the machine of a restore runs was not tried: no gdb")

# ---- a restore that was killed, and one that fails then: what was there before the first is not lost ----
fill(2)
lodge("disk", "snapshot", f"{disk}:qcow2", "--create", "lodge-before-restore")
apply("disk")
log = os.path.join(HOME, "data", "vms", "m", "console.log")
os.unlink(log)
os.mkdir(log)
p = lodge("restore", "disk", "--name", "m", "-d", ok=False)
check("a restore behind one that was killed fails", p.returncode == 1 and "console.log" in p.stderr, p.stderr)
check("and has put the disk back", holds() == 1)
os.rmdir(log)
apply("lodge-before-restore")
check("what the disk had before the first is still there", holds() == 2)
lodge("restore", "disk", "--name", "m", "-d")
lodge("kill", "m")
check("and goes when one comes through", not is_kept() and holds() == 1, (is_kept(), holds()))

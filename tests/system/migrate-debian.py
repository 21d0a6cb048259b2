#!/usr/bin/env python3
# time-limit: 420
"""Debian moves with three disks (raw, qcow2 with a backing file, lodgefs) and a TCP connection: a writer that flushes each record loses none and repeats
none, every byte of the connection arrives once, the disks' locks are always one machine's; two vCPUs.
Every other move is post-copy. LODGE_MIGRATE_CYCLES=N: moves (2)."""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, SLOW, listens, lodge
from migration import move, post_copy
from machine import BUILD, LODGE, TMP, check, mini_image, skip, wait_for

if not os.path.exists(os.path.join(BUILD, "src/agent/lodge-agent.riscv64")):
    skip("riscv64-linux-gnu-gcc is not installed: this build has no agent")
image = mini_image()
CYCLES = int(os.environ.get("LODGE_MIGRATE_CYCLES", "2"))
POST_COPY = post_copy()
if not POST_COPY:
    print("SKIP: no userfaultfd for this user: no move is post-copy", flush=True)


def guest(name, command, seconds=60, ok=True):
    p = lodge("exec", "--wait", "60", name, "--", "sh", "-c", command, seconds=seconds + 60, ok=False)
    if ok and p.returncode:
        check(f"{name}: {command}", False, (p.returncode, p.stdout, p.stderr, lodge("ps", ok=False).stdout))
    return p.stdout


# ---- disks ----
SIZE = 64 << 20
RAW, BASE, QCOW, STORE = (os.path.join(TMP, n) for n in ("a.raw", "base.qcow2", "b.qcow2", "store"))
with open(RAW, "wb") as f:
    f.truncate(SIZE)
lodge("disk", "create", "-s", "64M", BASE + ":qcow2")
lodge("disk", "create", "-b", BASE + ":qcow2", QCOW + ":qcow2")
lodge("store", "create", "-s", "256M", STORE + ":lodgefs")
lodge("disk", "create", "-s", "64M", STORE + "/c:lodgefs")
DISKS = (RAW + ":raw", QCOW + ":qcow2", STORE + "/c:lodgefs")
# Record i of 512 bytes is at i * 512: its number, in text. Each is on the disk before the next one is begun.
WRITER = """for d in vda vdb vdc; do (i=0; while [ ! -e /tmp/stop ]; do printf '%511d\\n' $i | dd of=/dev/$d bs=512 seek=$i conv=notrunc,fsync 2>/dev/null || exit 1;
echo $i > /tmp/at.$d; i=$((i+1)); done) </dev/null >/dev/null 2>&1 & done; true"""


def records(path):
    """How many there are, one after the other from 0 on, and that nothing comes behind them."""
    data = open(path, "rb").read()
    n = 0
    while data[n * 512:n * 512 + 512] == b"%511d\n" % n:
        n += 1
    return n, not any(data[n * 512:])


switch = subprocess.Popen([LODGE, "switch", "run", "lan"], env=ENV, stdin=subprocess.DEVNULL)
try:
    wait_for(lambda: lodge("switch", "show", "lan", ok=False).returncode == 0)
    boot = ["run", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "128M", "--net", "switch=lan", "-d"]
    lodge(*boot, "--name", "peer")
    lodge(*boot, "--name", "m0", "--smp", "2", *(x for d in DISKS for x in ("--disk", d)))
    for name, last in ("peer", 2), ("m0", 1):
        guest(name, f"killall udhcpc; i=$(ls /sys/class/net | grep -v lo); ip addr add 10.9.0.{last}/24 dev $i")
    print("PASS: two machines on a switch", flush=True)
    guest("m0", WRITER)
    guest("peer", "(sleep 600 | nc -l -p 7 > /tmp/got) > /dev/null 2>&1 < /dev/null & " + listens(7))
    guest("m0", "(i=0; while [ ! -e /tmp/stop ]; do echo line $i; i=$((i+1)); sleep 0.01; done | tee /tmp/sent | nc 10.9.0.2 7; touch /tmp/over) >/dev/null 2>&1 </dev/null & true")
    n = 0
    for i in range(CYCLES):
        before = [int(guest(f"m{n}", f"cat /tmp/at.vd{d}")) for d in "abc"]
        st = move(f"m{n}", f"m{n + 1}", *(("--post-copy", "--at-once") if i % 2 and POST_COPY else ()))
        n += 1
        p = lodge("disk", "info", DISKS[0], ok=False)
        end = time.monotonic() + 60 * SLOW
        while True:
            after = [int(guest(f"m{n}", f"cat /tmp/at.vd{d}") or -1) for d in "abc"]
            if all(y > x for x, y in zip(before, after)) or time.monotonic() > end:
                break
        check(f"move {n}: all three writers go on; the guest stood still for {st['downtime_us'] / 1000:.1f} ms, {st['pause_for']}", all(y > x for x, y in zip(before, after)), (before, after))
        for d in DISKS:
            p = lodge("run", "--kernel", image["kernel"], "--disk", d, "--name", "thief", "-d", ok=False)
            check(f"move {n}: {d.split(':')[-1]} is locked", p.returncode != 0 and ("in use" in p.stderr or "one process writes" in p.stderr), p.stderr)
    end = time.monotonic() + 60 * SLOW  # enough to look at, also where the host is busy
    while min(int(guest(f"m{n}", f"cat /tmp/at.vd{d}") or -1) for d in "abc") < 25 and time.monotonic() < end:
        time.sleep(0.2)
    guest(f"m{n}", "touch /tmp/stop; until [ -e /tmp/over ]; do usleep 50000; done; sync")
    sent = guest(f"m{n}", "wc -c < /tmp/sent; md5sum < /tmp/sent")
    got = guest("peer", "wc -c < /tmp/got; md5sum < /tmp/got")
    check(f"the TCP connection lived through {n} moves, every byte once", got == sent and int(sent.split()[0]) > 100, (sent, got))
    lodge("stop", f"m{n}", "--force", ok=False)
    lodge("kill", f"m{n}", ok=False)
    lodge("kill", "peer", ok=False)
finally:
    switch.terminate()
    switch.wait()
for d in DISKS:
    flat = os.path.join(TMP, "flat.raw")
    lodge("disk", "convert", d, flat + ":raw")
    n, clean = records(flat)
    check(f"{d.split(':')[-1]}: {n} records, each flushed one once and in order", n > 20 and clean, n)
    os.unlink(flat)
p = subprocess.run(["qemu-img", "check", QCOW], capture_output=True, text=True)
check("qemu-img finds nothing wrong", p.returncode == 0, p.stdout + p.stderr)

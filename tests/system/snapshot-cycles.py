#!/usr/bin/env python3
# time-limit: 420
"""Saved, killed, restored and migrated again and again, under load: memory and disk of one moment, a file system with a writer that syncs, sha256 of what
lies on it, and a TCP connection inside the guest are whole at the end; the guest's clock is the host's each time; each third move is post-copy. On demand: LODGE_CYCLES=200, LODGE_SMP=1,2,4, and LODGE_STRESS=DIR, a folder with a
stress-ng for riscv64 and, in lib/, all that it is linked with; without it the load is busybox's. LODGE_MINUTES=N: for each number of vCPUs at most so long."""
import os
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, SLOW, clock_off, listens
from migration import post_copy
from machine import BUILD, LODGE, TMP, check, mini_image, skip

PAIR = os.path.join(BUILD, "guest", "pairstamp")
if not os.path.exists(PAIR):
    skip("riscv64-linux-gnu-gcc is not installed")
subprocess.run([LODGE, "image", "pull", "debian:mini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=100)
image = mini_image()
CYCLES = int(os.environ.get("LODGE_CYCLES", "2"))
SMPS = [int(n) for n in os.environ.get("LODGE_SMP", "2").split(",")]
MINUTES = float(os.environ.get("LODGE_MINUTES", "1e9"))
STRESS = os.environ.get("LODGE_STRESS")
# Memory that is written and checked, context switches, pipes, timers, files: what a moment can tear apart. It takes all that the others leave, which
# are looked at and must not wait for it.
LOAD = ("/mnt/st/lib/ld-linux-riscv64-lp64d.so.1 --library-path /mnt/st/lib /mnt/st/stress-ng --temp-path /tmp --vm 1 "
        "--vm-bytes 16M --vm-keep --sched idle --verify --switch 1 --pipe 1 --timer 1 --timer-freq 100 --cpu 1 -t 86400 > /tmp/stress 2>&1" if STRESS else
        "sh -c 'while :; do head -c 4000000 /dev/urandom | sha256sum; done' > /dev/null 2>&1")
name = "a"


def lodge(*args, seconds=300):
    p = subprocess.run([LODGE, *args], capture_output=True, text=True, env=ENV, timeout=seconds * SLOW, stdin=subprocess.DEVNULL)
    if p.returncode:
        check("lodge " + " ".join(args), False, p.stderr)
    return p.stdout


def sh(command):
    return lodge("exec", "--wait", "300", name, "--", "sh", "-c", command)


def move(to, *how):
    """To another process on this host, under another name."""
    at = f"unix:{TMP}/{to}.sock"
    r = subprocess.Popen([LODGE, "receive", to, at], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    r.stdout.readline()
    lodge("migrate", name, at, "--downtime", "1000", *how)  # what a guest that writes so much costs is bench/migrate's to say
    err = r.communicate(timeout=300 * SLOW)[1]
    if r.returncode:
        check(f"{name} moves", False, err)
    return to


def rounds():
    text = lodge("logs", name)
    if "FAIL" in text:
        check("memory and disk agree", False, text[text.index("FAIL") - 20:][:200])
    found = re.findall(r"pairstamp /dev/vda rounds (\d+)", text)
    return [int(found[-1]) if found else 0]


def lines():
    return [int(n) for n in sh("wc -l < /mnt/log; wc -l < /tmp/rx").split()]


def goes_on(what):
    """Memory and disk have been looked at once more, the writer and the connection have come further, the clock is right."""
    off = clock_off(name)
    if off > 0.5:
        check(f"{what}: the clock is within 500 ms of the host's", False, off)
    first, end = {f: f() for f in (rounds, lines)}, time.monotonic() + 240 * SLOW
    for now, was in first.items():  # one after the other: the guest is asked as seldom as can be
        while not all(b > a for a, b in zip(was, now())):
            if time.monotonic() > end:
                check(what, False, (was, now()))
            time.sleep(0.1)


def lap(took, what, began):
    took[what] = took.get(what, 0) + time.monotonic() - began
    return time.monotonic()


for smp in SMPS:
    pair, fs = (os.path.join(TMP, f"{n}{smp}.qcow2") for n in ("pair", "fs"))
    plain = os.path.join(TMP, "fs.raw")
    tree = os.path.join(TMP, "tree")
    os.makedirs(tree)
    if STRESS:
        shutil.copytree(STRESS, os.path.join(tree, "st"))
    with open(plain, "wb") as f:
        f.truncate(128 << 20 if STRESS else 64 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, plain], check=True)
    shutil.rmtree(tree)
    lodge("disk", "create", f"{pair}:qcow2", "--size", "16M")
    lodge("disk", "convert", f"{plain}:raw", f"{fs}:qcow2")
    lodge("run", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "192M", "--smp", str(smp), "--name", name, "-d",
          "--disk", f"{pair}:qcow2", "--disk", f"{fs}:qcow2")
    sh("modprobe ext4; mount -t ext4 /dev/vdb /mnt; ip link set lo up; for i in 1 2 3 4; do head -c 2097152 /dev/urandom > /mnt/d$i; done; cd /mnt; "
       "sha256sum d1 d2 d3 d4 > sums; sync")
    lodge("cp", PAIR, f"{name}:/bin/pairstamp")
    sh("pairstamp /dev/vda 64 256 >/dev/console 2>&1 </dev/null & "
       "(i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo line $i >> /mnt/log; sync; usleep 50000; done; touch /tmp/logged) >/dev/null 2>&1 </dev/null & "
       "(sleep 100000 | nc -l -p 9000 > /tmp/rx) >/dev/null 2>&1 </dev/null & " + listens(9000) + "; "
       "(i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo number $i; usleep 5000; done | tee /tmp/tx | nc 127.0.0.1 9000; touch /tmp/sent) >/dev/null 2>&1 </dev/null &")
    sh(f"{LOAD} </dev/null & echo $! > /tmp/load")
    began, done, took = time.monotonic(), 0, {}
    while done < CYCLES and time.monotonic() < began + 60 * MINUTES:
        done = i = done + 1
        t = time.monotonic()
        lodge("snapshot", "create", name, "--name", f"c{i}", "--with-disks")
        t = lap(took, "save", t)
        lodge("kill", name)
        for d in (pair, fs) if i > 1 else ():
            lodge("disk", "snapshot", f"{d}:qcow2", "--delete", f"c{i - 1}")
        t = lap(took, "kill", t)
        lodge("restore", f"c{i}", "--name", name, "-d")
        lodge("snapshot", "rm", f"c{i}")
        t = lap(took, "restore", t)
        goes_on(f"{smp} vCPUs, cycle {i}, restored")
        t = lap(took, "look", t)
        name = move("b" if name == "a" else "a", *(("--post-copy",) if i % 3 == 0 and post_copy() else ()))
        lap(took, "move", t)
        if CYCLES > 9 and i % 10 == 0:
            print(f"PASS: {smp} vCPUs: {i} cycles; seconds for one: " + ", ".join(f"{k} {v / i:.1f}" for k, v in took.items()), flush=True)
    goes_on(f"{smp} vCPUs, at the end")
    sh("touch /tmp/stop; p=$(cat /tmp/load); kill $p; while [ -e /proc/$p ] && ! grep -q 'State:.Z' /proc/$p/status; do sleep 0.2; done; "
       "until [ -e /tmp/logged -a -e /tmp/sent ]; do usleep 50000; done")
    if STRESS:
        said = sh("cat /tmp/stress")
        check(f"{smp} vCPUs, {done} cycles: stress-ng --verify finds nothing", "failed: 0" in said and "passed: 5" in said, said[-500:])
    said = sh("cd /mnt; sha256sum -c sums; cmp /tmp/tx /tmp/rx && echo same; dmesg | grep -c -E 'EXT4-fs error|I/O error|stall|BUG:'; true")
    check(f"{smp} vCPUs, {done} cycles: sha256 of what lay on the disk", said.count(": OK") == 4, said)
    check(f"{smp} vCPUs, {done} cycles: the TCP connection lost nothing", "same" in said, said)
    check(f"{smp} vCPUs, {done} cycles: nothing was said by the kernel", said.strip().split("\n")[-1] == "0", said)
    sh("umount /mnt")
    lodge("kill", name)
    out = os.path.join(TMP, "out.raw")
    lodge("disk", "convert", f"{fs}:qcow2", f"{out}:raw")
    p = subprocess.run(["e2fsck", "-fn", out], capture_output=True, text=True)
    check(f"{smp} vCPUs, {done} cycles: e2fsck finds nothing", p.returncode == 0, p.stdout[-300:])
    for f in pair, fs, out:
        os.unlink(f)

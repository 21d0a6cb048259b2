#!/usr/bin/env python3
# time-limit: 600
"""ext4 on virtio-blk lives through 20 kill -9 of lodge-vm in the middle of synced writes, over both back ends and every cache mode; one image, one writer.

Each cycle takes up a debian:mini that was saved at its prompt (so that it need not boot 20 times), mounts the file system (which replays its journal), and writes records: a file of known contents, fsync, and only
then its number on the console. The machine is killed at a random moment. The witness is e2fsprogs on the host, on a copy: after the replay of the
journal `e2fsck -fn` finds nothing, and every record that was acknowledged, in any cycle so far, is there in full.
"""
import os
import random
import re
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import TMP, Failed, Machine, check, mini_image, skip

CYCLES = int(os.environ.get("LODGE_CYCLES", "20"))
RECORD = 12288
MODES = [",io=auto", ",io=threads", ",cache=none", ",cache=writethrough", ",cache=none,io=threads"]
ENV = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
random.seed(1)

for tool in ("e2fsck", "mke2fs", "debugfs"):
    if not shutil.which(tool, path=ENV["PATH"]):
        skip(f"{tool} is not installed (package e2fsprogs)")
mini = mini_image()
disk, copy, out = (os.path.join(TMP, n) for n in ("disk.img", "copy.img", "out"))
open(disk, "wb").truncate(256 << 20)
subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", disk], check=True, env=ENV)


def args(mode, smp=1):
    return ["--kernel", mini["kernel"], "--initrd", mini["initrd"], "--append", mini["append"], "--memory", "160M", "--smp", str(smp),
            "--disk", f"{disk}:raw{mode}"]


def contents(n):
    line = f"record {n}\n".encode()
    return (line * (RECORD // len(line) + 1))[:RECORD]


def verify(acked, what):
    subprocess.run(["cp", "--sparse=always", disk, copy], check=True)
    p = subprocess.run(["e2fsck", "-y", "-E", "journal_only", copy], capture_output=True, text=True, env=ENV)
    check(f"{what}: the journal replays", p.returncode in (0, 1), p.stdout + p.stderr)
    p = subprocess.run(["e2fsck", "-fn", copy], capture_output=True, text=True, env=ENV)
    check(f"{what}: e2fsck -fn finds nothing", p.returncode == 0, p.stdout + p.stderr)
    shutil.rmtree(out, ignore_errors=True)
    os.mkdir(out)
    subprocess.run(["debugfs", "-R", f"rdump /records {out}", copy], check=True, capture_output=True, env=ENV)
    lost = []
    for n in acked:
        try:
            data = open(os.path.join(out, "records", f"r{n}"), "rb").read()
        except FileNotFoundError:
            data = None
        if data != contents(n):
            lost.append(n)
    check(f"{what}: all {len(acked)} acknowledged records are there", acked and not lost, f"lost or damaged: {lost[:20]}")


def saved(smp):
    return os.path.join(TMP, f"saved{smp}")


def boot_and_save(smp):
    with Machine(*args("", smp), name=f"boot{smp}") as m:
        m.expect(b"debian:mini ready", 120)
        m.expect(b"# ", 10)
        # Nothing of the disk may be in the guest's memory: it will have changed.
        m.run("modprobe ext4; mkdir -p /m; echo 3 >/proc/sys/vm/drop_caches", 60)
        m.call("pause")
        m.snapshot(saved(smp), disks="memory-only")
        m.call("kill")
        m.wait(10)


def write_until_killed(cycle, mode, acked):
    first = cycle * 10000
    smp = 1 + cycle % 2
    with Machine(*args(mode, smp), "--restore", saved(smp), name=f"c{cycle}") as m:
        said = m.run("echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 /dev/vda /m && mkdir -p /m/records && echo mounted", 60)
        if "mounted" not in said:
            raise Failed(said)
        # Somebody else writes as well, so that requests of several kinds are in flight.
        m.type("while :; do dd if=/dev/zero of=/m/noise bs=64k count=40 conv=fsync; rm /m/noise; usleep 50000; done 2>/dev/null &\n")
        m.type(f"n={first}; while :; do yes \"record $n\" | head -c {RECORD} | dd of=/m/records/r$n bs={RECORD} conv=fsync && echo ac''ked $n.; n=$((n+1)); done 2>/dev/null\n")
        m.expect(b"acked ", 60)
        end = time.monotonic() + random.uniform(0.2, 1.5)
        while time.monotonic() < end:
            m.pump(0.05)
        m.p.kill()
        m.p.wait()
        while m.pump(0):
            pass
        # A number without its full stop was cut on its way: nobody has read it.
        acked += [int(n) for n in re.findall(rb"acked (\d+)\.", m.out)]


acked = []
for smp in (1, 2):
    boot_and_save(smp)
for cycle in range(CYCLES):
    mode = MODES[cycle % len(MODES)]
    try:
        write_until_killed(cycle, mode, acked)
    except Failed as e:
        check(f"cycle {cycle}{mode}: runs", False, str(e))
    verify(acked, f"cycle {cycle}{mode}")

with Machine(*args(""), name="one") as one:
    one.call("status")
    for mode in ("", ",readonly=on"):
        with Machine(*args(mode), name="two") as two:
            code = two.wait(30)
        said = open(os.path.join(TMP, "two.log"), "rb").read().decode(errors="replace").strip().split("\n")[-1]
        check(f"a second machine is refused the image{mode}", code == 1 and f"in use by another machine (pid {one.p.pid})" in said, f"{code}: {said}")
with Machine(*args(",readonly=on"), "--paused", name="r1") as r1:
    r1.call("status")
    with Machine(*args(",readonly=on"), "--paused", name="r2") as r2:
        check("two readers share the image", r2.call("status")["state"] == "paused")

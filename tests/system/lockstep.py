#!/usr/bin/env python3
# time-limit: 280
"""The translator against the interpreter, register by register (tests/lockstep/README.md): random programs of tests/diff, bare guests, and
Debian's kernel, which then runs what guest/bench and jitcases do. LODGE_LOCKSTEP_INSNS asks for more than 10^7 instructions of each kind; 10^10 is
what a release should have seen."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/diff"))
sys.dont_write_bytecode = True
import gen
from machine import BUILD, TMP, TOP, check, mini_image

sys.path.insert(0, os.path.join(TOP, "bench"))
from console import with_files

TOOL = os.path.join(BUILD, "tests/lockstep/lockstep")
INSNS = int(os.environ.get("LODGE_LOCKSTEP_INSNS", "10000000"))
PASSES = 40     # code that runs 40 times is warm


def lockstep(*args, limit=None):
    p = subprocess.run([TOOL, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=limit)
    return p.returncode, p.stdout


def good(what, *args):
    rc, out = lockstep(*args)
    check(f"{what}: {out.strip().splitlines()[-1] if out.strip() else 'no output'}", rc == 0, out[-6000:])


hot = os.path.join(BUILD, "guest/hot.elf")
if os.path.exists(hot):
    # Both tiers at once, which is the same in every run; the first alone; the second on its thread.
    for tiers in (2, 1, "thread"):
        good(f"random hot programs, tiers {tiers}", "--random", hot, "--insns", 250000, "--programs", max(1, INSNS // 250000),
             "--memory-every", 50, "--tiers", tiers)
monitor = os.path.join(BUILD, "guest/diff.elf")
if os.path.exists(monitor):
    image = gen.read_monitor(monitor)
    done = n = 0
    while done < INSNS:
        elf = os.path.join(TMP, "program.elf")
        with open(elf, "wb") as f:
            f.write(gen.make(image, 1000 + n, 20000, PASSES)[0])
        each = 5000000
        good(f"program {n} of tests/diff, {PASSES} times over", "--elf", elf, "--insns", each, "--seed", n + 1, "--memory-every", 500)
        done += each
        n += 1
    # An error that is put in is found, at its instruction.
    rc, out = lockstep("--elf", elf, "--insns", 3000000, "--inject", 1234567)
    check("a wrong register is found", rc == 1 and "x18" in out and "DIFFERENT" in out, out[-3000:])
    for name in ("fp", "mix"):
        good(f"guest {name}", "--elf", os.path.join(BUILD, f"guest/{name}.elf"), "--insns", INSNS, "--memory-every", 1000)
image = mini_image()
# After the boot the rows of guest/bench and jitcases, over and over: an idle guest proves little.
work = b"""#!/bin/sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /tmp; mount -t devtmpfs dev /dev
exec >/dev/console 2>&1 </dev/null
while :; do
	for row in $(/bench list | while read a b; do echo $a; done); do /bench $row 0.1; done
	/jitcases all
done
"""
programs = {"bench": os.path.join(BUILD, "guest/bench/bench-rv64"), "jitcases": os.path.join(BUILD, "guest/jitcases")}
append = "earlycon=sbi console=ttyS0"
if all(os.path.exists(p) for p in programs.values()):
    files = {name: (0o100755, open(p, "rb").read()) for name, p in programs.items()}
    image["initrd"] = with_files(image["initrd"], dict(files, work=(0o100755, work)), os.path.join(TMP, "initrd"))
    append += " quiet rdinit=/work"
debian = ["--kernel", image["kernel"], "--initrd", image["initrd"], "--append", append, "--insns", INSNS * 10, "--check-every", 5000, "--memory-every", 2000]
for tiers in (2, "thread"):
    good(f"Debian's kernel, tiers {tiers}", *debian, "--tiers", tiers)
# A cache that is emptied all the time: right, and no step of it keeps a vCPU for a millisecond of its CPU.
rc, out = lockstep(*debian, "--tiers", "thread", "--cache", 1)
n = {name: int(v) for name, v in re.findall(r"A: (\w+) (\d+)", out)}
check(f"a cache of 1 MiB: {n.get('evictions')} evictions, the longest {n.get('longest_eviction_us')} us",
      rc == 0 and n.get("evictions", 0) > 4 and n.get("longest_eviction_us", 9999) < 1000, out[-3000:])

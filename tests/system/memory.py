#!/usr/bin/env python3
# time-limit: 200
"""What lodge-vm takes beside guest RAM after a Debian boot, and when its code cache is full: 32 MiB at most. `lodge stats` says what the
host's kernel says. WFI costs no CPU."""
import importlib.machinery
import importlib.util
import os
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import BUILD, TMP, TOP, Machine, check, mini_image

sys.path.insert(0, os.path.join(TOP, "bench"))
sys.dont_write_bytecode = True
from console import with_files

spec = importlib.util.spec_from_loader("bench_run", importlib.machinery.SourceFileLoader("bench_run", os.path.join(TOP, "bench/run")))
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

MOST = 32 * 1024
image = mini_image()
program = os.path.join(BUILD, "guest/bench/bench-rv64")
initrd = image["initrd"]
if os.path.exists(program):
    with open(program, "rb") as f:
        initrd = with_files(image["initrd"], {"bench": (0o100755, f.read())}, os.path.join(TMP, "initrd"))


def own(vm, when):
    said, seen = vm.call("stats")["host"]["own_kib"], bench.own_kib(vm.p.pid)
    check(f"{when}: at most 32 MiB", seen <= MOST, f"{seen} KiB")
    check(f"{when}: stats says so", abs(said - seen) < 1024, f"{said} and {seen} KiB")


for smp in (1, 2):
    with Machine("--kernel", image["kernel"], "--initrd", initrd, "--append", image["append"], "--memory", "256M", "--smp", str(smp), name=f"own{smp}") as vm:
        vm.expect(b"debian:mini ready", 120)
        vm.expect(b"# ", 30)
        own(vm, f"{smp} vCPUs, after boot")
        # Its kernel tidies up for a while after the boot.
        for _ in range(5):
            time.sleep(1)
            before = bench.cpu_seconds(vm.p.pid)
            time.sleep(4)
            used = bench.cpu_seconds(vm.p.pid) - before
            if used < 0.2:
                break
        check(f"{smp} vCPUs: a sleeping guest costs no CPU", used < 0.2, f"{used} s in 4")
        if initrd != image["initrd"]:
            out = vm.run("for i in 1 2 3; do /bench cold 1; done; /bench bytecode 0.2; /bench strings 0.2", 100)
            check(f"{smp} vCPUs: much code was run", out.count("BENCH") == 5, out[-400:])
            own(vm, f"{smp} vCPUs, after much code")

#!/usr/bin/env python3
# time-limit: 240
"""A running Debian kernel with user space is paused, inspected, saved as it stands, and goes on in a new process."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import TMP, Machine, check, mini_image

mini = mini_image()
saved = os.path.join(TMP, "saved")


def args(smp):
    return ["--kernel", mini["kernel"], "--initrd", mini["initrd"], "--append", mini["append"], "--memory", "192M", "--smp", str(smp), "--seed", "7"]


def fields(state, path=""):
    return sum((fields(v, f"{path}.{k}") for k, v in state.items()), []) if isinstance(state, dict) else [path]


def round_trip(smp):
    with Machine(*args(smp), name=f"a{smp}") as m:
        m.expect(b"debian:mini ready", 90)
        m.expect(b"# ", 10)
        # A program with state in registers and memory, floating point among it, and a clock that must not jump.
        m.type("i=0; while true; do i=$((i+1)); echo tick $i; usleep 20000; done &\n")
        m.expect(b"tick 20\r\n", 30)
        m.call("pause")
        inspected = m.call("inspect")
        state = inspected["state"]
        cpus = [k for k in state if k.startswith("cpu") and k[3:].isdigit()]
        check(f"{smp} vCPUs: inspect names every vCPU", len(cpus) == smp, sorted(state))
        names = fields(state)
        for want in (".cpu0.pc", ".cpu0.mstatus", ".uart.0.lcr", ".cpu0.c.satp"):
            check(f"{smp} vCPUs: inspect has {want}", any(n.startswith(want) for n in names), names[:40])
        m.snapshot(f"{saved}{smp}")
        while m.pump(0.3):
            pass
        after = m.call("inspect")["state"]
        # The RTC shows the host's wall clock, which goes on.
        check(f"{smp} vCPUs: saving changes nothing", {k: v for k, v in state.items() if k != "rtc.0"} == {k: v for k, v in after.items() if k != "rtc.0"})
        m.call("kill")
        m.wait(10)
        said = m.out
    with Machine(*args(smp), "--restore", f"{saved}{smp}", name=f"b{smp}") as m:
        for _ in range(30):
            m.expect(b"tick ", 30)
        m.expect(b"\n", 10)
        # What it said here goes on where it stopped there, be it in the middle of a line.
        ticks = [int(n) for n in re.findall(rb"tick (\d+)\r\n", said + m.out)]
        check(f"{smp} vCPUs: goes on where it was", ticks == list(range(1, len(ticks) + 1)) and len(ticks) >= 40, ticks)
        m.type("kill %1\n")
        m.type("\n")
        m.expect(b"# ", 10)
        check(f"{smp} vCPUs: the shell answers", "6.12" in m.run("uname -r"))
        check(f"{smp} vCPUs: no trouble in the kernel's log", m.run("dmesg | grep -c -E 'stall|BUG:|Oops|panic|lockup|Call Trace'").strip() == "0")
        check(f"{smp} vCPUs: devices still work", len(m.run("head -c 16 /dev/hwrng | wc -c").strip()) > 0)
        m.type("poweroff\n")
        check(f"{smp} vCPUs: powers off with 0", m.wait(30) == 0)


round_trip(1)
round_trip(2)

whole = open(saved + "2", "rb").read()
for what, data in {"cut short": whole[: len(whole) // 2], "not ours": b"x" * 4096, "empty": b""}.items():
    bad = os.path.join(TMP, "bad")
    open(bad, "wb").write(data)
    with Machine(*args(2), "--restore", bad, name="c") as m:
        code = m.wait(60)
    log = open(os.path.join(TMP, "c.log"), "rb").read().decode(errors="replace").strip().split("\n")[-1]
    check(f"a file that is {what} is refused", code == 1 and "snapshot" in log, f"{code}: {log}")
with Machine(*args(1), "--restore", saved + "2", name="d") as m:
    code = m.wait(60)
check("a machine of another shape refuses it", code == 1)

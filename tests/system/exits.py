#!/usr/bin/env python3
# time-limit: 200
"""Exits as `lodge trace` and `lodge stats` show them, against what a stock kernel says itself: the timer, inter-processor and external interrupts
of the trace are those of /proc/interrupts, between two marks that the guest makes (reads of the clock chip, which are
exits). LODGE_EXITS_SECONDS=60 makes it as long; 6 otherwise."""
import json
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import HOME, LODGE, SLOW, TMP, Machine, check, mini_image, wait_for

SECONDS = int(os.environ.get("LODGE_EXITS_SECONDS", "6"))
MARK = 0x101000
ENV = dict(os.environ, LODGE_HOME=HOME)


def lodge(*args, **more):
    return subprocess.run([LODGE, *args], capture_output=True, text=True, env=ENV, **more)


def interrupts(text):
    """/proc/interrupts by kind: sums over lines and CPUs."""
    kinds = {"timer": 0, "ipi": 0, "external": 0}
    for line in text.split("\n"):
        m = re.match(r"\s*(\w+):\s+((?:\d+\s+)+)(.*)", line)
        if not m:
            continue
        name, total, rest = m.group(1), sum(map(int, m.group(2).split())), m.group(3)
        if name.startswith("IPI"):
            kinds["ipi"] += total
        elif "timer" in rest:
            kinds["timer"] += total
        elif name.isdigit():
            kinds["external"] += total
    return kinds


image = mini_image()
with Machine("--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "256M", "--smp", "2",
             name="exits") as vm:
    vm.expect(b"debian:mini ready", 120)
    vm.expect(b"# ", 30)

    # Errors, and what is there without following.
    p = lodge("trace", "exits", "instructions")
    check("trace: a subject that is not there", p.returncode == 2 and "exits is the one" in p.stderr, p.stderr)
    p = lodge("trace", "nobody", "exits")
    check("trace: a machine that is not there", p.returncode == 3, p.stderr)
    p = lodge("stats", "exits", "--exits")
    check("stats --exits: types", p.returncode == 0 and re.search(r"^  timer +\d+ +[1-9]", p.stdout, re.M) and "mmio" in p.stdout, p.stdout)

    p = lodge("trace", "exits", "exits", "--type", "page faults")
    check("trace: a type that is not there", p.returncode == 1 and "did you mean page fault?" in p.stderr, p.stderr)
    vm.type("until [ -e /tmp/enough ]; do ls -l / >/dev/null; sleep 0.1; done &\n")
    faults = [json.loads(x) for x in lodge("trace", "exits", "exits", "--seconds", "3", "--type", "page fault", "--json").stdout.split("\n")[:-1]]
    check("trace: page faults are vector 14, with their address and error code",
          faults and all(f["basic"] == 0 and f["vector"] == 14 and f["given"] and f["address"] == f["qualification"] for f in faults) and
          {f["raw"] for f in faults} <= {"0xc", "0xd", "0xf"} and all((f["raw"] == "0xf") == bool(f["error"] & 2) for f in faults), faults[:2])
    vm.run("touch /tmp/enough; wait")

    trace = os.path.join(TMP, "trace.json")
    with open(trace, "w") as f:
        follower = subprocess.Popen([LODGE, "trace", "exits", "exits", "--follow", "--json", "--type", "timer,ipi,external,mmio"], stdout=f, stderr=subprocess.PIPE, env=ENV)
        wait_for(lambda: os.path.getsize(trace))  # then it follows: a guest's timers never rest
        second = lodge("trace", "exits", "exits")
        check("trace: a second follower is refused, and told why", second.returncode == 4 and "somebody else" in second.stderr, second.stderr)
        mark = "cat /sys/class/rtc/rtc0/time >/dev/null"
        # Pipes between processors for IPIs, sleeps for timers, output for the UART's; 20 turns also where the host is busy.
        work = ("n=0; end=$(($(cut -d. -f1 /proc/uptime)+%d)); while [ $(cut -d. -f1 /proc/uptime) -lt $end -o $n -lt 20 ]; do n=$((n+1)); "
                "dd if=/dev/zero bs=64k count=40 2>/dev/null | cat | md5sum; sleep 0.02; done" % SECONDS)
        vm.run("cat /proc/interrupts >/tmp/a1; %s; cat /proc/interrupts >/tmp/a2; %s; "
               "cat /proc/interrupts >/tmp/b1; %s; cat /proc/interrupts >/tmp/b2" % (mark, work, mark), SECONDS * 3 + 60)
        # It may be behind the guest: until it has told of the second mark.
        wait_for(lambda: open(trace).read().count(f'"physical":"{hex(MARK)}"') + open(trace).read().count(f'"physical": "{hex(MARK)}"') >= 2)
        follower.send_signal(2)
        follower.wait(10 * SLOW)
        complaints = follower.stderr.read().decode()
    check("trace: nothing was lost", "lost" not in complaints, complaints)
    seen = {k: interrupts(vm.run("cat /tmp/" + k)) for k in ("a1", "a2", "b1", "b2")}

    with open(trace) as f:
        # The last line may have been cut by the signal.
        entries = [json.loads(line) for line in f.read().split("\n")[:-1] if line.endswith("}")]
    check("trace: both codes and the type", all(e["raw"] and e["code"] and e["type"] for e in entries) and len(entries) > 1000, len(entries))
    wrong = [e for e in entries if e["type"] == "unknown"]
    check("trace: every code is known", not wrong, wrong[:3])
    pairs = {(e["raw"], e["basic"], e["type"]) for e in entries}
    check("trace: a load of a device is an EPT misconfiguration", ("0x5", 49, "mmio") in pairs)
    marks = [e["time_ns"] for e in entries if e["type"] == "mmio" and e["physical"] == hex(MARK)]
    check("trace: the two marks", len(marks) == 2, marks)
    for kind in ("timer", "ipi", "external"):
        got = sum(e["count"] for e in entries if e["given"] and e["type"] == kind and marks[0] < e["time_ns"] < marks[1])
        low, high = seen["b1"][kind] - seen["a2"][kind], seen["b2"][kind] - seen["a1"][kind]
        print("%s: %d in the trace; /proc/interrupts: %d between the inner readings, %d between the outer" % (kind, got, low, high))
        check("%s interrupts of the trace are the guest's" % kind, low <= got <= high and high > 10, (low, got, high))
    vm.type("poweroff -f\n")
    vm.wait(30)

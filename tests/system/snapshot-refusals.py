#!/usr/bin/env python3
# time-limit: 120
"""What cannot be saved, cloned or go on says so before anything stands still: which part of the machine, why, and what to do. The guest does not notice,
no disk gets a snapshot, no file and no machine is left."""
import json
import os
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, lodge, until, wait_rounds
from machine import BUILD, HOME, LODGE, TMP, Machine, check, skip, wait_for
from migration import Receive, rpc, start_move

STAMP = os.path.join(BUILD, "guest", "stamp-rv64.elf")
TAP = f"lt{os.getpid()}"
if not os.path.exists(STAMP):
    skip("riscv64-linux-gnu-gcc is not installed")


def disk(n, fmt="raw"):
    path = os.path.join(TMP, f"{n}.{fmt}")
    lodge("disk", "create", f"{path}:{fmt}", "--size", "1M")
    return f"{path}:{fmt}"


def args(*disks):
    return ["--firmware", STAMP, "--memory", "32M", *(x for d in disks for x in ("--disk", d))]


def places():
    return {d: sorted(os.listdir(os.path.join(HOME, "data", d))) if os.path.isdir(os.path.join(HOME, "data", d)) else [] for d in ("snapshots", "vms")}


def refused(what, words, code, *verb):
    """By the command line: these words, this exit code; the machine `m` has had no moment and nothing is left."""
    before, rc = places(), lodge(*verb, ok=False)
    check(what, rc.returncode == code and all(w in rc.stderr for w in words), (rc.returncode, rc.stderr))
    if places() != before or lodge("ps").stdout.split().count("running") != 1:
        check(f"{what}: nothing is left", False, places())


q, r = disk("q", "qcow2"), disk("r")
with Machine(*args(q, r), name="m") as m:
    m.expect(b"rounds", 60)
    refused("a raw disk has no snapshots", ("disk1", "raw has no snapshots", "qcow2 and lodgefs", "--memory-only", r[:-4]), 1, "snapshot", "create", "m")
    refused("also when disks are asked for", ("disk1", "raw"), 1, "snapshot", "create", "m", "--with-disks")
    refused("no agent to freeze file systems", ("--quiesce", "agent"), 1, "snapshot", "create", "m", "--memory-only", "--quiesce")
    refused("no agent to hold programs", ("holding", "agent"), 1, "snapshot", "create", "m", "--memory-only", "--hold")
    refused("a parent that is not there", ("nobody",), 3, "snapshot", "create", "m", "--memory-only", "--parent", "nobody")
    check("none of these was a moment", m.call("snapshot_status")["state"] == "none" and m.call("status")["state"] == "running")
    check("and the disk that could has no snapshot", not json.loads(lodge("disk", "info", q, "--json", ok=False).stdout or "{}").get("snapshots"))
    m.expect(b"rounds", 60)
with Machine(*args(q), name="m") as m:
    m.expect(b"rounds", 60)
    lodge("snapshot", "create", "m", "--name", "whole", "--with-disks")
    lodge("snapshot", "create", "m", "--name", "bare", "--memory-only")

# ---- clones ----
many = [disk(f"d{i}") for i in range(8)]
with Machine(*args(*many), name="m") as m:
    m.expect(b"rounds", 60)
    refused("more disks than can be cloned", ("more than 7 disks",), 1, "clone", "m")
    check("it was no moment", m.call("snapshot_status")["state"] == "none")
    refused("of a snapshot without its disks", ("disk0", "--memory-only", "clone the machine while it runs"), 1, "clone", "bare")
if os.geteuid() == 0 and os.path.exists("/dev/net/tun") and subprocess.run(["ip", "tuntap", "add", TAP, "mode", "tap"], capture_output=True).returncode == 0:
    try:
        with Machine(*args(), "--net", f"tap={TAP}", name="m") as m:
            m.expect(b"rounds", 60)
            refused("the host's interface cannot be two machines'", (TAP, "user networking"), 1, "clone", "m")
            check("it was no moment", m.call("snapshot_status")["state"] == "none")
    finally:
        subprocess.run(["ip", "tuntap", "del", TAP, "mode", "tap"])
else:
    print("PASS: a machine with a tap was not tried: none can be made here")

# ---- going on: a machine of another kind ----
FILE = os.path.join(HOME, "data", "snapshots", "whole.snap")
for what, word, more in (("less memory", "memory", ["--memory", "64M"]), ("a hart more", "no object cpu1", ["--smp", "2"]),
                         ("a device more", "no object disk1", ["--disk", r])):
    base = ["--firmware", STAMP, "--memory", "32M", "--disk", q]
    with Machine(*base, *more, "--restore", FILE, name="x") as m:
        code = m.wait(60)
    said = open(os.path.join(TMP, "x.log")).read().strip().split("\n")[-1]
    check(f"a machine with {what} does not go on from it, and says why", code == 1 and word in said and "restore" in said, (code, said))
definition = json.loads(lodge("snapshot", "show", "whole", "--json", "--json").stdout)
check("the disk is as it was", [d["snapshot"] for d in definition["disks"]] == ["whole"] and "before-restore" not in lodge("disk", "snapshot", q).stdout)
lodge("restore", "whole", "--name", "y", "-d")
wait_for(lambda: "gap" in lodge("logs", "y").stdout)
check("and the machine that it is of goes on", "gap" in lodge("logs", "y").stdout)
lodge("kill", "y")

# ---- one at a time ----
lodge("run", "-d", "--firmware", STAMP, "--memory", "128M", "--smp", "2", "--name", "m")
wait_rounds("m", 1)
r = Receive("far")
p = start_move("m", r.at, "--bandwidth", "1M", "--no-throttle")
until("it copies", lambda: rpc("m", "migrate_status").get("round"))
for verb in ("snapshot", "create"), ("clone",):
    said = lodge(*verb, "m", ok=False)
    check(f"lodge {verb[0]} while the machine is being migrated", said.returncode == 4 and "being migrated" in said.stderr, (said.returncode, said.stderr))
check("it was no moment", rpc("m", "snapshot_status")["state"] == "none")
lodge("migrate", "m", "--cancel")
p.communicate()
r.end()
# The other way round, as long as one is being written: a small queue makes it last, and on a busy host it may still be over too soon.


def migrate_to(fd):
    """What the machine says to being migrated over a connection at whose other end nobody answers."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(os.path.join(HOME, "run", "m", "control.sock"))
        socket.send_fds(s, [json.dumps({"jsonrpc": "2.0", "id": 1, "method": "migrate_start", "params": {}}).encode() + b"\n"], [fd])
        return json.loads(s.makefile().readline()).get("error", {}).get("message", "")


hit = {}
for _ in range(20):
    s = subprocess.Popen([LODGE, "snapshot", "create", "m", "--name", "long", "--queue", "256K"], env=ENV, stderr=subprocess.PIPE, text=True)
    while s.poll() is None and rpc("m", "snapshot_status")["state"] != "writing":
        pass
    here, there = socket.socketpair()
    said = {"migrate": migrate_to(there.fileno()), "update": lodge("update", "m", ok=False).stderr}
    here.close()
    there.close()
    hit |= {k: v for k, v in said.items() if "snapshot of this machine is being written" in v}
    if s.wait():
        check("the snapshot is not disturbed", False, s.stderr.read())
    lodge("snapshot", "verify", "long")
    lodge("snapshot", "rm", "long")
    if len(hit) == 2:
        break
check("a migration and lodge update while a snapshot is being written are refused, and say why", len(hit) == 2, (hit, said))
wait_rounds("m", 1)
lodge("kill", "m")

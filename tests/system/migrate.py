#!/usr/bin/env python3
# time-limit: 420
"""A running machine moves to another process: exact to the page, over a Unix socket and TCP with TLS; what cannot be is refused before anything is
paused; whatever fails, the guest lives on exactly one side. LODGE_MIGRATE_CYCLES=N: more moves of each kind (3)."""
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, SLOW, lodge, pid, rounds, until
from migration import Middle, Receive, alive, certificates, message, move, rpc, start_move, tls
from machine import BUILD, LODGE, TMP, check, skip, wait_for

STAMP = os.path.join(BUILD, "guest", "stamp-rv64.elf")
STAMP_X86 = os.path.join(BUILD, "guest", "stamp-x86.elf")
CYCLES = int(os.environ.get("LODGE_MIGRATE_CYCLES", "3"))
random.seed(int(os.environ.get("LODGE_SEED", "1")))


def goes_on(name, what, more=2):
    """The guest makes progress: whole rounds over all its memory, each page checked."""
    first = rounds(name)
    until(f"{what}: the guest goes on", lambda: rounds(name) >= first + more)


def boot(name, smp=2, memory="128M", *more):
    lodge("run", "--firmware", STAMP, "--memory", memory, "--smp", str(smp), "--name", name, "-d", *more)
    until(f"{name} starts", lambda: "rounds" in lodge("logs", name).stdout)


def refused(name, what, words, *receive, address=None, more=()):
    """Both sides say why, and the machine has not been paused."""
    r = Receive("no", *receive, address=address)
    p = start_move(name, r.at, *more)
    out, err = p.communicate(timeout=100 * SLOW)
    code, rout, rerr = r.end()
    st = json.loads(out)
    check(f"refused: {what}", p.returncode == 1 and st["phase"] == "failed" and words in st["error"] and "pause_for" not in st, (st, err))
    check(f"refused: {what}: the destination says it too", code in (1, 2) and words in rerr, rerr)
    check(f"refused: {what}: nothing is left there", not alive("no"))


if not os.path.exists(STAMP):
    skip("riscv64-linux-gnu-gcc is not installed")
LIMIT = ("--bandwidth", "4M", "--no-throttle")  # a copy that takes as long as a test wants

# ---- exact: each page is of the moment, whoever carried it ----
boot("m0", 2)
n = 0
for i in range(CYCLES):
    st = move(f"m{n}", f"m{n + 1}", *(("--streams", "3") if i % 2 else ()), address="tcp:127.0.0.1:0" if i % 3 == 1 else None)
    n += 1
    until(f"move {n}: the old one has ended", lambda: not alive(f"m{n - 1}"))
    goes_on(f"m{n}", f"move {n}")
check(f"{n} moves of a guest that rewrites all its memory, by one and three streams, Unix and TCP: every page of its moment", True)
lodge("kill", f"m{n}")
boot("m", 4, "64M", "--engine", "interp")
st = move("m", "i", "--bandwidth", "24M")
check("with a limit of bandwidth it was packed", st["packed"] + st["delta"] > 0, st)
goes_on("i", "interpreted, four harts, packed")
lodge("pause", "i")
move("i", "j")
check("a paused machine arrives paused", '"state":"paused"' in lodge("ps", "--json").stdout.replace(" ", ""), lodge("ps").stdout)
lodge("resume", "j")
goes_on("j", "resumed after it came")
lodge("kill", "j")

# ---- a stream that an earlier version has sent: a machine of 32 MiB, one hart, which ticks; from version 3 on with a card ----
shutil.copyfile(STAMP, "stamp.elf")
switch = subprocess.Popen([LODGE, "switch", "run", "fixture"], env=ENV, stdin=subprocess.DEVNULL)
until("a switch", lambda: lodge("switch", "show", "fixture", ok=False).returncode == 0)
KEPT = os.path.join(os.environ["LODGE_TOP"], "tests/fixtures/migration")
for kept in sorted(os.listdir(KEPT)):
    r = Receive("old")
    for versions in 99 << 16 | 100, 0:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(r.at[5:])
            s.sendall(message(1, versions, b"{}"))
            check("a source that is too new, or too old, is told so, and the receiver waits on", b"bring the older one up to date" in s.makefile("rb").read())
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(r.at[5:])
        s.sendall(open(os.path.join(KEPT, kept), "rb").read())
        while s.recv(65536):
            pass
    code, out, err = r.end()
    check(f"{kept}: is taken", code == 0, err)
    wait_for(lambda: "gap" in lodge("logs", "old").stdout, 30)
    check(f"{kept}: goes on", "gap" in lodge("logs", "old").stdout)
    lodge("kill", "old")
switch.terminate()
switch.wait()

# ---- what it would be ----
boot("a")
r = Receive("b")
p = lodge("migrate", "a", r.at, "--dry-run")
check("a dry run says how long", "could move" in p.stdout and "about" in p.stdout, p.stdout)
st = json.loads(start_move("a", r.at, *LIMIT, "--dry-run").communicate()[0])
check("and again, to the same receiver", st["phase"] == "tried", st)

# ---- Ctrl-C while the machine that waits is being started ----
r.p.send_signal(signal.SIGINT)
r.end()
for i in range(60):
    r = Receive("b")
    time.sleep(i % 20 * 0.0003)
    r.p.send_signal(signal.SIGINT)
    code, out, err = r.end()
    if "stopped" not in err or alive("b"):
        check("Ctrl-C to a receiver that has just begun", False, (i, code, err))
check("Ctrl-C to a receiver that has just begun: 60 times it is heard", True)

# ---- refused before anything is paused ----
own = os.path.join(TMP, "own.yaml")


def definition(**kw):
    with open(own, "w") as f:
        json.dump(dict({"firmware": STAMP, "memory": "128M", "smp": 2}, **kw), f)
    return "--config", own


refused("a", "another size of memory", "MiB of memory", *definition(memory="64M"))
refused("a", "another number of vCPUs", "cpu", *definition(smp=1))
refused("a", "a device more", "definition differs", *definition(nets=["user"]))
refused("a", "a CPU without an extension", "zbb", *definition(cpu="rv64,zbb=off"))
refused("a", "more memory than the host has", "memory", *definition(memory="900G"))
p = lodge("receive", "a", f"unix:{TMP}/x.sock", ok=False)
check("a name that is taken", p.returncode == 4 and "running here already" in p.stderr, p.stderr)
p = lodge("migrate", "a", f"unix:{TMP}/nobody.sock", ok=False)
check("nobody waits there", p.returncode != 0 and "lodge receive" in p.stderr, p.stderr)
p = lodge("migrate", "a", "tcp:192.0.2.1:7", ok=False)
check("no plain TCP to another host", p.returncode == 1 and "TLS" in p.stderr, p.stderr)
goes_on("a", "after all refusals")

# ---- cancelled: it goes on here ----


def copying(p, name="a"):
    end = time.monotonic() + 60 * SLOW
    while time.monotonic() < end and p.poll() is None:
        st = rpc(name, "migrate_status")
        if st["phase"] == "copying" and st["wire"] > 100000:
            return
    check("it copies", False, p.communicate())


for how in "Ctrl-C", "--cancel", "kill -9 of lodge migrate", "Ctrl-C at the destination", "kill -9 of the destination":
    r = Receive("b")
    p = start_move("a", r.at, *LIMIT)
    copying(p)
    if how == "Ctrl-C":
        p.send_signal(signal.SIGINT)
    elif how == "--cancel":
        lodge("migrate", "a", "--cancel")
    elif how.startswith("kill -9 of lodge"):
        p.kill()
    elif how.startswith("Ctrl-C at"):
        r.p.send_signal(signal.SIGINT)
    else:
        os.kill(pid("b"), signal.SIGKILL)
    out, err = p.communicate(timeout=30 * SLOW)
    r.end()
    check(f"{how}: it did not move", p.returncode != 0, (out, err))
    goes_on("a", how)
    check(f"{how}: there is no other", not alive("b"), lodge("ps").stdout)
st = rpc("a", "migrate_status")
check("the last one is told", st["phase"] == "failed" and st["throttle"] == 0, st)

# kill -9 of the source: the destination does not run half a machine.
boot("k")
r = Receive("b")
p = start_move("k", r.at, *LIMIT)
copying(p, "k")
os.kill(pid("k"), signal.SIGKILL)
p.communicate(timeout=30 * SLOW)
code, out, err = r.end()
check("kill -9 of the source: the destination says so, and ends", code == 1 and not alive("b"), err)

# ---- the connection breaks in the one moment when nobody can tell from here: the error says what to do ----
for harm in "GO", "RUNNING":
    r = Receive("b")
    p = start_move("a", Middle(r.at, 1 << 62, harm).address, "--downtime", "1000")
    out, err = p.communicate(timeout=100 * SLOW)
    code, rout, rerr = r.end()
    check(f"{harm} is lost: it says so, and what to do", json.loads(out)["phase"] == "lost" and "--take-back" in err, (out, err))
    p = lodge("resume", "a", ok=False)
    check(f"{harm} is lost: it does not go on without being told to", p.returncode == 1 and "Look there" in p.stderr, p.stderr)
    check(f"{harm} is lost: the destination {'runs' if harm == 'RUNNING' else 'has ended'}", alive("b") == (harm == "RUNNING") and (code == 0) == (harm == "RUNNING"), rerr)
    if harm == "GO":
        lodge("migrate", "a", "--take-back")
        goes_on("a", "taken back")
    else:
        goes_on("b", "the other one", 1)
        lodge("kill", "b")
        lodge("migrate", "a", "--take-back")  # a test may: b is gone, and nobody has seen what it did
        goes_on("a", "taken back again", 1)
lodge("kill", "a")

# ---- TLS with certificates of both sides ----
if shutil.which("openssl"):
    certificates(("src", "ca"), ("dst", "ca"), ("stranger", "other"))
    boot("t")
    r = Receive("u", *tls("dst"), address="tcp:127.0.0.1:0")
    for what, more in (("a stranger", tls("stranger") + ("--tls-peer", "dst")), ("without TLS", ()), ("another name", tls("src"))):
        p = start_move("t", r.at, *more)
        out, err = p.communicate(timeout=100 * SLOW)
        check(f"TLS: {what} is refused", p.returncode == 1 and json.loads(out)["phase"] == "failed", (out, err))
    p = start_move("t", r.at, *tls("src"), "--tls-peer", "dst", "--streams", "2")
    out, err = p.communicate(timeout=100 * SLOW)
    code, rout, rerr = r.end()
    check("TLS: two streams, and the receiver waited on", p.returncode == 0 and code == 0, (out, err, rerr))
    goes_on("u", "TLS")
    lodge("kill", "u")

# ---- the other engine ----
if os.access("/dev/kvm", os.R_OK | os.W_OK) and os.path.exists(STAMP_X86):
    lodge("run", "--engine", "kvm", "--kernel", STAMP_X86, "--memory", "128M", "--smp", "2", "--name", "x0", "-d")
    wait_for(lambda: "rounds" in lodge("logs", "x0").stdout)
    for i in range(min(CYCLES, 2)):
        move(f"x{i}", f"x{i + 1}")
        goes_on(f"x{i + 1}", f"kvm, move {i + 1}", 1)
    check("kvm: a guest that rewrites all its memory moves, every page of its moment", True)
    lodge("kill", f"x{min(CYCLES, 2)}")
else:
    print("PASS: kvm was not tried: no /dev/kvm")

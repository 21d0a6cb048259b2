#!/usr/bin/env python3
# time-limit: 420
"""Post-copy: a machine runs at its destination before its memory is there, exact to the page, on both engines; a connection that breaks at any point
is made anew, and nothing is lost; whoever is killed, the guest lives on one side or the error says what to do. LODGE_MIGRATE_CYCLES=N: N times as many."""
import os
import random
import shutil
import signal
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import gone, lodge, pid, until, wait_rounds
from migration import EARLY, Link, Receive, message, post_copy, result, start_move, state
from machine import BUILD, LODGE, TMP, check, skip

STAMP = {"rv64": ("--firmware", os.path.join(BUILD, "guest", "stamp-rv64.elf")),
         "kvm": ("--engine", "kvm", "--kernel", os.path.join(BUILD, "guest", "stamp-x86.elf"))}
CYCLES = int(os.environ.get("LODGE_MIGRATE_CYCLES", "1"))
random.seed(int(os.environ.get("LODGE_SEED", "1")))


def boot(engine, name, smp=2, memory="64M"):
    lodge("run", *STAMP[engine], "--memory", memory, "--smp", str(smp), "--name", name, "-d")
    until(f"{name} starts", lambda: "rounds" in lodge("logs", name).stdout)


if not os.path.exists(STAMP["rv64"][1]):
    skip("riscv64-linux-gnu-gcc is not installed")
if not post_copy():
    skip("no userfaultfd for this user")
KVM = os.access("/dev/kvm", os.R_OK | os.W_OK) and os.path.exists(STAMP["kvm"][-1])
ENGINES = ("rv64", "kvm") if KVM else ("rv64",)

# ---- no userfaultfd at the destination: said before anything is paused ----
boot("rv64", "a")
if os.getuid() == 0 and shutil.which("unshare") and shutil.which("setpriv"):
    hide = "mount --bind /dev/userfaultfd /dev/userfaultfd && mount -o remount,bind,nodev /dev/userfaultfd;" if os.path.exists("/dev/userfaultfd") else ""
    without = ("unshare", "-m", "sh", "-c", f'{hide} exec setpriv --bounding-set=-sys_ptrace --inh-caps=-sys_ptrace "$@"', "sh", LODGE)
    r = Receive("b", program=without)
    st, err = result(start_move("a", r.at, "--post-copy"))
    code, out, rerr = r.end()
    if st["phase"] == "done":
        print("PASS: without userfaultfd was not tried: it cannot be taken away here")
        lodge("kill", "b")
        boot("rv64", "a")
    else:
        check("without userfaultfd: both sides name it, nothing was paused", "userfaultfd" in st["error"] and "pause_for" not in st and code in (1, 2) and "userfaultfd" in rerr, (st, rerr))
        wait_rounds("a", 1)


# ---- a destination of an earlier version ----
with socket.socket(socket.AF_UNIX) as s:
    s.bind(f"{TMP}/old.sock")
    s.listen(4)
    p = start_move("a", f"unix:{TMP}/old.sock", "--post-copy")
    c = s.accept()[0]
    c.recv(1 << 20)
    c.sendall(message(8, 1, b'{"pid":1}'))
    st, err = result(p)
    check("a destination without post-copy: said, and nothing was paused", st["phase"] == "failed" and "no post-copy" in st["error"] and "pause_for" not in st, st)

# ---- a stream that an earlier version has sent, over two connections: a machine of 32 MiB, one hart, which ticks ----
def messages(path):
    data = open(path, "rb").read()
    while data:
        kind, n = struct.unpack_from("<HxxI", data, 4)
        yield kind, data[:32 + n]
        data = data[32 + n:]


def replay(s, sent, waits):
    """Each message as it was sent; what answers something waits for it."""
    heard = b""
    for kind, m in sent:
        while kind in waits and b"LDMG" + struct.pack("<H", waits[kind]) not in heard:
            if not (more := s.recv(65536)):
                return
            heard += more
        s.sendall(m)
    while s.recv(65536):
        pass


KEPT = os.path.join(os.environ["LODGE_TOP"], "tests/fixtures/migration-post")
shutil.copyfile(STAMP["rv64"][1], "stamp.elf")
for kept in sorted(f[:-6] for f in os.listdir(KEPT) if f.endswith(".0.bin")):
    r = Receive("old")
    a, b = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    a.connect(r.at[5:])
    (_, hello), *rest = messages(f"{KEPT}/{kept}.0.bin")
    a.sendall(hello)
    a.recv(1, socket.MSG_PEEK)  # WELCOME: who joins before is nobody yet
    t = threading.Thread(target=replay, args=(a, rest, {7: 10, 9: 17}))  # GO after READY, ACK after WHOLE
    t.start()
    b.connect(r.at[5:])
    replay(b, messages(f"{KEPT}/{kept}.1.bin"), {})
    t.join()
    check(f"{kept}: is taken", r.end()[0] == 0)
    until(f"{kept} goes on", lambda: "gap" in lodge("logs", "old").stdout)
    lodge("kill", "old")

# ---- exact, whoever carried the page ----
name, other = "a", "b"


def move(smp, *more):
    global name, other
    r = Receive(other)
    st, err = result(start_move(name, r.at, *more))
    code, out, rerr = r.end()
    check(f"{name} moves {' '.join(more)}", st["phase"] == "done" and code == 0, (st, err, rerr))
    until(f"{name}: the old one has ended", lambda: state(name)["state"] is None)
    check(f"{name}: the new one is whole", "coming" not in state(other), state(other))
    name, other = other, name
    if smp > 1:
        wait_rounds(name, 2)
    else:
        until("it ticks", lambda: lodge("logs", name).stdout.count("gap") > 2)
    return st


SLOWLY = ("--post-copy", "--at-once", "--bandwidth", "1M")  # as long as a test wants
lodge("kill", "a")
for engine in ENGINES:
    for smp in 1, 2, 4 if engine == "rv64" else 3:  # four: this guest's search for a fifth CPU resets the first under some hosts' KVM
        name, other = "a", "b"
        boot(engine, "a", smp, "64M" if engine == "rv64" else "32M")
        st = move(smp, "--post-copy", *(("--at-once", "--streams", "2", "--bandwidth", "8M") if smp == 2 else ()))
        if smp == 2:
            check(f"{engine}: pages came after it, and it waited for some", st["of"] > 100 and st["asked"] > 0, st)
        lodge("kill", name)
    check(f"{engine}: a guest that rewrites all its memory, on one CPU and several: every page of its moment", True)
boot("rv64", "a")
lodge("pause", "a")
r = Receive("b")
st, err = result(start_move("a", r.at, "--post-copy", "--at-once"))
code, out, err = r.end()
check("a paused machine arrives paused and whole", st["phase"] == "done" and code == 0 and state("b")["state"] == "paused", (st, err))
lodge("resume", "b")
wait_rounds("b", 1)
lodge("kill", "b")

# ---- the connection breaks, again and again ----
for engine in ENGINES:
    name, other = "a", "b"
    boot(engine, "a", 4 if engine == "rv64" else 2, "64M" if engine == "rv64" else "32M")
    r = Receive("b")
    link = Link(r.at)
    link.limit = EARLY
    p, cuts = start_move("a", link.address, *SLOWLY), 0
    while True:
        while True:
            if p.poll() is not None or state("b")["state"] == "running":
                break
            time.sleep(0.01)
        if 0 < cuts < 3 * CYCLES:
            link.limit = link.bytes + random.randrange(1 << random.randrange(8, 17))
            until("it breaks", lambda: p.poll() is not None)
        st, err = result(p)
        if st["phase"] != "postcopy-paused":
            break
        cuts += 1
        check(f"{engine}, cut {cuts}: the error says how to go on", "--recover" in err and "postcopy-paused" == state("a")["state"], (err, state("a")))
        until("the destination says so", lambda: state("b")["state"] == "postcopy-paused")
        if cuts == 1:
            for what in ("resume", "a"), ("migrate", "--take-back", "a"), ("pause", "b"), ("reset", "b"), ("snapshot", "create", "b", "s"), ("migrate", "b", "unix:/x"):
                check(f"{' '.join(what)}: refused", lodge(*what, ok=False).returncode != 0, what)
            r.p.kill()  # the machine does not need who started it
        link.cut()
        p = start_move("a", link.address, "--recover", "--bandwidth", "2M")
    check(f"{engine}: whole after {cuts} cuts", st["phase"] == "done" and cuts > 0, (st, err))
    until("it is whole", lambda: state("b")["state"] == "running" and "coming" not in state("b"))
    until("the source ends", lambda: state("a")["state"] is None)
    wait_rounds("b", 2)
    check(f"{engine}: every page, after {cuts} broken connections", True)
    lodge("kill", "b")

# ---- at another address; how the link breaks, and TLS: migrate-links.py ----
boot("rv64", "a")
r = Receive("b")
link = Link(r.at)
link.limit = EARLY
p = start_move("a", link.address, *SLOWLY)
st, err = result(p)
check("cut", st["phase"] == "postcopy-paused", st)
q = Receive("b", "--recover", address="tcp:127.0.0.1:0")
st, err = result(start_move("a", q.at, "--recover"))
check("at another address: whole", st["phase"] == "done" and q.end()[0] == 0 and r.end()[0] == 0, (st, err))
wait_rounds("b", 1)
p = lodge("receive", "b", f"unix:{TMP}/z", "--recover", ok=False)
check("nothing is missing: said", p.returncode == 1 and "missing" in p.stderr, p.stderr)
p = lodge("migrate", "b", f"unix:{TMP}/z", "--recover", ok=False)
check("nothing to go on with: said", p.returncode != 0, p.stderr)
lodge("kill", "b")

# ---- nobody can tell whether it runs: RUNNING is lost; the new connection tells ----
boot("rv64", "a")
r = Receive("b")
st, err = result(start_move("a", Link(r.at, drop=11).address, *SLOWLY))
check("RUNNING is lost: it stands still here", st["phase"] == "lost" and "--take-back" in err, (st, err))
until("it runs there", lambda: state("b")["state"] == "postcopy-paused")
st, err = result(start_move("a", r.at, "--recover"))
check("RUNNING is lost: recovered", st["phase"] == "done" and r.end()[0] == 0, (st, err))
wait_rounds("b", 1)
lodge("kill", "b")

# ---- somebody is killed ----
for who in "lodge migrate", "source", "destination":
    boot("rv64", "a")
    r = Receive("b")
    p = start_move("a", r.at, *SLOWLY)
    until("it runs there", lambda: state("b")["state"] == "running")
    time.sleep(random.random() * 0.5)
    if who == "lodge migrate":
        p.kill()
        p.communicate()
        check(f"kill -9 of {who}: it comes whole", r.end()[0] == 0 and state("b")["state"] == "running", state("b"))
        wait_rounds("b", 1)
        lodge("kill", "b")
        continue
    os.kill(pid("a" if who == "source" else "b"), signal.SIGKILL)
    st, err = result(p)
    if who == "source":
        until(f"kill -9 of {who}: the destination waits, and says so", lambda: state("b")["state"] == "postcopy-paused")
        check(f"kill -9 of {who}: what is missing is said", state("b")["coming"]["left"] > 0, state("b"))
        q = lodge("pause", "b", ok=False)
        check(f"kill -9 of {who}: and what to do", "lodge kill" in q.stderr and "lost" in q.stderr, q.stderr)
        was = pid("b")
        lodge("kill", "b")
        check(f"kill -9 of {who}: it can be ended while it waits", gone(was))
        r.end()
    else:
        r.end()
        check(f"kill -9 of {who}: the error says what is lost, and what to do", st["phase"] == "postcopy-paused" and "lost" in err and "lodge kill" in err, (st, err))
        q = lodge("migrate", "--take-back", "a", ok=False)
        check(f"kill -9 of {who}: it is not run from an older moment", q.returncode == 1 and "older" in q.stderr, q.stderr)
        lodge("kill", "a")

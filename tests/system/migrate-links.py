#!/usr/bin/env python3
# time-limit: 420
"""Post-copy over links that are not cut: one that stands still in the middle of a message is noticed, and made anew; who connects and is nobody keeps neither
the guest nor the source waiting; and all of it by TLS."""
import os
import shutil
import socket
import struct
import sys
import threading

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import SLOW, lodge, until, wait_rounds
from migration import EARLY, Link, Receive, certificates, message, post_copy, result, start_move, state, tls
from machine import BUILD, check, skip

STAMP = os.path.join(BUILD, "guest", "stamp-rv64.elf")
SLOWLY = ("--post-copy", "--at-once", "--bandwidth", "1M")
if not os.path.exists(STAMP):
    skip("riscv64-linux-gnu-gcc is not installed")
if not post_copy():
    skip("no userfaultfd for this user")


def boot(name):
    lodge("run", "--firmware", STAMP, "--memory", "64M", "--smp", "2", "--name", name, "-d")
    until(f"{name} starts", lambda: "rounds" in lodge("logs", name).stdout)


def whole(what, p, r):
    st, err = result(p)
    check(f"{what}: whole", st["phase"] == "done" and r.end()[0] == 0, (st, err))
    wait_rounds("b", 1)
    lodge("kill", "b")


# ---- it stands still in the middle of what the guest waits for ----
boot("a")
r = Receive("b")
first = [socket.socket(socket.AF_UNIX) for _ in range(5)]  # before the source, and with each of its connections: five silent ones keep nobody waiting
for s in first:
    s.connect(r.at[5:])
link = Link(r.at, idle=2, stall_at=20)  # of that connection only what the guest waits for: the guest runs there by then
p = start_move("a", link.address, *SLOWLY)
check("an answer stops in the middle", link.stalled())
until("a link that stands still: the destination says so", lambda: state("b")["state"] == "postcopy-paused", 90)
check("a link that stands still: and since when", "20 s" in state("b")["coming"]["error"], state("b"))
link.cut()
st, err = result(p)
check("a link that stands still: the source keeps what it has", st["phase"] == "postcopy-paused" and state("a")["state"] == "postcopy-paused", (st, err))


# ---- meanwhile strangers come ----
def stranger(first):
    s = socket.socket(socket.AF_UNIX)
    s.connect(r.at[5:])
    s.sendall(first)
    s.settimeout(60 * SLOW)
    return s


def heard(s):
    data = b""
    try:
        while more := s.recv(4096):
            data += more
    except ConnectionError:
        pass
    return data


def head(kind, size):
    return struct.pack("<4sHHIIQQ", b"LDMG", kind, 0, size, 0, 0, 0)


def trickle(s):
    try:
        while not done.wait(0.5):
            s.sendall(b" ")
    except OSError:
        pass


check("another machine is told what waits here", b"waits here for the rest" in heard(stranger(message(1, 0x10002, b"{}"))))
s = stranger(b"")
try:
    s.sendall(message(5, 0, bytes(1 << 20)))  # whole, and valid: who heard it out would say that something else waits here
except OSError:
    pass  # it is not read to its end
check("who wants to say much is not heard out", b"waits here" not in heard(s))
first += [stranger(b"") for _ in range(5)]
done = threading.Event()
s = stranger(head(1, 60000))  # and then a byte each half second, for hours
threading.Thread(target=trickle, args=(s,), daemon=True).start()
p = start_move("a", r.at, "--recover")
whole("while a stranger talks slowly", p, r)
done.set()

# ---- TLS: what was read ahead is not seen at the socket ----
if shutil.which("openssl"):
    certificates(("src", "ca"), ("dst", "ca"))
    to_dst = *tls("src"), "--tls-peer", "dst"
    boot("a")
    r = Receive("b", *tls("dst"), address="tcp:127.0.0.1:0")
    link = Link(r.at)
    link.limit = EARLY
    p = start_move("a", link.address, *SLOWLY, *to_dst)
    st, err = result(p)
    check("TLS: cut", st["phase"] == "postcopy-paused" and st["asked"] > 0, (st, err))
    until("TLS: the destination says so", lambda: state("b")["state"] == "postcopy-paused")
    p = start_move("a", link.address, "--recover", "--bandwidth", "4M", *to_dst)
    whole("TLS, two connections, one after the other", p, r)
else:
    print("PASS: TLS was not tried: no openssl")

"""migration.py: both sides of a migration, and a connection between them that does harm.

    r = Receive("b")
    p = start_move("a", r.at)            or through Middle(r.at[5:], 4711, "cut").address
    out, err = p.communicate()
    code, out, err = r.end()
"""
import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import threading
import time

from cli import ENV, SLOW, lodge
from lodgefs import crc32c
from machine import HOME, LODGE, TMP, check


def alive(name):
    return f'"{name}"' in lodge("ps", "--json").stdout


def post_copy():
    """May this user's machines arrive before their memory? That takes userfaultfd(2) for what the kernel touches, too."""
    with open("/proc/self/status") as f:
        caps = int(next(line for line in f if line.startswith("CapEff:")).split()[1], 16)
    try:
        with open("/proc/sys/vm/unprivileged_userfaultfd") as f:
            free = f.read().strip() == "1"
    except OSError:
        free = False
    return free or bool(caps >> 19 & 1) or os.access("/dev/userfaultfd", os.R_OK | os.W_OK)  # CAP_SYS_PTRACE


class Receive:
    """lodge receive in the background; `at`: where it waits."""

    def __init__(self, name, *more, address=None, program=(LODGE,)):
        self.p = subprocess.Popen([*program, "receive", name, address or f"unix:{TMP}/{name}.sock", *more], env=ENV, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        line = self.p.stdout.readline()
        if " at " not in line:
            check(f"lodge receive {name}", False, self.p.stderr.read())
        self.at = line.split(" at ")[1].strip()

    def end(self):
        out, err = self.p.communicate(timeout=60 * SLOW)
        return self.p.returncode, out, err


def start_move(name, to, *more):
    return subprocess.Popen([LODGE, "migrate", name, to, "--json", *more], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def move(name, new, *more, address=None, receive=()):
    """A move that must succeed; what lodge migrate says of it."""
    r = Receive(new, *receive, address=address)
    p = start_move(name, r.at, *more)
    out, err = p.communicate(timeout=100 * SLOW)
    code, rout, rerr = r.end()
    if p.returncode or code:
        check(f"{name} moves to {new}", False, (p.returncode, out, err, code, rerr))
    return json.loads(out.strip().split("\n")[-1])


def rpc(name, method, **params):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(os.path.join(HOME, "run", name, "control.sock"))
        s.sendall((json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}) + "\n").encode())
        return json.loads(s.makefile().readline()).get("result")


def message(kind, arg, payload):
    """The first message of a direction (docs/migration.md, "The stream")."""
    head = lambda crc: struct.pack("<4sHHIIQQ", b"LDMG", kind, 0, len(payload), crc, arg, 0)
    return head(crc32c(head(0) + payload)) + payload


class Middle:
    """
    Connections in between to the Unix socket `to`; at byte `at` of all those to the destination it does its harm: "flip" a bit, "cut", "lose" the rest of
    a piece, "repeat" it, "swap" it with what comes before, be "slow"; or wherever it is the message "GO" is not let through, or the answer to it,
    "RUNNING". `done`: it has; `bytes`: how many have come through.
    """

    def __init__(self, to, at, harm):
        self.to, self.at, self.harm, self.mute, self.done, self.bytes = to, at, harm, False, False, 0
        self.s = socket.create_server(("127.0.0.1", 0))
        self.address = "tcp:127.0.0.1:%d" % self.s.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            a, b = self.s.accept()[0], socket.socket(socket.AF_UNIX)
            b.connect(self.to)
            threading.Thread(target=self.copy, args=(b, a), daemon=True).start()
            threading.Thread(target=self.carry, args=(a, b), daemon=True).start()

    def carry(self, a, b):
        try:
            while chunk := a.recv(65536):
                go = chunk.find(b"LDMG\x07\0") if self.harm in ("GO", "RUNNING") else -1
                if go >= 0:
                    self.mute = True  # the answer does not come through
                    if self.harm == "RUNNING":
                        b.sendall(chunk)
                        time.sleep(1)
                    break
                if not self.done and self.bytes <= self.at < self.bytes + len(chunk):
                    was, chunk = chunk, bytearray(chunk)
                    k = self.at - self.bytes
                    if self.harm == "slow":
                        time.sleep(random.random())
                        self.done = True
                    elif self.harm == "flip":
                        chunk[k] ^= 1 << random.randrange(8)
                    elif self.harm == "cut":
                        b.sendall(chunk[:k])
                        self.done = True
                        break
                    elif self.harm == "lose":
                        del chunk[k:]
                    elif self.harm == "repeat":
                        chunk += chunk[k:]
                    elif self.harm == "swap":
                        chunk = chunk[k:] + chunk[:k]
                    self.done |= chunk != was
                self.bytes += len(chunk)
                b.sendall(chunk)
        except OSError:
            pass
        for s in a, b:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def copy(self, x, y):
        try:
            while chunk := x.recv(65536):
                if not self.mute:
                    y.sendall(chunk)
        except OSError:
            pass


class Gate:
    """Connections in between, which stand still, in both directions, when a message of that type comes by, until open() or cut()."""

    def __init__(self, to, kind):
        self.to, self.what, self.ends = to, b"LDMG" + struct.pack("<H", kind), []
        self.held, self.free, self.gone = threading.Event(), threading.Event(), False
        self.s = socket.create_server(("127.0.0.1", 0))
        self.at = "tcp:127.0.0.1:%d" % self.s.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            a, b = self.s.accept()[0], socket.socket(socket.AF_UNIX)
            b.connect(self.to[5:])
            self.ends += [a, b]
            for x, y in (a, b), (b, a):
                threading.Thread(target=self.copy, args=(x, y), daemon=True).start()

    def copy(self, x, y):
        try:
            while chunk := x.recv(65536):
                if self.what in chunk:
                    self.held.set()
                if self.held.is_set():
                    self.free.wait()
                    if self.gone:
                        return
                y.sendall(chunk)
        except OSError:
            pass
        if self.held.is_set():
            self.free.wait()
        try:
            y.shutdown(socket.SHUT_WR)  # what comes the other way may still come
        except OSError:
            pass

    def open(self):
        self.free.set()

    def cut(self):
        self.gone = True
        self.free.set()
        for s in self.ends:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


EARLY = 256 << 10  # bytes of a post-copy at once, by which the guest runs there (GO comes at 24 KiB), and most of its memory is still here


class Link:
    """
    Connections in between, to the Unix socket or "HOST:PORT" `to`. cut(): all break. `stall_at`: all stand still, the first one in the middle of that one of
    its PAGES to the destination (not when it is TLS), until the next cut(); stalled() waits for it. `drop`: of the first one, the message of that type from the destination, and all after it, do not come
    through. `idle`: behind each one, as many more connect and say nothing.
    """

    def __init__(self, to, drop=0, idle=0, stall_at=0):
        self.to, self.drop, self.open, self.bytes, self.limit, self.idle, self.silent = to, drop, [], 0, 1 << 62, idle, []
        self.stall_at, self.still = stall_at, threading.Event()
        self.s = socket.create_server(("127.0.0.1", 0))
        self.at = "tcp:127.0.0.1:%d" % self.s.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def connect(self):
        if "/" not in self.to:
            return socket.create_connection(self.to.rsplit(":", 1))
        s = socket.socket(socket.AF_UNIX)
        s.connect(self.to)
        return s

    def accept(self):
        while True:
            try:
                a = self.s.accept()[0]
            except OSError:
                return
            try:
                b = self.connect()
            except OSError:
                a.close()
                continue
            first = not self.open
            self.silent += [self.connect() for _ in range(self.idle)]
            self.open += [a, b]
            for x, y, back in (a, b, False), (b, a, True):
                threading.Thread(target=self.copy, args=(x, y, first, back), daemon=True).start()

    def copy(self, x, y, first, back):
        try:
            while chunk := x.recv(65536):
                if first and back and self.drop and b"LDMG" + struct.pack("<H", self.drop) in chunk:
                    return self.cut()
                if self.stall_at and first and not back and (at := chunk.find(b"LDMG\x03\0")) >= 0:
                    self.stall_at -= 1
                    if not self.stall_at:
                        y.sendall(chunk[:at + 40])
                        self.still.set()
                if self.still.is_set():
                    return  # neither more nor an end
                y.sendall(chunk)
                self.bytes += len(chunk)
                if self.bytes > self.limit:
                    return self.cut()
        except OSError:
            pass
        with contextlib.suppress(OSError):
            y.shutdown(socket.SHUT_WR)  # of this one only: what others still carry arrives

    def stalled(self):
        return self.still.wait(60 * SLOW)

    def cut(self):
        self.limit, self.stall_at = 1 << 62, 0
        self.still.clear()
        for s in self.open:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.open = []


# ---- post-copy ----


def state(name):
    for line in lodge("ps", "--json").stdout.splitlines():
        if (j := json.loads(line))["name"] == name:
            return j
    return {"state": None}


def result(p):
    out, err = p.communicate(timeout=60 * SLOW)
    lines = out.strip().split("\n")
    return json.loads(lines[-1]) if lines[-1] else {"phase": None, "error": err}, err


# ---- TLS ----


def certificates(*pairs):
    """For each (name, who signs it); in the present folder. See tls()."""
    def ssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True)

    for ca in {ca for _, ca in pairs}:
        ssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}", "-days", "2")
    for who, ca in pairs:
        ssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        with open("ext", "w") as f:
            f.write(f"subjectAltName=DNS:{who}\n")
        ssl("x509", "-req", "-in", f"{who}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial", "-out", f"{who}.pem", "-days", "2", "-extfile", "ext")


def tls(who, ca="ca"):
    return "--tls-cert", f"{who}.pem", "--tls-key", f"{who}.key", "--tls-ca", f"{ca}.pem"

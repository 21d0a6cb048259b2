"""migration.py: both sides of a migration, and a connection between them that does harm.

    r = Receive("b")
    p = start_move("a", r.at)            or through Middle(r.at, 4711, "cut").address
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


class Between:
    """
    Connections in between, to `to` ("unix:FILE" or "tcp:HOST:PORT"); one connects to `address`. carry() of who inherits it gets what comes from x and goes
    to y, whether that is of the `first` connection, and whether it comes `back` from the destination; it sends that. When it does not answer True, nothing
    more comes through that way, and no end either. cut(): all break.
    """

    def __init__(self, to):
        self.to, self.ends, self.listener = to, [], socket.create_server(("127.0.0.1", 0))
        self.address = "tcp:127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def connect(self):
        kind, where = self.to.split(":", 1)
        if kind == "tcp":
            return socket.create_connection(where.rsplit(":", 1))
        s = socket.socket(socket.AF_UNIX)
        s.connect(where)
        return s

    def accept(self):
        while True:
            a = self.listener.accept()[0]
            try:
                b = self.connect()
                self.connected()
            except OSError:
                a.close()
                continue
            first = not self.ends
            self.ends += [a, b]
            for x, y, back in (a, b, False), (b, a, True):
                threading.Thread(target=self.copy, args=(x, y, first, back), daemon=True).start()

    def copy(self, x, y, first, back):
        with contextlib.suppress(OSError):
            while chunk := x.recv(65536):
                if not self.carry(chunk, x, y, first, back):
                    return
        self.ending()
        with contextlib.suppress(OSError):
            y.shutdown(socket.SHUT_WR)  # what comes the other way may still come

    def connected(self):
        pass

    def ending(self):
        pass

    def cut(self):
        ends, self.ends = self.ends, []
        shut(*ends)


def shut(*sockets):
    for s in sockets:
        with contextlib.suppress(OSError):
            s.shutdown(socket.SHUT_RDWR)


class Middle(Between):
    """
    At byte `at` of all that goes to the destination it does its harm: "flip" a bit, "cut", "lose" the rest of a piece, "repeat" it, "swap" it with what comes
    before, be "slow"; or wherever it is the message "GO" is not let through, or the answer to it, "RUNNING". `done`: it has; `bytes`: how many have come
    through.
    """

    def __init__(self, to, at, harm):
        self.at, self.harm, self.mute, self.done, self.bytes = at, harm, False, False, 0
        super().__init__(to)

    def carry(self, chunk, x, y, first, back):
        if back:
            if not self.mute:
                y.sendall(chunk)
            return True
        if self.harm in ("GO", "RUNNING") and b"LDMG\x07\0" in chunk:
            self.mute = True  # the answer does not come through
            if self.harm == "RUNNING":
                y.sendall(chunk)
                time.sleep(1)
            return shut(x, y)
        if not self.done and self.bytes <= self.at < self.bytes + len(chunk):
            k, was = self.at - self.bytes, chunk
            if self.harm == "cut":
                self.done = True
                y.sendall(chunk[:k])
                return shut(x, y)
            if self.harm == "slow":
                time.sleep(random.random())
                self.done = True
            chunk = self.damaged(bytearray(chunk), k)
            self.done |= chunk != was
        self.bytes += len(chunk)
        y.sendall(chunk)
        return True

    def damaged(self, chunk, k):
        if self.harm == "flip":
            chunk[k] ^= 1 << random.randrange(8)
        elif self.harm == "lose":
            del chunk[k:]
        elif self.harm == "repeat":
            chunk += chunk[k:]
        elif self.harm == "swap":
            chunk = chunk[k:] + chunk[:k]
        return chunk


class Gate(Between):
    """All stand still, in both directions, when a message of that type comes by, until open() or cut()."""

    def __init__(self, to, kind):
        self.what, self.held, self.free, self.gone = b"LDMG" + struct.pack("<H", kind), threading.Event(), threading.Event(), False
        super().__init__(to)

    def carry(self, chunk, x, y, first, back):
        if self.what in chunk:
            self.held.set()
        self.ending()
        if not self.gone:
            y.sendall(chunk)
        return not self.gone

    def ending(self):
        if self.held.is_set():
            self.free.wait()

    def open(self):
        self.free.set()

    def cut(self):
        self.gone = True
        self.free.set()
        super().cut()


EARLY = 256 << 10  # bytes of a post-copy at once, by which the guest runs there (GO comes at 24 KiB), and most of its memory is still here


class Link(Between):
    """
    `limit`: after so many bytes (`bytes`) all break. `stall_at`: all stand still, the first one in the middle of that one of its PAGES to the destination
    (not when it is TLS), until the next cut(); stalled() waits for it. `drop`: of the first one, the message of that type from the destination, and all after
    it, do not come through. `idle`: behind each one, as many more connect and say nothing.
    """

    def __init__(self, to, drop=0, idle=0, stall_at=0):
        self.drop, self.bytes, self.limit, self.idle, self.silent = drop, 0, 1 << 62, idle, []
        self.stall_at, self.still = stall_at, threading.Event()
        super().__init__(to)

    def connected(self):
        self.silent += [self.connect() for _ in range(self.idle)]

    def carry(self, chunk, x, y, first, back):
        if first and back and self.drop and b"LDMG" + struct.pack("<H", self.drop) in chunk:
            return self.cut()
        at = -1  # a busy host brings several messages at once
        while self.stall_at and first and not back and (at := chunk.find(b"LDMG\x03\0", at + 1)) >= 0:
            self.stall_at -= 1
            if not self.stall_at:
                y.sendall(chunk[:at + 40])
                self.still.set()
        if self.still.is_set():
            return False  # neither more nor an end
        y.sendall(chunk)
        self.bytes += len(chunk)
        return self.cut() if self.bytes > self.limit else True

    def stalled(self):
        return self.still.wait(60 * SLOW)

    def cut(self):
        self.limit, self.stall_at = 1 << 62, 0
        self.still.clear()
        super().cut()


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

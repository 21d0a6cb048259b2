"""migration.py: both sides of a migration, and a connection between them that does harm.

    r = Receive("b")
    p = start_move("a", r.at)            or through Middle(r.at[5:], 4711, "cut").address
    out, err = p.communicate()
    code, out, err = r.end()
"""
import json
import random
import socket
import struct
import subprocess
import threading
import time

from cli import ENV, SLOW, lodge
from lodgefs import crc32c
from machine import LODGE, TMP, check


def alive(name):
    return f'"{name}"' in lodge("ps", "--json").stdout


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


def message(kind, arg, payload):
    """The first message of a direction (docs/migration.md, "The stream")."""
    head = lambda crc: struct.pack("<4sHHIIQQ", b"LDMG", kind, 0, len(payload), crc, arg, 0)
    return head(crc32c(head(0) + payload)) + payload


class Middle:
    """
    A connection in between to the Unix socket `to`; at byte `at` of those to the destination it does its harm: "flip" a bit, "cut", "lose" the rest of
    a piece, "repeat" it; or wherever it is the message "GO" is not let through, or the answer to it, "RUNNING".
    """

    def __init__(self, to, at, harm):
        self.to, self.at, self.harm, self.mute = to, at, harm, False
        self.s = socket.create_server(("127.0.0.1", 0))
        self.address = "tcp:127.0.0.1:%d" % self.s.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        a, b = self.s.accept()[0], socket.socket(socket.AF_UNIX)
        b.connect(self.to)
        threading.Thread(target=self.copy, args=(b, a), daemon=True).start()
        n = 0
        try:
            while chunk := a.recv(65536):
                go = chunk.find(b"LDMG\x07\0") if self.harm in ("GO", "RUNNING") else -1
                if go >= 0:
                    self.mute = True  # the answer does not come through
                    if self.harm == "RUNNING":
                        b.sendall(chunk)
                        time.sleep(1)
                    break
                if n <= self.at < n + len(chunk):
                    chunk = bytearray(chunk)
                    k = self.at - n
                    if self.harm == "flip":
                        chunk[k] ^= 1 << random.randrange(8)
                    elif self.harm == "cut":
                        b.sendall(chunk[:k])
                        break
                    elif self.harm == "lose":
                        del chunk[k:]
                    elif self.harm == "repeat":
                        chunk += chunk[k:]
                n += len(chunk)
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

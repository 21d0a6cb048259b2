#!/usr/bin/env python3
# time-limit: 120
"""Damaged qcow2 images: what `lodge disk repair` calls good, qemu-img does too, and so it stays when the disk is written to; the guest's data is there as it was, byte
for byte, also where an L1 entry leads into it (there `qemu-img check -r all` writes zeroes).

Witnesses: qemu-img check, qemu-io. A loop device, which does not become longer, needs root.
"""
import os
import shutil
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from machine import LODGE, loop_device, sh

PLACE = 0x00FFFFFFFFFFFE00
COPIED = 1 << 63
CLUSTER = 4096
failed = 0


class Tables:
    """An image whose tables are changed by hand."""

    def __init__(self, path):
        self.f = open(path, "r+b")
        self.l1, self.rt, self.snapshots = self.get(40), self.get(48), self.get(64)
        self.l2 = self.get(self.l1) & PLACE
        self.first, self.second = self.get(self.l2), self.get(self.l2 + 8)

    def get(self, at):
        self.f.seek(at)
        return struct.unpack(">Q", self.f.read(8))[0]

    def put(self, at, value):
        self.f.seek(at)
        self.f.write(struct.pack(">Q", value))
        self.f.flush()


def l1_into_data(t):
    t.put(t.l1 + 16, t.second)


def two_entries(t):
    t.put(t.l2 + 16 * 8, t.first)


def two_tables(t):
    t.put(t.l1 + 16, t.l2 | COPIED)


def no_block(t):
    t.put(t.rt, 0)


def all_of_it(t):
    for change in (l1_into_data, two_entries, no_block):
        change(t)


def into_tables(t):
    for i, place in enumerate((t.l1, t.l2, t.rt, t.get(t.rt), t.snapshots)):
        t.put(t.l2 + (16 + i) * 8, place | COPIED)


def io(path, *commands):
    out = sh("qemu-io", "-f", "qcow2", *[x for c in commands for x in ("-c", c)], path)
    assert "failed" not in out, out


def row(break_it, path, *options):
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-o", ",".join((f"cluster_size={CLUSTER}", *options)), path, "64M")
    if "refcount_bits=1" not in options:
        sh("qemu-img", "snapshot", "-c", "empty", path)
    io(path, "write -P 7 0 32k", "write -P 9 2M 4k")
    t = Tables(path)
    break_it(t)
    t.f.close()
    sh(LODGE, "disk", "check", f"{path}:qcow2", code=1)
    sh(LODGE, "disk", "repair", f"{path}:qcow2")
    shows = ["read -P 7 0 32k", "read -P 9 2M 4k"]
    sh("qemu-img", "check", "-q", path)
    io(path, *shows, "write -P 5 64k 16k", "write -P 6 4M 4k", *shows)
    sh("qemu-img", "check", "-q", path)
    io(path, "write -P 8 0 512", "read -P 5 64k 16k", "read -P 6 4M 4k")
    sh("qemu-img", "check", "-q", path)
    sh(LODGE, "disk", "check", f"{path}:qcow2")


def attempt(name, *rest):
    global failed
    try:
        row(*rest)
        print(f"PASS: {name}")
    except AssertionError as e:
        failed += 1
        print(f"FAIL: {name}: {e}")


def main():
    if not shutil.which("qemu-img"):
        print("SKIP: qemu-img is not installed; tools/setup --test gets it")
        sys.exit(77)
    breaks = (l1_into_data, two_entries, two_tables, no_block, all_of_it, into_tables)
    for b in breaks:
        for options in ((), ("compat=0.10",), ("refcount_bits=1",), ("refcount_bits=64",)):
            if b is into_tables and options == ("refcount_bits=1",):
                continue  # no snapshots there
            attempt(" ".join((b.__name__, *options)), b, f"{b.__name__}.qcow2", *options)
    if os.geteuid():
        print("SKIP: a loop device needs root")
        sys.exit(failed > 0)
    with open("device", "wb") as f:
        f.truncate(2 << 20)
    with loop_device("device") as dev:
        for b in breaks:
            attempt(f"{b.__name__}, a block device", b, dev)
    sys.exit(failed > 0)


main()

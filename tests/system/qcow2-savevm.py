#!/usr/bin/env python3
# time-limit: 300
"""Snapshots with the state of a machine, as QEMU's savevm makes them: Lodge lists them, writes beside them, goes back to them and deletes them, and QEMU loads them
at any time. The state of a machine lies behind the end of the disk, where no guest may see it when the disk grows.

Witnesses: qemu-system-riscv64 (savevm, loadvm), qemu-img check, compare, snapshot.
"""
import json
import os
import random
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from machine import BUILD, LODGE, sh

TOOL = f"{BUILD}/tests/tools/disk-io"
MIB = 1 << 20
SIZE = 6 * MIB
failed = 0


def machine(path, *commands):
    """A machine of QEMU's that has not begun to run, with that disk and its monitor."""
    p = subprocess.run(["qemu-system-riscv64", "-M", "virt", "-m", "16M", "-bios", "none", "-S", "-display", "none", "-nodefaults", "-monitor", "stdio",
                        "-drive", f"if=none,id=d,file={path},format=qcow2", "-device", "virtio-blk-pci,drive=d"],
                       input="".join(c + "\n" for c in (*commands, "quit")), capture_output=True, text=True, timeout=120)
    out = p.stdout + p.stderr
    if p.returncode or "Error" in out or "rror:" in out:
        raise AssertionError(f"QEMU: {commands}: {p.returncode}\n{out}")
    return out


class Image:
    def __init__(self, name, by, *options):
        self.path, self.data = f"{name}.qcow2", bytearray(SIZE)
        if by == "qemu":
            sh("qemu-img", "create", "-q", "-f", "qcow2", *[x for o in options for x in ("-o", o)], self.path, str(SIZE))
        else:
            sh(TOOL, "create", "qcow2", self.path, str(SIZE), *[o.replace("_", "-", 1) + ("B" if o.startswith("cluster") else "") for o in options])

    def lodge(self, *script):
        return sh(TOOL, "run", "qcow2", self.path, input="".join(s + "\n" for s in script))

    def write(self, n):
        script = []
        for _ in range(n):
            length = random.choice((512, 4096, 70 * 512))
            off, pat = random.randrange(0, len(self.data) - length) // 512 * 512, random.randrange(251)
            script.append(f"w {off} {length} {pat}")
            self.data[off:off + length] = b"".join(bytes([(pat + s) % 251]) * 512 for s in range(off // 512, (off + length) // 512))
        self.lodge(*script)

    def look(self):
        """No damage, no leak, and the contents, as both programs read them."""
        sh("qemu-img", "check", "-q", self.path)
        with open("oracle.raw", "wb") as f:
            f.write(self.data)
        sh("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "oracle.raw", self.path)
        self.lodge("x out.raw")
        with open("out.raw", "rb") as f:
            assert f.read() == self.data, "Lodge reads something else"

    def grow(self):
        """Far behind where a machine's state was."""
        size = len(self.data) + 40 * MIB
        sh(LODGE, "disk", "resize", f"{self.path}:qcow2", f"{size}B")
        self.data += bytes(size - len(self.data))

    def snapshots(self):
        return {s["name"]: s for s in json.loads(sh(LODGE, "disk", "snapshot", f"{self.path}:qcow2", "--json"))}


def row(name, by, *options, longer=True):
    img = Image(name, by, *options)
    img.write(40)
    machine(img.path, "savevm first")
    first = bytes(img.data)
    img.look()
    have = img.snapshots()
    assert list(have) == ["first"] and have["first"]["vm_size"] > 64 * 1024 and have["first"]["size"] == SIZE, have

    # Written to, with a snapshot of Lodge's own beside it.
    img.write(40)
    img.look()
    img.lodge("S own")
    img.write(40)
    img.look()
    latest = bytes(img.data)
    machine(img.path, "savevm second")
    img.look()
    assert "first" in machine(img.path, "info snapshots", "loadvm first")
    img.data = bytearray(first)
    img.look()

    # The machine that was loaded left its state behind the end.
    if longer:
        img.grow()
        img.look()
        img.write(20)
        img.look()
    img.lodge("A second")
    img.data = bytearray(latest)
    img.look()
    if longer:
        img.grow()
        img.look()
    machine(img.path, "loadvm first")
    img.data = bytearray(first)
    img.look()

    # Each of both programs deletes what the other one knows as well.
    img.lodge("D second")
    img.look()
    machine(img.path, "loadvm first")
    img.look()
    sh("qemu-img", "snapshot", "-d", "own", img.path)
    img.write(10)
    img.lodge("D first")
    img.look()
    assert not img.snapshots() and "first" not in sh("qemu-img", "snapshot", "-l", img.path)


def main():
    global failed
    if not shutil.which("qemu-img") or not shutil.which("qemu-system-riscv64"):
        print("SKIP: qemu-img or qemu-system-riscv64 is not installed")
        sys.exit(77)
    random.seed(6)
    for name, *rest in (("qemu", "qemu"), ("qemu-4k", "qemu", "cluster_size=4096"), ("lodge-4k", "lodge", "cluster_size=4096"),
                        ("qemu-subclusters", "qemu", "extended_l2=on,cluster_size=16384"), ("lodge-lazy", "lodge", "cluster_size=4096", "lazy_refcounts=on"),
                        ("qemu-v2", "qemu", "compat=0.10,cluster_size=4096")):
        try:
            row(name, *rest, longer=name != "qemu-v2")
            print(f"PASS: savevm, {name}")
        except AssertionError as e:
            failed += 1
            print(f"FAIL: savevm, {name}: {e}")
    sys.exit(failed > 0)


main()

#!/usr/bin/env python3
# time-limit: 240
"""Debian's kernel under Debian's OpenSBI instead of the built-in firmware, and bare M-mode programs whose exit code is the machine's."""
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import TMP, Machine, check, mini_image, skip

WHERE = "/usr/lib/riscv64-linux-gnu/opensbi/generic"


def bare(name, code):
    """An ELF whose one segment writes `code` to the test finisher."""
    lui = lambda rd, v: (v & 0xfffff000) | rd << 7 | 0x37
    words = [lui(5, 0x100000), lui(6, (code + 0x800) & 0xffffffff), (code & 0xfff) << 20 | 6 << 15 | 6 << 7 | 0x13, 6 << 20 | 5 << 15 | 2 << 12 | 0x23, 0x6f]
    body = b"".join(struct.pack("<I", w & 0xffffffff) for w in words)
    head = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 243, 1, 0x80000000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    ph = struct.pack("<IIQQQQQQ", 1, 7, 120, 0x80000000, 0x80000000, len(body), len(body), 4)
    path = os.path.join(TMP, name)
    with open(path, "wb") as f:
        f.write(head + ph + body)
    return path


for what, word, want in (("pass", 0x5555, 0), ("fail with 42", 0x3333 | 42 << 16, 42), ("fail with 1", 0x3333 | 1 << 16, 1)):
    with Machine("--firmware", bare("bare.elf", word), "--memory", "64M") as m:
        got = m.wait(20)
    check(f"a bare program that says {what} ends with {want}", got == want, got)

if not os.path.isdir(WHERE):
    skip("Debian's opensbi is not installed")
mini = mini_image()
for fw in ("fw_dynamic.bin", "fw_jump.elf"):
    # fw_jump lets harts draw lots; one that comes late spoils the draw (OpenSBI up to 1.5), so there it is one vCPU.
    for smp in (1, 4) if "dynamic" in fw else (1,):
        with Machine("--firmware", os.path.join(WHERE, fw), "--kernel", mini["kernel"], "--initrd", mini["initrd"], "--append", mini["append"], "--memory", "256M",
                     "--smp", str(smp), name=f"fw{smp}") as m:
            m.expect(b"OpenSBI v", 20)
            m.expect(b"debian:mini ready", 90)
            m.expect(b"# ", 20)
            check(f"{fw}, {smp} vCPUs: every hart is up", m.run("grep -c ^processor /proc/cpuinfo").strip() == str(smp))
            m.type("poweroff\n")
            check(f"{fw}, {smp} vCPUs: boots and powers off", m.wait(40) == 0)

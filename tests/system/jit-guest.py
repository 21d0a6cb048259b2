#!/usr/bin/env python3
# time-limit: 400
"""What is hard for a translator, from inside Linux (guest/linux/jitcases.c): changing code, code at several addresses, mappings that change
under it, signals in floating point, forks, compilers. 1, 2 and 4 vCPUs, both tiers of everything on 1 and 2, the smallest code cache, and the
interpreter for comparison.
LODGE_JIT_ROUNDS=N makes it N times as long."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import BUILD, TMP, Machine, check, mini_image, skip

ROUNDS = int(os.environ.get("LODGE_JIT_ROUNDS", "1"))


def cpio_file(name, data, mode):
    """One entry of an initramfs in the newc format (Documentation/driver-api/early-userspace/buffer-format)."""
    pad = lambda b: b + bytes(-len(b) % 4)
    fields = [1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    return pad(b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0") + pad(data)


program = os.path.join(BUILD, "guest/jitcases")
if not os.path.exists(program):
    skip("riscv64-linux-gnu-gcc is not installed")
image = mini_image()
initrd = os.path.join(TMP, "initrd")
with open(initrd, "wb") as f, open(image["initrd"], "rb") as mini, open(program, "rb") as cases:
    data = mini.read()
    f.write(data + bytes(-len(data) % 4) + cpio_file("bin/jitcases", cases.read(), 0o100755) + cpio_file("TRAILER!!!", b"", 0))

ALL = "all %d" % ROUNDS
for what, flags, words in (("2 vCPUs", ["--smp", "2"], ALL), ("1 vCPU", ["--smp", "1"], ALL), ("4 vCPUs", ["--smp", "4"], ALL),
                           ("2 vCPUs, both tiers at once", ["--smp", "2", "--jit-tiers", "at-once"], ALL),
                           ("1 vCPU, both tiers at once", ["--smp", "1", "--jit-tiers", "at-once"], ALL),
                           ("2 vCPUs, code cache of 1 MiB", ["--smp", "2", "--jit-cache", "1M"], ALL),
                           ("2 vCPUs, interpreted", ["--smp", "2", "--engine", "interp"],
                            "self-modifying cross-modifying two-addresses remaps unmap-self fp-signals compilers")):
    with Machine("--kernel", image["kernel"], "--initrd", initrd, "--append", image["append"], "--memory", "256M", *flags,
                 name=re.sub("[^a-z0-9]+", "-", what.lower())) as vm:
        vm.expect(b"debian:mini ready", 120)
        vm.expect(b"# ", 30)
        out = vm.run("jitcases " + words, 250 * ROUNDS)
        # Each case is one of this test's.
        for line in out.split("\n"):
            if line.startswith("FAIL "):
                print(out)
                check(f"{what}: {line[5:]}", False)
            if line.startswith("PASS "):
                check(f"{what}: {line[5:]}", True)
        check(f"{what}: all of them", "SUCCESS" in out.split("\n"), out[-2000:])
        if "--engine" not in flags:
            engine = vm.call("stats")["engine"]
            check(f"{what}: code of both tiers was made, and removed", engine["regions"] > 0 and engine["hot_regions"] > 0 and engine["removed"] > 0, engine)

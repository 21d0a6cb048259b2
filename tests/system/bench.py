#!/usr/bin/env python3
# time-limit: 300
"""The rows of guest/bench, small: they compute in the guest, with each engine, what they compute natively."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import BUILD, TMP, TOP, check, mini_image, skip

if not all(os.path.exists(os.path.join(BUILD, "guest/bench", n)) for n in ("bench-rv64", "bench-native")):
    skip("guest/bench is not built (riscv64-linux-gnu-gcc and its C library)")
mini_image()
for engine in ("rv64", "interp"):
    p = subprocess.run([sys.executable, os.path.join(TOP, "bench/run"), "cpu", "--build", BUILD, "--quick", "--rows", "all", "--scale", "0.1",
                        "--engine", engine, "--out", os.path.join(TMP, engine)], capture_output=True, text=True)
    check(f"{engine}: every checksum is the native one", p.returncode == 0 and "all rows (35)" in p.stdout, p.stdout[-800:] + p.stderr[-800:])

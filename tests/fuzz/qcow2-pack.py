#!/usr/bin/env python3
"""Seeds of fuzz_qcow2 out of images: qcow2-pack.py IMAGE > SEED. Sectors that are not zero, each behind its number."""
import struct
import sys

with open(sys.argv[1], "rb") as f:
    data = f.read(8192 * 512)
for n in range((len(data) + 511) // 512):
    sector = data[n * 512:(n + 1) * 512].ljust(512, b"\0")
    if any(sector):
        sys.stdout.buffer.write(struct.pack("<I", n) + sector)

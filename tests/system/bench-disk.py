#!/usr/bin/env python3
"""bench/disk: a row runs beside qemu-img, and what is asked of rows is judged as it says."""
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import BUILD, TMP, TOP, check, skip

sys.path.insert(0, os.path.join(TOP, "bench"))
sys.dont_write_bytecode = True
import disk_verdict


def row(kind, label, ratios, host=None, fmt="qcow2"):
    """The peer does 100 a second."""
    r = {"row": kind, "label": label, "format": fmt, "ratio": sorted(ratios)[len(ratios) // 2], "ratios": ratios,
         "arms": {"lodge": [], "qemu": [{"iops": 100}] * len(ratios)}}
    return {**r, "host": host} if host else r


ALLOC = "alloc write 4K x64 jumps none"
for what, r, want in (
        ("as quick as qemu-img", row("over", "over read 4K x1 seq none", [0.9, 1.0, 1.1]), "met"),
        ("slower in each pair", row("over", "over read 4K x1 seq none", [0.8, 0.9, 0.99]), "below"),
        ("slower in most pairs", row("flush", "flush write 4K x1 seq flush/1 none", [0.8, 0.9, 1.2]), "doubt"),
        ("twice qcow2 where three times is asked of lodgefs", row("alloc", ALLOC, [2, 2, 2.1], fmt="lodgefs"), "below"),
        ("twice where half as much again is asked of qcow2", row("alloc", ALLOC, [2, 2, 2.1]), "met"),
        ("as quick as QEMU in a guest", row("guest", "guest over read 4k x1", [1, 1, 1.1], [1000]), "below"),
        ("the same where the host does 1.4 times QEMU's", row("guest", "guest over read 1m x4", [1, 1, 1.1], [140]), "host")):
    check(f"{what}: {want}", disk_verdict.verdict(r) == want, disk_verdict.verdict(r))
check("a flush is not asked to be quicker with the sorter", disk_verdict.asked(row("guest-sorter", "guest-sorter qcow2 4k x64 sync/64", [1])) is None)
check("one row below, and the run fails that is to judge", not disk_verdict.judge([row("over", "over read", [2]), row("over", "over write", [0.5])]))
check("none below, and it does not", disk_verdict.judge([row("over", "over read", [2]), row("guest", "guest over read 1m x4", [1], [140])]))

if not shutil.which("qemu-img"):
    skip("qemu-img is not installed")
out = os.path.join(TMP, "disk.json")
p = subprocess.run([sys.executable, os.path.join(TOP, "bench/disk"), "--build", BUILD, "--quick", "--rows", "over", "--formats", "qcow2", "--caches", "none",
                    "--only", "read 4K x1 seq", "--dir", TMP, "--out", out], capture_output=True, text=True)
check("a row runs", p.returncode == 0 and "1 rows of which something is asked" in p.stdout, p.stdout + p.stderr)
with open(out) as f:
    (r,) = json.load(f)
check("with what is asked of it, and its pairs", r["asked"] == 1 and len(r["ratios"]) == 2 and r["verdict"] in disk_verdict.SAYS, r)
check("and a picture", os.path.exists(os.path.join(TMP, "disk.svg")))

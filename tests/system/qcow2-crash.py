#!/usr/bin/env python3
# time-limit: 240
"""QEMU looks at what power cuts left (tests/unit/disk/test_crash.c): it finds no damage, its repair leaves nothing, and it reads what Lodge reads.

LODGE_CRASH_WORKLOADS=N runs that many of each kind instead of 2.
"""
import collections
import glob
import os
import re
import shutil
import subprocess
import sys

if not shutil.which("qemu-img"):
    print("SKIP: qemu-img is not installed; tools/setup --test gets it")
    sys.exit(77)
top = os.environ.get("LODGE_TOP", os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
BUILD = os.environ.get("LODGE_BUILD", os.path.join(top, "build"))
D = os.path.join(os.environ.get("LODGE_TMP", "/tmp"), "cuts")
KINDS = [k + batch for k in ("qcow2", "qcow2-synced", "qcow2-synced-overlay", "qcow2-filled", "qcow2-overlay", "qcow2-overlay-longer", "qcow2-clones", "qcow2-bitmaps", "qcow2-subclusters",
                             "qcow2-subclusters-overlay", "qcow2-lazy", "qcow2-data", "qcow2-data-raw", "qcow2-data-overlay", "qcow2-small", "qcow2-v2", "qcow2-packed") for batch in ("", "-batch")]
failed = 0


def options(base):
    o = f"driver=qcow2,file.driver=file,file.filename={base}.image"
    if os.path.exists(f"{base}.base"):
        o += f",backing.driver=raw,backing.file.driver=file,backing.file.filename={base}.base"
    if os.path.exists(f"{base}.data"):
        o += f",data-file.driver=file,data-file.filename={base}.data"
    return o


def img(*argv):
    p = subprocess.run(["qemu-img", *argv], capture_output=True, text=True, timeout=60)
    return p.returncode, p.stdout + p.stderr


def look(base):
    """What is wrong with one image, or None; and whether clusters had leaked."""
    o = options(base)
    dirty = os.path.exists(f"{base}.image") and open(f"{base}.image", "rb").read(80)[79] & 1
    code, said = img("check", "--image-opts", o)
    # The dirty bit says that counts may be wrong: QEMU, too, mends them when it opens the image for writing.
    if code not in (0, 3) and not (dirty and code == 2):
        return f"qemu-img check: {code}: {said}", False
    leaked = code == 3
    code, said = img("compare", "--image-opts", o, f"driver=raw,file.driver=file,file.filename={base}.contents")
    if code:
        return f"QEMU reads something else: {said}", leaked
    img("check", "-r", "all", "--image-opts", o)
    code, said = img("check", "--image-opts", o)
    if code:
        return f"after QEMU's repair: {code}: {said}", leaked
    code, said = img("compare", "--image-opts", o, f"driver=raw,file.driver=file,file.filename={base}.contents")
    return (f"after QEMU's repair it reads something else: {said}" if code else None), leaked


os.makedirs(D, exist_ok=True)
env = dict(os.environ, LODGE_CRASH_SAVE=D)
env.setdefault("LODGE_CRASH_WORKLOADS", "2")
for kind in KINDS:
    p = subprocess.run([f"{BUILD}/tests/unit/disk/test_crash"], env={**env, "LODGE_CRASH_KIND": kind}, capture_output=True, text=True)
    m = re.search(rf"^{kind}: (\d+) workloads, (\d+) power cuts", p.stdout, re.M)
    if p.returncode or not m:
        failed += 1
        print(f"FAIL: {kind}: test_crash: {p.returncode}: {(p.stdout + p.stderr)[-400:]}", flush=True)
        continue
    found = collections.Counter()
    for path in sorted(glob.glob(f"{D}/{kind}-[0-9]*.image")):
        base = path[:-len(".image")]
        why, leaked = look(base)
        found["images"] += 1
        found["leaked"] += leaked
        if why:
            found["bad"] += 1
            if found["bad"] == 1:
                print(f"      {os.path.basename(base)}: {why}")
        for f in glob.glob(f"{base}.*"):
            os.unlink(f)
    bad = found["bad"] or not found["images"]
    failed += bool(bad)
    print(f"{'FAIL' if bad else 'PASS'}: {kind}: {m.group(1)} workloads, {m.group(2)} power cuts, {found['images']} images looked at, {found['bad']} bad, "
          f"{found['leaked']} with leaks", flush=True)
sys.exit(failed != 0)

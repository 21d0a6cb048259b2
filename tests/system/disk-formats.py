#!/usr/bin/env python3
# time-limit: 240
"""A stock kernel on qcow2: an overlay, a snapshot while it runs, growing, and a host that is full: the machine waits for room. On lodgefs: limits, growing, and a
range of another disk that may only be read."""
import json
import os
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from failing import gets
from machine import TMP, Machine, check, mini_image, wait_for

if not shutil.which("qemu-img"):
    print("SKIP: qemu-img is not installed")
    sys.exit(0)
mini = mini_image()
LODGE = os.path.join(os.environ["LODGE_BUILD"], "src/cli/lodge")
base, top, flat, small = (os.path.join(TMP, n) for n in ("base.raw", "top.qcow2", "flat.raw", "small"))
MIB = 1 << 20


def sh(*cmd, code=0):
    p = subprocess.run(cmd, capture_output=True, text=True)
    check(" ".join(os.path.basename(c) for c in cmd[:4]), p.returncode == code, p.stdout + p.stderr)
    return p.stdout


def args(*disks):
    return ["--kernel", mini["kernel"], "--initrd", mini["initrd"], "--append", mini["append"], "--memory", "160M", "--smp", "2", "--seed", "3",
            *sum((["--disk", d] for d in disks), [])]


def refused(m, method, **params):
    try:
        m.call(method, **params)
    except Exception as e:
        return str(e)
    return ""


def ready(m):
    m.expect(b"debian:mini ready", 90)
    m.expect(b"# ", 10)


with open(base, "wb") as f:
    f.write(b"from below" * 1000)
    f.truncate(32 * MIB)
sh(LODGE, "disk", "create", f"{top}:qcow2", "--backing", f"{base}:raw")
os.makedirs(small, exist_ok=True)
mounted = os.getuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", small]).returncode == 0
store = os.path.join(TMP, "store")
sh(LODGE, "store", "create", f"{store}:lodgefs", "--size", "64M")
sh(LODGE, "disk", "convert", f"{base}:raw", f"{store}/base:lodgefs")
sh(LODGE, "disk", "create", f"{store}/parts:lodgefs", "-o", "compose=base/0/8M/ro+-/8M")
disks = [f"{top}:qcow2,id=root,queues=1", f"{store}/parts:lodgefs,id=parts,queues=1,bps=512K,bps-burst=64K"]
if mounted:
    sh(LODGE, "disk", "create", f"{small}/full.qcow2:qcow2", "--size", "64M")
    disks.append(f"{small}/full.qcow2:qcow2,id=full,on-error=pause")
try:
    with Machine(*args(*disks), name="df1") as m:
        ready(m)
        check("the overlay shows what is below", "from below" in m.run("head -c 10 /dev/vda"))
        said = m.run("dd if=/dev/urandom of=/tmp/r bs=1M count=3 2>/dev/null; dd if=/tmp/r of=/dev/vda bs=1M seek=5 conv=fsync 2>/dev/null; md5sum </tmp/r", 60)
        m.call("disk_snapshot", id="root", name="live")
        m.run("dd if=/dev/zero of=/dev/vda bs=1M seek=5 count=3 conv=fsync 2>/dev/null", 60)
        for wrong, words in ({"name": "x", "delete": "yes"}, "boolean"), ({"name": 5}, "text"), ({}, '"name" is missing'), ({"name": "x", "id": 7}, "text"), \
                ({"name": "x", "ids": "root"}, "array"), ({"name": "live", "ids": ["root"], "delete": True}, "one disk"):
            answer = refused(m, "disk_snapshot", **{"id": "root", **wrong})
            check(f"disk_snapshot {wrong} is refused", words in answer, answer)
        info = m.call("disk_info", id="root")
        check("a snapshot of a running machine", [s["name"] for s in info["snapshots"]] == ["live"], json.dumps(info))
        m.call("disk_resize", id="root", size=48 * MIB)
        check("a grown qcow2 is seen", wait_for(lambda: m.run("cat /sys/block/vda/size").strip() == str(48 * MIB // 512), 10))
        check("a range of another disk is read, and not written",
              "from below" in m.run("head -c 10 /dev/vdb") and "refused" in m.run("dd if=/tmp/r of=/dev/vdb bs=4k count=1 oflag=direct 2>/dev/null || echo refused"))
        began = time.monotonic()
        wrote = m.run("dd if=/tmp/r of=/dev/vdb bs=64k count=10 seek=128 oflag=direct 2>/dev/null && echo done", 60)
        took, counted = time.monotonic() - began, m.call("stats")["devices"]["parts"]
        # 640 KiB at 512 KiB a second, of which 64 KiB may pass at once: slow enough for a guest on a busy host to be held back.
        check("so many bytes a second", "done" in wrote and took > 0.9 and counted["delayed"] > 0, f"{took:.2f} s, {counted}")
        for wrong, words in ({"op": "add", "granularity": "64K"}, "whole number"), ({"op": "add", "granularity": -1}, "negative"), ({"op": "count"}, "there is no"), ({}, "missing"):
            answer = refused(m, "disk_bitmap", id="root", name="b", **wrong)
            check(f"disk_bitmap {wrong} is refused", words in answer, answer)
        m.call("disk_bitmap", id="root", name="b", op="add")
        m.call("disk_bitmap", id="parts", name="b", op="add")
        began = m.call("disk_changes", id="parts")["generation"]
        for wrong, words in ({"since": str(began)}, "whole number"), ({"since": -1}, "negative"), ({"since": 0}, "known since"), ({"offset": -1}, "negative"), \
                ({"offset": 1 << 40}, "behind the disk's end"), ({"next": 1}, "boolean"):
            answer = refused(m, "disk_changes", id="parts", **wrong)
            check(f"disk_changes {wrong} is refused", words in answer, answer)
        m.run("dd if=/tmp/r of=/dev/vda bs=64k count=1 seek=16 oflag=direct conv=fsync 2>/dev/null; dd if=/tmp/r of=/dev/vdb bs=64k count=1 seek=144 oflag=direct conv=fsync 2>/dev/null", 60)
        told = m.call("disk_changes", id="parts", since=began, next=True)
        check("what has changed since a generation", told["changed"] == [{"start": 9 * MIB, "length": 65536}] and told["generation"] == began + 1, json.dumps(told))
        m.call("disk_resize", id="parts", size=24 * MIB)
        check("a grown lodgefs is seen", wait_for(lambda: m.run("cat /sys/block/vdb/size").strip() == str(24 * MIB // 512), 10))
        check("and written at its new end", "done" in m.run("dd if=/tmp/r of=/dev/vdb bs=64k count=8 seek=376 oflag=direct conv=fsync 2>/dev/null && echo done", 60))
        if mounted:
            m.run("(dd if=/tmp/r of=/dev/vdc bs=1M conv=fsync; dd if=/tmp/r of=/dev/vdc bs=1M seek=8 conv=fsync; echo wrote $? >/tmp/done) >/dev/null 2>&1 & true")
            check("a full host pauses the machine", gets(m, "paused"))
            sh("mount", "-o", "remount,size=32M", small)
            m.call("resume")
            check("with room again the guest has noticed nothing", "wrote 0" in m.run("wait; while ! cat /tmp/done 2>/dev/null; do sleep 0.2; done", 60)
                  and "error" not in m.run("dmesg | grep -c 'I/O error.*vdc' | grep -v ^0$ && echo error"))
        m.type("poweroff\n")
        check("powers off with 0", m.wait(30) == 0)
    sh("qemu-img", "check", "-q", "-f", "qcow2", top)
    changed = json.loads(sh(LODGE, "disk", "map", f"{top}:qcow2", "--bitmap", "b", "--json"))["changed"]
    check("a bitmap that was begun while the machine ran", changed == [{"start": MIB, "length": 65536}], changed)
    sh(LODGE, "store", "check", f"{store}:lodgefs")
    with open(base, "rb") as f:
        check("what may only be read is as it was", f.read(10) == b"from below" and json.loads(sh(LODGE, "disk", "compare", f"{base}:raw", f"{store}/base:lodgefs", "--json").splitlines()[-1])["same"])
    # What a disk held at a snapshot, and one whose data file has another name by now.
    split, data = f"{TMP}/split.qcow2", f"{TMP}/split.data"
    sh(LODGE, "disk", "snapshot", f"{store}/base:lodgefs", "--create", "was")
    sh(LODGE, "disk", "create", f"{split}:qcow2", "--size", "4M", "-o", f"data-file={data}")
    os.rename(data, f"{TMP}/moved,data")
    with Machine(*args(f"{top}:qcow2,readonly,snapshot=live", f"{store}/base:lodgefs,readonly,snapshot=was", f"{split}:qcow2,data-file={TMP}/moved,,data"), name="df2") as m:
        ready(m)
        check("a snapshot is as large as the disk was", m.run("cat /sys/block/vda/size").strip() == str(32 * MIB // 512))
        check("and has what the disk had", said.split()[0] in m.run("dd if=/dev/vda bs=1M skip=5 count=3 2>/dev/null | md5sum", 60))
        check("and is only read", m.run("cat /sys/block/vda/ro /sys/block/vdb/ro /sys/block/vdc/ro").split() == ["1", "1", "0"])
        check("a snapshot in a store", "from below" in m.run("head -c 10 /dev/vdb"))
        check("a data file under its new name", "done" in m.run("dd if=/dev/vdb of=/dev/vdc bs=64k count=1 conv=fsync 2>/dev/null && echo done"))
        m.type("poweroff\n")
        check("powers off with 0", m.wait(30) == 0)
    with open(f"{TMP}/moved,data", "rb") as f:
        check("where it was written", f.read(10) == b"from below")
    for flags, words in ((f"{top}:qcow2,snapshot=live", ["add readonly", "lodge disk convert --snapshot live"]), (f"{base}:raw,readonly,snapshot=x", ["raw has no snapshots"]),
                         (f"{base}:raw,data-file=x", ["data-file is of qcow2"]), (f"{top}:qcow2,readonly,snapshot=nope", ["there is no snapshot nope"])):
        p = subprocess.run([LODGE, "run", "--disk", flags, "--kernel", mini["kernel"]], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        check(f"refused: {words[0]}", p.returncode in (2, 3) and all(w in p.stderr for w in words), p)
    sh(LODGE, "disk", "snapshot", f"{top}:qcow2", "--apply", "live")
    sh(LODGE, "disk", "convert", f"{top}:qcow2", f"{flat}:raw")
    with open(flat, "rb") as f:
        f.seek(5 * MIB)
        data = f.read(3 * MIB)
    import hashlib
    check("the snapshot has what was flushed before it", hashlib.md5(data).hexdigest() == said.split()[0], said)
    if mounted:
        sh("qemu-img", "check", "-q", "-f", "qcow2", f"{small}/full.qcow2")
finally:
    if mounted:
        subprocess.run(["umount", "-l", small])

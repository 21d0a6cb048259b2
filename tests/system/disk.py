#!/usr/bin/env python3
# time-limit: 240
"""Disks in a stock kernel: data against the host's view, read-only, live resize, snapshot and restore under load, exclusion of QEMU, and each bad image."""
import hashlib
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import TMP, Machine, check, mini_image

mini = mini_image()
a, b, saved = (os.path.join(TMP, n) for n in ("a.img", "b.img", "saved"))
MIB = 1 << 20


def image(path, size):
    with open(path, "wb") as f:
        f.truncate(size)


def args(*disks):
    return ["--kernel", mini["kernel"], "--initrd", mini["initrd"], "--append", mini["append"], "--memory", "160M", "--smp", "2", "--seed", "3",
            *sum((["--disk", d] for d in disks), [])]


def md5(path, offset, size):
    with open(path, "rb") as f:
        f.seek(offset)
        return hashlib.md5(f.read(size)).hexdigest()


def ready(m):
    m.expect(b"debian:mini ready", 90)
    m.expect(b"# ", 10)


image(a, 64 * MIB)
image(b, MIB)
with open(b, "r+b") as f:
    f.write(b"read me" * 100)
disks = [f"{a}:raw,id=root,queues=2", f"{b}:raw,readonly=on,io=threads"]

with Machine(*args(*disks), name="d1") as m:
    ready(m)
    seen = m.run("cat /sys/block/vda/size; cat /sys/block/vda/serial; echo; cat /sys/block/vdb/ro; ls /sys/block/vda/mq | wc -w").split()
    check("the guest sees size, serial, queues and the read-only one", seen == [str(64 * MIB // 512), "root", "1", "2"], str(seen))
    said = m.run("dd if=/dev/urandom of=/tmp/r bs=1M count=3 2>/dev/null; dd if=/tmp/r of=/dev/vda bs=1M seek=5 conv=fsync 2>/dev/null; md5sum </tmp/r", 60)
    check("what the guest wrote is what the host reads", said.split()[0] == md5(a, 5 * MIB, 3 * MIB), said)
    check("what the host wrote is what the guest reads", "read me" in m.run("head -c 7 /dev/vdb"))
    check("the guest cannot write to the read-only one", m.run("echo x >/dev/vdb || echo refused").strip().endswith("refused"))
    if shutil.which("qemu-io"):
        p = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", a], capture_output=True, text=True)
        check("QEMU is refused the image", p.returncode != 0 and "lock" in p.stderr, p.stderr)
    m.call("disk_resize", id="root", size=96 * MIB)
    # Told at once; when the guest's kernel looks is its own affair.
    now = m.run(f"for i in $(seq 100); do [ $(cat /sys/block/vda/size) = {96 * MIB // 512} ] && break; sleep 0.1; done; cat /sys/block/vda/size").strip()
    check("a grown disk is seen", now == str(96 * MIB // 512), (now, m.run("dmesg | tail -3")))
    check("and can be used to its new end", "0+0" not in m.run(f"dd if=/tmp/r of=/dev/vda bs=1M seek=93 conv=fsync 2>&1; md5sum </tmp/r", 60)
          and md5(a, 93 * MIB, 3 * MIB) == md5(a, 5 * MIB, 3 * MIB))
    for wrong in ({"id": "root", "size": 512}, {"id": "nothing", "size": 0}, {"id": "power", "size": 0}, {"id": "root", "size": -1}):
        try:
            m.call("disk_resize", **wrong)
            check(f"disk_resize {wrong} is refused", False)
        except Exception as e:
            check(f"disk_resize {wrong} is refused", "disk" in str(e), str(e))
    # Under load: two writers with direct and buffered requests, each of which checks what it wrote.
    m.type("w() { while :; do dd if=/tmp/r of=/dev/vda bs=64k seek=$1 count=48 conv=fsync $2 2>/dev/null || echo W''FAILED; "
           "dd if=/dev/vda bs=64k skip=$1 count=48 $3 2>/dev/null | cmp -s - /tmp/r || echo C''FAILED; echo turn $1; done; }\n")
    m.type("w 160 oflag=direct iflag=direct & w 640 & \n")
    m.expect(b"turn 160", 30)
    m.expect(b"turn 640", 30)
    m.call("pause")
    about = m.call("inspect")["about"]
    check("inspect tells of the disk", about["root"]["disk"]["size"] == 96 * MIB and about["disk1"]["disk"]["io"] == "threads", str(about))
    m.snapshot(saved, disks="memory-only")
    m.call("kill")
    m.wait(10)

with Machine(*args(*disks), "--restore", saved, name="d2") as m:
    for _ in range(3):
        m.expect(b"turn 160", 60)
        m.expect(b"turn 640", 60)
    good = b"FAILED" not in m.out  # a write that is killed may say so before who looks at it is killed, too
    m.type("kill %1 %2\n\n")
    m.expect(b"# ", 10)
    check("writers go on after snapshot and restore", good and m.run("dmesg | grep -c -E 'I/O error|stall|BUG:|hung'").strip() == "0", m.run("dmesg | tail -5"))
    st = m.call("stats")["devices"]["root"]
    check("stats count and time requests", st["write"]["ops"] > 0 and sum(st["write"]["latency_log2_us"]) == st["write"]["ops"] and not st["failed"], str(st))
    m.type("poweroff\n")
    check("powers off with 0", m.wait(30) == 0)

with Machine(*args(f"{b}:raw", f"{a}:raw,id=power"), name="bad") as m:
    code = m.wait(20)
check("two devices of one id are refused", code == 1 and b"two devices have the id power" in open(os.path.join(TMP, "bad.log"), "rb").read(), str(code))

cut, empty, nofile = (os.path.join(TMP, n) for n in ("cut.img", "empty.img", "nofile.img"))
image(cut, 1000)
image(empty, 0)
for what, disk, words in (
    ("missing", f"{nofile}:raw", "nofile.img"),
    ("cut off", f"{cut}:raw", "not a multiple of 512"),
    ("empty", f"{empty}:raw", "empty"),
    ("of unknown format", f"{a}:vhdx", "vhdx"),
    ("without a format", a, "format"),
    ("a directory", f"{TMP}:raw", TMP),
):
    with Machine(*args(disk), name="bad") as m:
        code = m.wait(20)
    lines = open(os.path.join(TMP, "bad.log"), "rb").read().decode(errors="replace").strip().split("\n")
    check(f"an image that is {what} is refused in one line", code in (1, 2) and words in lines[-1], f"{code}: {lines[-1]}")

#!/usr/bin/env python3
# time-limit: 180
"""Small writes in order, a flush after each few, by a guest to a disk of a store: inside the sandbox, too, the next block is ready before it is wanted."""
import os
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from failing import MIB, sh
from machine import LODGE, TMP, Machine, check, mini_image

room = os.statvfs(TMP)
if room.f_bavail * room.f_frsize < 2 << 30:
    print("SKIP: not 2 GiB free: nothing is written ahead there")
    sys.exit(77)
mini = mini_image()
store = f"{TMP}/store"
sh(LODGE, "store", "create", f"{store}:lodgefs", "--size", "256M", "-o", "journal=2M")
sh(LODGE, "disk", "create", f"{store}/d:lodgefs", "--size", "64M")
with Machine("--kernel", mini["kernel"], "--initrd", mini["initrd"], "--append", mini["append"], "--memory", "160M", "--smp", "1", "--seed", "3",
             "--disk", f"{store}/d:lodgefs,id=d", name="dr1") as m:
    m.expect(b"debian:mini ready", 90)
    m.expect(b"# ", 10)
    m.run("dd if=/dev/urandom of=/tmp/r bs=64k count=24 2>/dev/null")
    said = m.run("i=0; while [ $i -lt 384 ] && dd if=/tmp/r of=/dev/vda bs=4k count=8 skip=$i seek=$i oflag=direct conv=fsync 2>/dev/null; do i=$((i+8)); done; echo $i", 90)
    check("384 writes of 4 KiB, a flush after each 8", said.split()[-1] == "384", said)
    st = m.call("stats")["devices"]["d"]
    check("a block was ready for those behind the first 256, another one for what comes", f"'zeroes_ahead': {2 * MIB}" in str(st), st)
    check("they are there", m.run("dd if=/dev/vda bs=64k count=24 iflag=direct 2>/dev/null | cmp - /tmp/r; echo $?").split()[-1] == "0")
    m.type("poweroff\n")
    check("powers off with 0", m.wait(60) == 0)
sh(LODGE, "store", "check", f"{store}:lodgefs")
said = sh(LODGE, "store", "df", f"{store}:lodgefs", "--json")
check("what nobody took is free", '"used": 2097152' in said or '"used":2097152' in said, said)

#!/usr/bin/env python3
# time-limit: 200
"""Snapshots with disks: memory and every disk are of one moment, in qcow2 and in a lodgefs store with two disks; and with file systems that stand still."""
import json
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import lodge
from machine import BUILD, HOME, LODGE, TMP, Machine, check, mini_image, skip, wait_for

PAIR = os.path.join(BUILD, "guest", "pairstamp")
if not os.path.exists(PAIR):
    skip("riscv64-linux-gnu-gcc is not installed")
subprocess.run([LODGE, "image", "pull", "debian:mini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=100)
image = mini_image()


def rounds(text, device):
    found = re.findall(rf"pairstamp {device} rounds (\d+)", text)
    return int(found[-1]) if found else 0


def wait_rounds(name, more, what):
    """Each of the stampers has gone `more` times over its disk and its memory, and found nothing wrong."""
    end = time.monotonic() + 90
    first = None
    while True:
        text = lodge("logs", name).stdout
        now = [rounds(text, f"/dev/vd{d}") for d in "abc"]
        first = first or now
        if "FAIL" in text:
            check(what, False, text[text.index("FAIL") - 20:][:200])
        if all(b >= a + more for a, b in zip(first, now)):
            return
        if time.monotonic() > end:
            check(what, False, f"{first} {now}")
        time.sleep(0.2)


q, store, fs = (os.path.join(TMP, n) for n in ("q.qcow2", "pool.lodge", "fs.qcow2"))
lodge("disk", "create", f"{q}:qcow2", "--size", "32M")
lodge("store", "create", f"{store}:lodgefs", "--size", "256M")
for d in "one", "two":
    lodge("disk", "create", f"{store}/{d}:lodgefs", "--size", "32M")
plain = os.path.join(TMP, "fs.raw")
with open(plain, "wb") as f:
    f.truncate(64 << 20)
subprocess.run(["mke2fs", "-q", "-t", "ext4", plain], check=True)
lodge("disk", "convert", f"{plain}:raw", f"{fs}:qcow2")

lodge("run", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "256M", "--smp", "2", "--name", "a", "-d",
      "--disk", f"{q}:qcow2", "--disk", f"{store}/one:lodgefs", "--disk", f"{store}/two:lodgefs", "--disk", f"{fs}:qcow2")
lodge("exec", "--wait", "60", "a", "true")
lodge("cp", PAIR, "a:/bin/pairstamp")
for d in "abc":
    lodge("exec", "a", "--", "sh", "-c", f"pairstamp /dev/vd{d} 256 1024 >/dev/console 2>&1 </dev/null &")
wait_rounds("a", 2, "the stampers run")

# ---- one moment ----
for name in "s1", "s2":
    st = json.loads(lodge("snapshot", "create", "a", "--name", name, "--with-disks", "--json").stdout.strip().split("\n")[-1])
    wait_rounds("a", 2, f"the machine that {name} was taken of goes on")
    check(f"{name}: verifies", lodge("snapshot", "verify", name).returncode == 0)
    disks = json.loads(lodge("snapshot", "show", name, "--json").stdout)["disks"]
    check(f"{name}: names its disks and their snapshots", [d.get("snapshot") for d in disks] == [name] * 4, disks)
lodge("kill", "a")
for turn, name in enumerate(("s1", "s2", "s1")):
    lodge("restore", name, "--name", "a", "-d")
    wait_rounds("a", 2, f"restore {turn + 1}, to {name}: every block and page is of its moment")
    check(f"restore {turn + 1}, to {name}: every block and page is of its moment", True)
    left = lodge("exec", "a", "true", ok=False).returncode
    check("and its agent answers", left == 0)
    lodge("kill", "a")
for d in f"{q}:qcow2", f"{store}/one:lodgefs", f"{store}/two:lodgefs":
    said = lodge("disk", "snapshot", d).stdout
    check(f"{os.path.basename(d)}: has its two snapshots and no other", "s1" in said and "s2" in said and "before-restore" not in said, said)
check("the disks are whole", lodge("disk", "check", f"{q}:qcow2").returncode == 0 and lodge("store", "check", f"{store}:lodgefs").returncode == 0)

# ---- the same check finds memory and disks of different moments ----
definition = json.loads(lodge("snapshot", "show", "s1", "--json").stdout)["definition"]
with open("s1.json", "w") as f:
    json.dump(definition, f)
for d in f"{q}:qcow2", f"{store}/one:lodgefs", f"{store}/two:lodgefs":
    lodge("disk", "snapshot", d, "--apply", "s2")
with Machine("--config", "s1.json", "--restore", os.path.join(HOME, "data/snapshots/s1.snap"), name="mixed") as m:
    m.expect(b"pairstamp FAIL", 60)
    check("memory of one with the disks of another is found", True)

# ---- file systems that stand still ----
lodge("restore", "s1", "--name", "a", "-d")
lodge("exec", "a", "--", "sh", "-c", "modprobe ext4; mount -t ext4 /dev/vdd /mnt")
lodge("exec", "a", "--", "sh", "-c", "(i=0; while :; do i=$((i+1)); echo line $i >> /mnt/log; [ $((i % 20)) = 0 ] && sync; echo $i > /mnt/f$((i % 50)); done) >/dev/null 2>&1 </dev/null &")
time.sleep(1)
lodge("snapshot", "create", "a", "--name", "sharp", "--with-disks")
lodge("snapshot", "create", "a", "--name", "still", "--with-disks", "--quiesce")


def lines():
    return int(lodge("exec", "a", "--", "sh", "-c", "wc -l < /mnt/log").stdout)


def go_on(what):
    n = lines()
    check(what, wait_for(lambda: lines() > n, 30))


go_on("the guest writes again after --quiesce")
p = lodge("snapshot", "create", "a", "--name", "still", "--quiesce", ok=False)
check("a name that is taken: nothing is frozen", p.returncode == 1 and "is there already" in p.stderr, p.stderr)
lodge("kill", "a")
clean = {}
for name in "still", "sharp":
    lodge("disk", "snapshot", f"{fs}:qcow2", "--apply", name)
    out = os.path.join(TMP, f"{name}.raw")
    lodge("disk", "convert", f"{fs}:qcow2", f"{out}:raw")
    said = subprocess.run(["dumpe2fs", "-h", out], capture_output=True, text=True).stdout
    clean[name] = "needs_recovery" not in said
    if name == "still":
        p = subprocess.run(["e2fsck", "-fn", out], capture_output=True, text=True)
        check("with --quiesce e2fsck finds nothing to do", p.returncode == 0, p.stdout[-300:])
check("only with --quiesce is there nothing to replay", clean == {"still": True, "sharp": False}, clean)
lodge("restore", "still", "--name", "a", "-d")
go_on("a machine that goes on from it is thawed")

# ---- what cannot be frozen ----
lodge("exec", "a", "--", "sh", "-c", "killall lodge-agent", ok=False)
p = lodge("snapshot", "create", "a", "--name", "none", "--quiesce", ok=False)
check("without an agent --quiesce is refused, and says so", p.returncode == 1 and "--quiesce" in p.stderr and "agent" in p.stderr, p.stderr)
check("and nothing is left of it", "none" not in lodge("snapshot", "ls").stdout and "none" not in json.dumps(lodge("stats", "a").stdout))
lodge("kill", "a")
check("nor on the disks", "none" not in lodge("disk", "snapshot", f"{q}:qcow2").stdout)

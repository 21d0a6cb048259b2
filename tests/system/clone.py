#!/usr/bin/env python3
# time-limit: 420
"""Clones have an identity of their own before any of their programs goes on: random numbers, clock, addresses, machine id, host keys, name. Their
parent keeps its own. LODGE_CLONES=50 for as many as are wanted."""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import SLOW, clock_off, lodge, pid
from machine import BUILD, LODGE, TMP, check, mini_image, skip, wait_for

if not os.path.exists(os.path.join(BUILD, "src/agent/lodge-agent.riscv64")):
    skip("riscv64-linux-gnu-gcc is not installed: this build has no agent")
subprocess.run([LODGE, "image", "pull", "debian:mini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=100)
image = mini_image()
N = int(os.environ.get("LODGE_CLONES", "3"))
PACE = max(1, N * N // 20)  # many machines share the host


def sh(name, command):
    # A guest that shares two cores with fifty others may be late with its answer; the commands here may be asked twice.
    while True:
        p = lodge("exec", "--wait", "60", name, "--", "sh", "-c", command, ok=False)
        if not p.returncode:
            return p.stdout
        if "in time" not in p.stderr or N < 10:
            check(f"{name}: {command}", False, p.stderr)


def start(name, *more):
    lodge("run", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "160M", "--name", name, "-d", *more)
    lodge("exec", "--wait", str(int(60 * SLOW)), name, "true")


# ssh-keygen is not in this image: one that makes keys of random numbers, as the real one does.
KEYGEN = r"""#!/bin/sh
d=/etc/ssh/.lodge/etc/ssh; [ -d $d ] || d=/etc/ssh
for t in ecdsa ed25519; do
  head -c 32 /dev/urandom | md5sum > $d/ssh_host_${t}_key
  md5sum < $d/ssh_host_${t}_key > $d/ssh_host_${t}_key.pub
done
"""
IDENTITY = "hostname; cat /etc/machine-id; cat /etc/ssh/ssh_host_*_key | md5sum; cat /sys/class/net/eth0/address; ip route | sed -n 's/.*src //p'"


def identity(name):
    return sh(name, IDENTITY).split()


start("a", "--smp", "2", "--net", "user")
keygen = os.path.join(TMP, "ssh-keygen")
with open(keygen, "w") as f:
    f.write(KEYGEN)
os.chmod(keygen, 0o755)
sh("a", "mkdir -p /usr/bin /etc/ssh; modprobe virtio_net; ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; "
        "ip route add default via 10.0.2.2; hostname parent")
lodge("cp", keygen, "a:/usr/bin/ssh-keygen")
sh("a", "/usr/bin/ssh-keygen; echo 00000000000000000000000000000001 > /etc/machine-id")
# Two programs that never stop: one looks at the clock, one draws random numbers.
sh("a", f"(while :; do date +%s >> /tmp/clock; usleep {50000 * PACE}; done) >/dev/null 2>&1 </dev/null & (while :; do head -c 8 /dev/urandom | hexdump -e '8/1 \"%02x\" \"\\n\"' >> /tmp/random; usleep {100000 * PACE}; done) "
        ">/dev/null 2>&1 </dev/null &")
before = identity("a")
check("the parent has all of it", len(before) == 6 and before[0] == "parent" and before[5] == "10.0.2.15", before)

# ---- of a machine that runs ----
def memory(name):
    """MiB: its own, and with its share of what it has together with others."""
    text = open(f"/proc/{pid(name)}/smaps_rollup").read()
    return sum(int(x) for x in re.findall(r"Private_\w+:\s+(\d+)", text)) >> 10, int(re.search(r"Pss:\s+(\d+)", text).group(1)) >> 10


began = time.monotonic()
names = lodge("clone", "a", "-n", str(N), seconds=100 + 20 * N).stdout.split()
took = time.monotonic() - began
check(f"{N} clones", names == [f"a-{i}" for i in range(1, N + 1)], names)
off = {n: clock_off(n) for n in names}
check("the clock of each is within 500 ms of the host's", max(off.values()) < 0.5, off)
own = sorted(memory(n) for n in names)
print(f"PASS: {took / N:.2f} s and {own[N // 2][0]} MiB of its own for each ({own[0][0]} to {own[-1][0]}; {own[N // 2][1]} with its share of the others)", flush=True)
ids = [identity(n) for n in names]
for i, what in enumerate(("host name", "machine id", "host keys", None, "hardware address", "IPv4 address")):
    if what:
        check(f"each has its own {what}, and not the parent's", len({x[i] for x in ids + [before]}) == N + 1, [x[i] for x in ids])
check("names and addresses by rule", [(x[0], x[5]) for x in ids] == [(n, f"10.0.2.{15 + k}") for k, n in enumerate(names, 1)], ids)
check("the parent is what it was", identity("a") == before, identity("a"))
check("the network works under the new addresses", all("1 packets received" in sh(n, "ping -c 1 -W 5 10.0.2.2") for n in [names[0], names[-1], "a"]))
end = time.monotonic() + (60 + PACE) * SLOW
while True:
    drawn = {n: sh(n, "cat /tmp/random").split() for n in names + ["a"]}
    common = 0
    while common < min(map(len, drawn.values())) and len({d[common] for d in drawn.values()}) == 1:
        common += 1
    rest = [d[common:] for d in drawn.values()]
    if min(map(len, rest)) > 1 or time.monotonic() > end:
        break
check("what was drawn before the moment is alike", common > 0)
# The last line of one that is being written is not whole.
check("no number that was drawn after it is, from the first on", all(rest) and len({x for r in rest for x in r[:-1]}) == sum(len(r) - 1 for r in rest),
      [r[:2] for r in rest])
check("the kernel says why", all("reseeded due to virtual machine fork" in sh(n, "dmesg") for n in names))
check("nothing is left of the holding", all("lodge" not in sh(n, "cat /proc/mounts; ls /run").replace("lodge-agent.sock", "") for n in names + ["a"]))
for n in names:
    lodge("kill", n)

# ---- of a snapshot, later: nobody sees a clock that stood still ----
lodge("snapshot", "create", "a", "--name", "held", "--hold")
moment = time.time()
lines = int(sh("a", "wc -l < /tmp/clock"))
check("the machine itself goes on after --hold", wait_for(lambda: int(sh("a", "wc -l < /tmp/clock")) > lines))
time.sleep(4)
began = time.time()
lodge("clone", "held", "--name", "late")
off = clock_off("late-1")
end = time.monotonic() + (60 + PACE) * SLOW
while True:  # one of many looks at the clock now and then only
    seen = sorted({int(x) for x in sh("late-1", "cat /tmp/clock").split() if len(x) == 10})
    if seen[-1] >= began - 1 or time.monotonic() > end:
        break
    time.sleep(0.5)
check("a clone's clock is the host's", off < 1, off)
check("its programs have seen no second between the moment and its start", not [x for x in seen if moment + 1 < x < began - 1] and seen[-1] >= began - 1,
      (moment, began, seen[-8:]))
lodge("kill", "late-1")
lodge("restore", "held", "--name", "again", "-d")
check("a restored machine's clock is the host's", clock_off("again") < 1, clock_off("again"))
lines = int(sh("again", "wc -l < /tmp/clock"))
check("and who was held goes on", wait_for(lambda: int(sh("again", "wc -l < /tmp/clock")) > lines))
check("with the identity that it had", identity("again") == before, identity("again"))
lodge("kill", "again")

# ---- a clone without an identity of its own is none ----
sh("a", "rm /etc/machine-id; mkdir -p /etc/machine-id/x")
p = lodge("clone", "a", "--name", "half", ok=False)
check("a step that fails ends the clone and is named", p.returncode == 1 and "machine-id" in p.stderr and "was ended" in p.stderr, p.stderr)
check("and only it", "half" not in lodge("ps").stdout and sh("a", "echo here") == "here\n", lodge("ps").stdout)
lodge("kill", "a")

# ---- a guest without an agent ----
lodge("run", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "160M", "--name", "mute", "--vsock", "off", "-d")
wait_for(lambda: "ready" in lodge("logs", "mute").stdout)
p = lodge("clone", "mute")
check("without an agent it says what a clone keeps", p.stdout == "mute-1\n" and "keeps the machine id" in p.stderr, p.stderr)
for n in "mute", "mute-1":
    lodge("kill", n)

#!/usr/bin/env python3
# time-limit: 200
"""Snapshots that hold only what changed since another one: size, restore, clone, verify, rm, flatten, export; parents that are missing, damaged, or
of another machine."""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import lodge
from machine import BUILD, HOME, LODGE, TMP, check, mini_image, skip

if not os.path.exists(os.path.join(BUILD, "src/agent/lodge-agent.riscv64")):
    skip("riscv64-linux-gnu-gcc is not installed: this build has no agent")
subprocess.run([LODGE, "image", "pull", "debian:mini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=100)
image = mini_image()
STORE = os.path.join(HOME, "data", "snapshots")


def sh(name, command):
    return lodge("exec", "--wait", "30", name, "--", "sh", "-c", command).stdout


def size(name):
    return os.stat(os.path.join(STORE, name + ".snap")).st_blocks * 512


def boot(name, memory):
    lodge("run", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", memory, "--name", name, "-d")
    sh(name, "true")


def has(snapshot, want, what):
    lodge("restore", snapshot, "--name", "r", "-d")
    said = sh("r", "cd /tmp; sha256sum f1 f2 f3 2>/dev/null; true")
    lodge("kill", "r")
    check(what, said == want, (said, want))


boot("a", "160M")
sums = []
for i, parent in enumerate((None, "s1", "s2"), 1):
    sh("a", f"head -c 4194304 /dev/urandom > /tmp/f{i}")
    sums.append(sh("a", "cd /tmp; sha256sum f1 f2 f3 2>/dev/null; true"))
    lodge("snapshot", "create", "a", "--name", f"s{i}", *(["--parent", parent] if parent else []))
check("what has not changed is not kept twice", size("s2") < size("s1") // 2 and size("s3") < size("s1") // 2, [size(f"s{i}") for i in (1, 2, 3)])
shown = json.loads(lodge("snapshot", "show", "s3", "--json").stdout)
check("it says whose child it is", shown["parent"] == json.loads(lodge("snapshot", "show", "s2", "--json").stdout)["id"] and shown["parent_pages"] > 0, shown["parent"])
lodge("snapshot", "verify", "s3")
for i in (3, 2):
    has(f"s{i}", sums[i - 1], f"a machine goes on from number {i} of the chain")
check("a clone as well", lodge("clone", "s3", "--name", "c").stdout == "c-1\n" and sh("c-1", "cd /tmp; sha256sum f1 f2 f3") == sums[2])
lodge("kill", "c-1")

# ---- rm, flatten, export ----
p = lodge("snapshot", "rm", "s1", ok=False)
check("a parent is not removed, and it says whose", p.returncode == 4 and "s2" in p.stderr and "flatten" in p.stderr, p.stderr)
lodge("snapshot", "export", "s3", os.path.join(TMP, "e.snap"))
lodge("snapshot", "flatten", "s2")
check("flattened it is whole", json.loads(lodge("snapshot", "show", "s2", "--json").stdout)["parent"] is None)
lodge("snapshot", "rm", "s1")
lodge("snapshot", "verify", "s3")
has("s2", sums[1], "one that was flattened needs its parent no more")
has("s3", sums[2], "and is the parent that it was")

# ---- what can be wrong with a parent ----
s2 = os.path.join(STORE, "s2.snap")
os.rename(s2, s2 + ".away")
p = lodge("restore", "s3", "--name", "x", "-d", ok=False)
check("a parent that is missing", p.returncode == 3 and "is not here" in p.stderr, p.stderr)
check("is no hindrance to a look, or to removing it", lodge("snapshot", "show", "s3").returncode == 0 and lodge("snapshot", "ls").returncode == 0)
os.rename(s2 + ".away", s2)
os.chmod(s2, 0o600)
with open(s2, "r+b") as f:
    f.seek(0)
    f.seek((2 << 20) + (4 << 20) + 5)
    byte = f.read(1)
    f.seek(-1, 1)
    f.write(bytes([byte[0] ^ 1]))
p = lodge("snapshot", "verify", "s3", ok=False)
check("a parent that is damaged is found", p.returncode == 1 and "s2.snap" in p.stderr and "damaged" in p.stderr, p.stderr)
boot("b", "128M")
p = lodge("snapshot", "create", "b", "--name", "no", "--parent", "s3", ok=False)
check("a parent of a machine with other memory", p.returncode == 2 and "other memory" in p.stderr and not os.path.exists(os.path.join(STORE, "no.snap")), p.stderr)
p = lodge("snapshot", "create", "b", "--name", "no", "--parent", "nobody", ok=False)
check("a parent that there is not", p.returncode == 3 and "no snapshot nobody" in p.stderr, p.stderr)
lodge("kill", "b")
lodge("snapshot", "rm", "s3", "s2")
lodge("snapshot", "import", os.path.join(TMP, "e.snap"), "--name", "back")
has("back", sums[2], "what was exported is whole")
lodge("kill", "a")

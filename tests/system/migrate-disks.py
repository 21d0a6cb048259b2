#!/usr/bin/env python3
# time-limit: 420
"""A machine moves and brings its disks along (lodge migrate --copy-disks): each block is of the moment at which memory is, from and to every format; what
cannot be is refused; whatever fails, the guest goes on where it was with its disks, and nothing of the copy is left. LODGE_MIGRATE_CYCLES=N: more faults."""
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import SLOW, lodge, pid, until
from migration import Middle, Receive, alive, message, move, post_copy, rpc, start_move
from machine import BUILD, HOME, LODGE, TMP, check, mini_image, skip, wait_for

PAIR = os.path.join(BUILD, "guest", "pairstamp")
CYCLES = int(os.environ.get("LODGE_MIGRATE_CYCLES", "3"))
random.seed(int(os.environ.get("LODGE_SEED", "1")))
if not os.path.exists(PAIR):
    skip("riscv64-linux-gnu-gcc is not installed")
subprocess.run([LODGE, "image", "pull", "debian:mini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=100)
image = mini_image()


def rounds(name):
    text = lodge("logs", name).stdout
    if "FAIL" in text:
        check(f"{name}: every block and page is of its moment", False, text[text.index("FAIL") - 20:][:200])
    return [max(map(int, re.findall(rf"pairstamp /dev/vd{d} rounds (\d+)", text)), default=0) for d in "abc"]


def goes_on(name, what):
    """Each of the stampers goes over all of its disk and its memory twice, and finds nothing wrong."""
    first = rounds(name)
    until(f"{what}: the guest goes on", lambda: all(b >= a + 2 for a, b in zip(first, rounds(name))), detail=lambda: f"{first} {rounds(name)} {lodge('ps').stdout}")


def names(tag, disks):
    """--disk for each of (id, kind); and the files, but for what is in the store."""
    args, files = [], []
    for i, (ident, kind) in enumerate(disks):
        path = f"{store}/{tag}{i}" if kind == "lodgefs" else f"{TMP}/{tag}{i}.{kind}"
        args += ["--disk", f"{ident}={path}:{kind}"]
        files.append(path)
    return args, files


def left_behind(files):
    """What is still there of images that were made for nothing. The guard of a process that was killed needs a moment."""
    def left():
        inside = lodge("store", "ls", f"{store}:lodgefs", "--json", ok=False).stdout
        return [f for f in files if (os.path.basename(f) in inside if f.startswith(store + "/") else os.path.exists(f))]

    wait_for(lambda: not left(), 10)
    return left()


store = os.path.join(TMP, "pool.lodge")
lodge("store", "create", f"{store}:lodgefs", "--size", "256M")
first = os.path.join(TMP, "first.lodge")
lodge("store", "create", f"{first}:lodgefs", "--size", "256M")
lodge("disk", "create", f"{first}/one:lodgefs", "--size", "32M")
raw, q, below, big = (os.path.join(TMP, n) for n in ("a.raw", "a.qcow2", "below.raw", "big.raw"))
lodge("disk", "create", f"{raw}:raw", "--size", "32M")
with open(below, "wb") as f:
    f.truncate(24 << 20)
    f.seek(9 << 20)
    f.write(random.randbytes(1 << 20))
lodge("disk", "create", f"{q}:qcow2", "--size", "32M", "--backing", f"{below}:raw")
with open(big, "wb") as f:  # most of it is holes
    f.truncate(4 << 30)
    for at in (0, 1 << 20, (3 << 30) + 12345 * 512, (4 << 30) - (4 << 20)):
        f.seek(at)
        f.write(random.randbytes(4 << 20))
lodge("run", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "192M", "--smp", "2", "--name", "a", "-d",
      "--disk", f"{raw}:raw", "--disk", f"{q}:qcow2", "--disk", f"{first}/one:lodgefs", "--disk", f"{big}:raw,readonly")
lodge("exec", "--wait", "60", "a", "true")
lodge("cp", PAIR, "a:/bin/pairstamp")
for d in "abc":
    lodge("exec", "a", "--", "sh", "-c", f"pairstamp /dev/vd{d} 256 512 >/dev/console 2>&1 </dev/null &")
goes_on("a", "the stampers run")

# ---- exact, from and to every format ----
name = "a"
for i, kinds in enumerate((("qcow2", "lodgefs", "raw", "qcow2"), ("raw", "qcow2", "qcow2", "raw"))):
    ids = [(f"disk{k}", kind) for k, kind in enumerate(kinds)]
    args, files = names(f"m{i}-", ids)
    st = move(name, f"m{i}", "--copy-disks", *(("--streams", "2") if i else ()), receive=args)
    goes_on(f"m{i}", f"move {i + 1}")
    big_now = st["disks"][3]
    check(f"move {i + 1}, to {', '.join(kinds)}: every block is of its moment", True)
    check(f"move {i + 1}: holes were not sent", big_now["size"] == 4 << 30 and big_now["sent"] <= 17 << 20, st["disks"])
    check(f"move {i + 1}: the image is as sparse", os.stat(files[3]).st_blocks * 512 < 20 << 20, os.stat(files[3]).st_blocks)
    print(f"PASS: stood still {st['downtime_us'] / 1000:.1f} ms: {st['pause_for']}", flush=True)
    name = f"m{i}"

# ---- refused before anything is paused ----
ids = [("disk0", "raw"), ("disk1", "qcow2"), ("disk2", "lodgefs"), ("disk3", "raw")]
own = args
args, made = names("no", ids)
# Two of them are to take the place of files.
old = f"{TMP}/old.raw", f"{TMP}/old.qcow2"
for f in old:
    with open(f, "wb") as there:
        there.write(b"mine" * 1024)
    os.chmod(f, 0o640)
over = ["--overwrite", "--disk", f"disk0={old[0]}:raw", "--disk", f"disk1={old[1]}:qcow2", *args[4:]]
gone_of_over = [*made[2:], *(f + ".incoming" for f in old)]


def untouched(what):
    check(f"{what}: what was there is as it was", all(open(f, "rb").read() == b"mine" * 1024 for f in old))
    check(f"{what}: nothing is left of the copy", not left_behind(gone_of_over), left_behind(gone_of_over))


def refused(what, words, *receive, more=(), gone=made):
    r = Receive("no", *receive)
    p = start_move(name, r.at, "--copy-disks", *more)
    out, err = p.communicate(timeout=60 * SLOW)
    if p.returncode and not out:
        r.p.send_signal(signal.SIGINT)
    code, rout, rerr = r.end()
    said = json.loads(out)["error"] if out else err
    check(f"refused: {what}", p.returncode in (1, 3) and words in said and "pause_for" not in out, (out, err))
    check(f"refused: {what}: nothing was made", not left_behind(gone), (left_behind(gone), rerr))


def kept(what):
    """The source has its disks, and nobody else can have them."""
    for f in files[0] + ":raw", files[1] + ":qcow2":
        p = lodge("disk", "snapshot", f, "--create", "x", ok=False) if f.endswith("qcow2") else lodge("disk", "resize", f, "+1M", ok=False)
        check(f"{what}: {os.path.basename(f)} is locked as before", p.returncode != 0 and "in use" in p.stderr, p.stderr)


there = os.path.join(TMP, "there.raw")
with open(there, "wb") as f:
    f.write(b"mine" * 1024)
refused("a file that is there", "--overwrite", *args[:-1], f"disk3={there}:raw", gone=made[:3])
check("and it is as it was", open(there, "rb").read() == b"mine" * 1024)
refused("the source's own files", "is there already")
refused("the source's own files, with --overwrite", "in use", "--overwrite", *own)
p = lodge("receive", "no", f"unix:{TMP}/no.sock", "--overwrite", ok=False)
check("--overwrite of what the other side names: refused", p.returncode == 2 and "--disk" in p.stderr, p.stderr)
refused("a folder that is not there, with --overwrite", "no such folder", *over[:-1], "disk3=/nonexistent/x:raw", gone=gone_of_over)
refused("a disk in a store, with --overwrite", "of a store is not overwritten", *over[:-1], f"disk3={first}/one:lodgefs", gone=gone_of_over)
mounted = os.path.join(TMP, "mounted.raw")
with open(mounted, "wb") as f:
    f.write(b"mine" * 1024)
if os.geteuid() == 0 and subprocess.run(["mount", "--bind", mounted, mounted], capture_output=True).returncode == 0:
    try:
        refused("a file that is mounted by itself, with --overwrite", "is mounted by itself", *over[:-1], f"disk3={mounted}:raw", gone=gone_of_over)
    finally:
        subprocess.run(["umount", mounted], check=True)
else:
    print("PASS: a file that is mounted by itself was not tried: nothing can be mounted here")
untouched("refused")
refused("a folder that is not there", "no such folder", *args[:-1], "disk3=/nonexistent/x:raw")
refused("a disk that it has not", "no disk of this id", "--disk", "disk9=/tmp/x:raw")
refused("a shared disk that it has not", "none of this machine's", *args, more=("--shared", "disk9"))
small = os.path.join(TMP, "small.lodge")
lodge("store", "create", f"{small}:lodgefs", "--size", "16M")
refused("a full disk", "No space left", *over[:-1], f"disk3={small}/full:lodgefs", gone=gone_of_over)
untouched("a full disk")
kept("after all that was refused")
goes_on(name, "after all that was refused")

# ---- a dry run goes over a part of them, and says how fast; the receiver waits on ----
r = Receive("no", *over)
out, err = start_move(name, r.at, "--copy-disks", "--dry-run").communicate(timeout=60 * SLOW)
st = json.loads(out.strip().split("\n")[-1])
check("a dry run: how fast the disks would go", st["phase"] == "tried" and st["disk_rate"] > 0 and st["disk_data"] >= 16 << 20 and not st["at_disks"], st)
untouched("a dry run")
said = lodge("migrate", name, r.at, "--copy-disks", "--dry-run").stdout
check("a dry run: it is said", re.search(r"MiB on its disks \(\d+ MiB/s\)", said), said)
untouched("a dry run")
r.p.send_signal(signal.SIGINT)
r.end()

# ---- an older Lodge is told apart ----


def older(path):
    """Answers as one does that speaks version 1 only."""
    a = s.accept()[0]
    head = a.recv(32, socket.MSG_WAITALL)
    a.recv(int.from_bytes(head[8:12], "little"), socket.MSG_WAITALL)
    a.sendall(message(8, 1, b'{"lodge":"0","pid":1,"name":"old"}'))
    a.recv(1)
    a.close()


with socket.socket(socket.AF_UNIX) as s:
    s.bind(f"{TMP}/old.sock")
    s.listen(1)
    t = threading.Thread(target=older, args=(s,), daemon=True)
    t.start()
    out, err = start_move(name, f"unix:{TMP}/old.sock", "--copy-disks").communicate(timeout=60 * SLOW)
    check("an older Lodge is told apart before anything is sent", "older and cannot take disks" in json.loads(out)["error"], (out, err))

# ---- faults at any point: the source goes on with its disks, nothing is left of the copy ----


for i, harm in enumerate(("kill -9 of the destination", "cut", "kill -9 of lodge receive", "flip", "Ctrl-C", "kill -9 of lodge migrate") * max(1, CYCLES // 3)):
    r = Receive("no", *over)
    to = r.at
    if harm in ("cut", "flip"):
        to = Middle(r.at, 30000 + random.randrange(1 << random.randrange(16, 25)), harm).address
    p = start_move(name, to, "--copy-disks", "--bandwidth", "40M")
    if harm not in ("cut", "flip"):
        # One that was ended before it had connected would never come, and be waited for.
        until(f"{harm}: it has begun", lambda: rpc(name, "migrate_status")["phase"] in ("copying", "switching") or p.poll() is not None)
        time.sleep(random.random() * 0.3)
    if harm == "Ctrl-C":
        p.send_signal(signal.SIGINT)
    elif harm == "kill -9 of lodge migrate":
        p.kill()
    elif harm == "kill -9 of lodge receive":
        r.p.kill()
    elif harm == "kill -9 of the destination":
        os.kill(pid("no"), signal.SIGKILL)
    out, err = p.communicate(timeout=60 * SLOW)
    code, rout, rerr = r.end()
    check(f"{harm}: it did not move", p.returncode != 0 and code != 0, (out, err, rout, rerr))
    untouched(harm)
    check(f"{harm}: there is no other", not alive("no"))
    goes_on(name, harm)
kept("after all faults")
args, files = names("end", ids)
with open(files[0], "wb") as f:
    f.write(b"old" * 100000)
os.chmod(files[0], 0o640)
was = os.stat(files[0])
st = move(name, "end", "--copy-disks", receive=args + ["--overwrite"])
goes_on("end", "after all that, with --overwrite")
now = os.stat(files[0])
check("after all faults it moves, over what was there with --overwrite", now.st_size == 32 << 20 and now.st_ino != was.st_ino and now.st_mode == was.st_mode and not
      os.path.exists(files[0] + ".incoming"), (now, was))
said = lodge("snapshot", "create", "end", ok=False).stderr
check("and knows its disk by its name", files[0] in said and ".incoming" not in said, said)
lodge("kill", "end")
compare = subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", big, files[3]], capture_output=True, text=True)
check("a disk that nobody wrote to arrives as it was, three times copied, by qemu-img", compare.returncode == 0, compare.stdout + compare.stderr)
check("the images are whole", lodge("disk", "check", f"{files[1]}:qcow2").returncode == 0 and lodge("store", "check", f"{store}:lodgefs").returncode == 0)

# ---- a bare guest, on both engines: disk and memory of one moment ----


def disk_rounds(vm):
    text = lodge("logs", vm).stdout
    if "FAIL" in text:
        check(f"{vm}: every block is of its moment", False, text[-300:])
    return max(map(int, re.findall(r"disk rounds (\d+)", text)), default=0)


def stamps_on(vm, what):
    first = disk_rounds(vm)
    until(f"{what}: the guest goes on", lambda: disk_rounds(vm) >= first + 2, detail=lambda: lodge("logs", vm).stdout[-300:])


for engine in "rv64", "kvm":
    guest = os.path.join(BUILD, "guest", f"diskstamp-{'x86' if engine == 'kvm' else 'rv64'}.elf")
    if not os.path.exists(guest) or (engine == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK)):
        print(f"PASS: {engine} was not tried with a bare guest: no compiler, or no /dev/kvm", flush=True)
        continue
    lodge("disk", "create", f"{TMP}/{engine}.raw:raw", "--size", "16M")
    lodge("disk", "create", f"{TMP}/{engine}.qcow2:qcow2", "--size", "16M")
    lodge("run", "--engine", engine, "--kernel" if engine == "kvm" else "--firmware", guest, "--memory", "64M", "--name", f"{engine}0", "-d",
          "--disk", f"{TMP}/{engine}.raw:raw", "--disk", f"{TMP}/{engine}.qcow2:qcow2")
    stamps_on(f"{engine}0", engine)
    for i, kinds in enumerate((("qcow2", "raw"), ("raw", "lodgefs"))):
        args, _ = names(f"{engine}{i}-", [("disk0", kinds[0]), ("disk1", kinds[1])])
        # On rv64 the second time the disks go first, and memory follows behind the machine.
        move(f"{engine}{i}", f"{engine}{i + 1}", "--copy-disks", *(("--post-copy",) if i and engine == "rv64" and post_copy() else ()), receive=args)
        stamps_on(f"{engine}{i + 1}", f"{engine}, move {i + 1}")
    check(f"{engine}: a bare guest and its two disks move twice, every block of its moment", True)
    lodge("kill", f"{engine}2")

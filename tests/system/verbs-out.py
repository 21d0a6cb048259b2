#!/usr/bin/env python3
# time-limit: 200
"""What verbs print and leave: JSON that is JSON, whatever names are in it; help that fits the terminal; no copy that is not whole; signals that are ignored."""
import fcntl
import json
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, SLOW, gone, lodge, pid
from machine import HOME, LODGE, check, wait_for

USAGE, MISSING, LOCKED = 2, 3, 4
KVM = [("cpu", "show")] if os.access("/dev/kvm", os.R_OK | os.W_OK) else []
EVIL = b"a\033[31mb\xff\n"  # speaks to the terminal, is no UTF-8, and two lines

with open("spin.bin", "wb") as f:
    f.write(struct.pack("<II", 0x10500073, 0xFFDFF06F))  # waits for interrupts for ever


def raw(*args, **kw):
    return subprocess.run([LODGE, *args], env=ENV, stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * SLOW, **kw)


# ---- help ----
for words in ("run",), ("image", "pull"), ("disk",):
    check(f"lodge help {' '.join(words)}", lodge("help", *words).stdout == lodge(*words, "--help").stdout)
for words, what in (("frobnicate",), "unknown verb frobnicate"), (("image", "pul"), "did you mean pull"), (("start",), "did you mean run"):
    p = lodge("help", *words, ok=False)
    check(f"lodge help {' '.join(words)} is none", p.returncode == USAGE and what in p.stderr and not p.stdout, p)


def terminal_bytes(columns, *args):
    """What a terminal of so many columns is sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    p = subprocess.Popen([LODGE, *args], env=ENV, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while more := os.read(ours, 65536):
            text += more
    except OSError:
        pass  # the other side has closed it
    os.close(ours)
    p.wait(60 * SLOW)
    return text.decode()


def on_terminal(columns, *args):
    """What it shows."""
    return terminal_bytes(columns, *args).splitlines()


for columns in 1, 50, 80, 100, 200:
    for args in ("--help",), ("ps", "--help"), ("clone", "--help"):
        widest = max(map(len, on_terminal(columns, *args)))
        check(f"lodge {' '.join(args)} in {columns} columns", widest <= min(max(columns, 50), 100), widest)
check("as wide without a terminal as ever", 80 < max(map(len, lodge("run", "--help").stdout.splitlines())))
lines = lodge("--help").stdout.splitlines()
bad = [x for x, after in zip(lines, lines[1:]) if re.match(r"  \S", x) and not re.match(r"  \S.{26} \S", x) and not re.match(r" {30}\S", after)]
check("the summaries in the list of verbs stand in one column", len(lines) > 60 and not bad, bad)

# ---- disks: JSON ----


def objects(*args, code=0):
    """What it prints with --json: each line an object, or a list."""
    p = raw(*args, "--json")
    what = "lodge " + " ".join(repr(a) for a in args)
    try:
        found = [json.loads(line) for line in p.stdout.decode().splitlines()]
    except ValueError:
        found = None
    check(f"{what} --json: a line an object", p.returncode == code and found and not p.stderr and b"\n" == p.stdout[-1:], p)
    return found[-1] if found else {}


with open("data.raw", "wb") as f:
    f.write(os.urandom(8 << 20))
check("made", objects("disk", "create", "a.qcow2:qcow2", "-s", "16M") == {"created": "a.qcow2:qcow2"})
objects("disk", "create", "b.qcow2:qcow2", "-b", "a.qcow2:qcow2")
objects("disk", "create", EVIL + b".raw:raw", "-s", "1M")
check("a file's name that is no UTF-8", objects("disk", "info", EVIL + b".raw:raw")["file"] == "a?[31mb??.raw")
for verb in "info", "check", "repair", "map", "snapshot", "bitmap":
    objects("disk", verb, "a.qcow2:qcow2")
check("resized", objects("disk", "resize", "a.qcow2:qcow2", "17M") == {"size": 17 << 20})
check("copied", objects("disk", "convert", "data.raw:raw", "c.qcow2:qcow2")["copied"] == 8 << 20)
check("measured", objects("disk", "measure", "data.raw:raw", "--to", "raw") == {"format": "raw", "size": 8 << 20, "required": 8 << 20, "fully_allocated": 8 << 20})
check("alike", objects("disk", "compare", "data.raw:raw", "c.qcow2:qcow2") == {"same": True})
check("not alike", objects("disk", "compare", "data.raw:raw", "a.qcow2:qcow2", code=1)["same"] is False)
for args in ("rebase", "b.qcow2:qcow2", "-b", "a.qcow2:qcow2"), ("commit", "b.qcow2:qcow2"), ("formats",):
    objects("disk", *args)
for option, word in ("-c", "created"), ("-a", "applied"), ("-d", "deleted"):
    check(f"snapshot {word}", objects("disk", "snapshot", "a.qcow2:qcow2", option, "s") == {word: "s"})
objects("disk", "bitmap", "a.qcow2:qcow2", "--add", "y")
for option, word in ("--add", "added"), ("--disable", "disabled"), ("--enable", "enabled"), ("--clear", "cleared"), ("--merge=y --from", "merged"), ("--remove", "removed"):
    check(f"bitmap {word}", objects("disk", "bitmap", "a.qcow2:qcow2", *option.split(), "x") == {word: "y" if word == "merged" else "x"})
objects("disk", "bitmap", "a.qcow2:qcow2", "--remove", "y")
objects("store", "create", "s:lodgefs", "-s", "64M")
objects("disk", "create", b"s/" + EVIL + b":lodgefs", "-s", "1M", "-o", "track=on")
for verb in "ls", "df", "check", "take":
    objects("store", verb, "s:lodgefs")
check("one disk is one disk", lodge("store", "df", "s:lodgefs").stdout.endswith("\n1 disk, 0 snapshots\n"), lodge("store", "df", "s:lodgefs").stdout)
check("a store grows to a size", objects("store", "resize", "s:lodgefs", "80M") == {"size": 80 << 20})
check("a store grows by a size", objects("store", "resize", "s:lodgefs", "+16M") == {"size": 96 << 20})
check("a store has no less than it has", lodge("store", "resize", "s:lodgefs", "80M", ok=False).returncode == 2)
objects("disk", "generation", b"s/" + EVIL + b":lodgefs", "--next")
objects("disk", "map", b"s/" + EVIL + b":lodgefs", "--changed-since", "1")

# ---- disks: a bar on a terminal for what takes its time ----
with open("large.raw", "wb") as f:
    f.truncate(2 << 30)
    f.seek(100 << 20)
    for _ in range(24):
        f.write(os.urandom(1 << 20))
for args, word in (("convert", "large.raw:raw", "slow.qcow2:qcow2", "--rate", "16M"), "converting"), (("convert", "large.raw:raw", "slow.raw:raw", "--rate", "16M"), "converting"):
    for columns in 120, 40:
        shown = terminal_bytes(columns, "disk", *args, "--force")
        bars = re.split("\r\033\\[K", shown)
        drawn = [b for b in bars if b.startswith(word)]
        amounts = [float(a) for a in re.findall(rf"{word}.*? ([0-9.]+) / 20", shown)]
        check(f"disk {args[0]} to {args[2]} in {columns} columns: a bar", len(drawn) >= 3 and all("[#" in b or columns < 80 for b in drawn[1:]) and max(map(len, drawn)) < columns, bars)
        check(f"disk {args[0]} to {args[2]} in {columns} columns: it goes on, up to the end", amounts == sorted(amounts) and len(set(amounts)) >= 3, amounts)
        check(f"disk {args[0]} to {args[2]} in {columns} columns: then it is gone", "copied" in bars[-1] and word not in bars[-1], bars)
events = [json.loads(x) for x in raw("disk", "convert", "large.raw:raw", "slow.raw:raw", "--rate", "16M", "--force", "--json").stdout.splitlines()]
check("with --json events instead", len(events) > 3 and all(x["event"] == "progress" and x["done"] <= x["total"] == 2 << 30 for x in events[:-1]) and events[-1]["copied"] == 24 << 20, events)
for name in "large.raw", "slow.raw", "slow.qcow2":
    os.remove(name)

# ---- names that somebody else chose ----
lodge("disk", "snapshot", "a.qcow2:qcow2", "-c", "PLACEHOLD")
lodge("disk", "bitmap", "a.qcow2:qcow2", "--add", "PLACEHOLD")
with open("a.qcow2", "r+b") as f:  # other programs take any bytes
    image = f.read()
    check("both names are in the image", image.count(b"PLACEHOLD") == 2 and len(EVIL) == 9)
    f.seek(0)
    f.write(image.replace(b"PLACEHOLD", EVIL))
for verb, of in ("snapshot", None), ("bitmap", None), ("info", "snapshots"), ("info", "bitmaps"):
    found = objects("disk", verb, "a.qcow2:qcow2")
    found = found[of] if of else found
    check(f"disk {verb}: it is there", len(found) == 1 and re.sub("[^!-~]", "?", found[0]["name"]) == "a?[31mb??", str(found))
    text = raw("disk", verb, "a.qcow2:qcow2").stdout
    check(f"disk {verb}: nothing for the terminal", b"a?[31mb??" in text and b"\033" not in text and b"\xff" not in text, text)
found = objects("store", "ls", "s:lodgefs")
check("store ls: it is there", len(found) == 1 and found[0]["name"] == "a?[31mb??", str(found))
check("store info", objects("store", "info", "s:lodgefs")["format"] == "lodgefs")
lodge("disk", "create", "s/x:lodgefs", "-s", "1M")
check("renamed", objects("store", "rename", "s:lodgefs", "x", "y") == {"renamed": "x", "to": "y"})
check("removed", objects("store", "rm", "s:lodgefs", "y") == {"removed": "y"})
lodge("disk", "bitmap", "c.qcow2:qcow2", "--add", "x")
check("a record of changes", objects("disk", "map", "c.qcow2:qcow2", "--bitmap", "x") == {"bitmap": "x", "changed": []})
lodge("disk", "convert", "data.raw:raw", "s/from2:lodgefs")
lodge("disk", "snapshot", "s/from2:lodgefs", "-c", "then")
lodge("disk", "create", "s/child:lodgefs", "-o", "clone=from2@then")
lodge("disk", "create", "s/other:lodgefs", "-o", "clone=from2")
parents = {d["name"]: d["parent"] for d in json.loads(lodge("store", "ls", "s:lodgefs", "--json").stdout)}
check("whose clone a disk is", parents["child"] == "from2@then" and parents["other"] == "from2" and not parents["from2"], parents)
text = raw("store", "ls", "s:lodgefs").stdout
check("store ls: nothing for the terminal", b"a?[31mb??" in text and b"\033" not in text, text)
lodge("disk", "create", "s/m:lodgefs", "-s", "1M")
for disk, what in ("data.raw:raw,metadata=8M", "only lodgefs has them"), ("s/m:lodgefs,metadata=1M", "is too small: give 4M to 4G"), \
        ("data.raw:raw,iops-burst=9", "iops-burst alone"), ("data.raw:raw,iops=9,bps-burst=1M", "bps-burst alone"):
    p = raw("run", "-d", "--firmware", "spin.bin", "--memory", "16M", "--disk", disk)
    check(f"run --disk {disk} is refused", p.returncode == USAGE and what in p.stderr.decode(), p)
lodge("run", "-d", "--firmware", "spin.bin", "--memory", "16M", "--name", "meta", "--disk", "s/m:lodgefs,metadata=8M")
check("run --disk ...,metadata=8M: the store has so many pages in memory", '"pages_max":2048,' in lodge("stats", "meta", "--json").stdout, lodge("stats", "meta", "--json").stdout)
lodge("kill", "meta")
lodge("rm", "meta", ok=False)
p = raw("run", "-d", "--firmware", "spin.bin", "--memory", "16M", "--disk", EVIL + b".raw:raw")
check("a machine with such a file", p.returncode == USAGE and p.stderr == b"lodge run: --disk: the text is not UTF-8\n" and not p.stdout, p)

# ---- a copy that is not whole ----


def before_exec(how):
    """SIGINT is there when it begins, so that it stops as soon as it looks."""
    if how == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN if how == "ignored" else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.kill(os.getpid(), signal.SIGINT)


for how in "full", "Ctrl-C":
    for source, target in ("data.raw:raw", "new.qcow2:qcow2"), ("data.raw:raw", "new.raw:raw"), ("s/from2:lodgefs", "s/to:lodgefs"):
        if how == "full" and "/" in target:
            continue  # the store is one file, and that long already
        p = raw("disk", "convert", source, target, preexec_fn=lambda: before_exec(how))
        inside = [d["name"] for d in json.loads(lodge("store", "ls", "s:lodgefs", "--json").stdout)]
        check(f"disk convert {source} {target}, {how}: nothing is left", p.returncode == 1 and not os.path.exists(target.split(":")[0]) and "to" not in inside, (p, inside))
# What is stopped before it can be undone no more has not been; what cannot be undone is finished.
lodge("disk", "create", "tables.qcow2:qcow2", "-s", "2G", "-o", "preallocation=metadata,cluster-size=4K")
size = lambda name: json.loads(lodge("disk", "info", name, "--json").stdout)["size"]
names = lambda: [s["name"] for s in json.loads(lodge("disk", "snapshot", "tables.qcow2:qcow2", "--json").stdout)]
for args, said, left in ((("-c", "one"), "without a new snapshot", []), (("-a", "two"), "as it was before\n", ["two"]), (("-d", "two"), "", [])):
    if left:
        lodge("disk", "snapshot", "tables.qcow2:qcow2", "-c", "two")
    p = raw("disk", "snapshot", "tables.qcow2:qcow2", *args, preexec_fn=lambda: before_exec("Ctrl-C"))
    check(f"disk snapshot {args[0]}, Ctrl-C", p.returncode == (said != "") and said in p.stderr.decode() and names() == left, (p, names()))
lodge("disk", "create", "s/long:lodgefs", "-s", "2G")
for name in "tables.qcow2:qcow2", "s/long:lodgefs":
    p = raw("disk", "resize", name, "16M", "--shrink", preexec_fn=lambda: before_exec("Ctrl-C"))
    check(f"disk resize {name}, Ctrl-C", p.returncode == 1 and b"stopped: it has 2147483648 bytes as before" in p.stderr and size(name) == 2 << 30, (p, size(name)))
    check(f"{name} is whole", lodge(*(("disk", "check", name) if "/" not in name else ("store", "check", "s:lodgefs"))).returncode == 0)
shown = terminal_bytes(120, "disk", "resize", "tables.qcow2:qcow2", "16M", "--shrink")
bars = [b for b in re.split("\r\033\\[K", shown) if b.startswith("resizing")]
check("disk resize --shrink: a bar", len(bars) >= 2 and "2032.0 MiB" in bars[0], shown)
check("and then it is shorter", size("tables.qcow2:qcow2") == 16 << 20 and os.path.getsize("tables.qcow2") < 32 << 20)
p = raw("disk", "convert", "data.raw:raw", "whole.raw:raw", preexec_fn=lambda: before_exec("ignored"))
check("a Ctrl-C that is ignored does not stop it", p.returncode == 0 and os.path.getsize("whole.raw") == 8 << 20, p)
p = raw("disk", "resize", "data.raw:raw", "+18446744073709551615B", "--shrink")
check("a disk does not grow beyond 2^64 bytes to less", p.returncode != 0 and os.path.getsize("data.raw") == 8 << 20, p)

# ---- machines ----
lodge("run", "-d", "--firmware", "spin.bin", "--memory", "16M", "--name", "m")
lodge("switch", "run", "-d", "lan")
p = lodge("switch", "run", "-d", "lan", ok=False)
check("a switch that runs already", p.returncode == LOCKED and p.stderr == "lodge: switch lan runs already\n", p)
p = lodge("switch", "run", "a b", ok=False)
check("a switch with such a name", p.returncode == 2 and "switch name" in p.stderr, p)
for args in ("ps",), ("stats", "m"), ("events", "m"), ("snapshot", "create", "m", "-n", "s1"), ("snapshot", "ls"), ("snapshot", "verify", "s1"), ("switch", "ls"), ("switch", "show", "lan"), \
        ("inspect", "m"), ("doctor",), ("snapshot", "show", "s1"), ("image", "ls"), *KVM:
    objects(*args)


def completed(*words):
    """What the shell makes of the last word."""
    script = f'lodge() {{ "$LODGE_PROGRAM" "$@"; }}; source <(lodge completion); COMP_LINE="$*"; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); ' \
             '_complete_lodge; printf "%s\\n" "${COMPREPLY[@]}"'
    p = subprocess.run(["bash", "-c", script, "bash", "lodge", *words], env=dict(ENV, LODGE_PROGRAM=LODGE), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60 * SLOW)
    return p.stdout.split()


for words, wanted in (("switch", "show", ""), ["lan"]), (("switch", "stop", "l"), ["lan"]), (("switch", "capture", "x"), []), (("switch", "run", "--uplink", ""), ["lan"]), \
        (("snapshot", "create", "m", "--parent", "s"), ["s1"]), (("stats", ""), ["m"]), (("disk", "info", "x:q"), ["qcow2"]), (("disk", "convert", "x:raw", "y:l"), ["lodgefs"]), \
        (("disk", "create", "-b", "x:r"), ["raw"]), (("disk", "measure", "x:raw", "--to", "l"), ["lodgefs"]), (("store", "ls", "x:"), ["lodgefs"]):
    check(f"lodge {' '.join(words)}<Tab>", completed(*words) == wanted, completed(*words))
check("the names of switches", lodge("names", "switches").stdout == "lan\n")
p = lodge("switch", "show", "lam", ok=False)
check("a switch that is not there: the nearest is named", p.returncode == MISSING and p.stderr == "lodge: there is no switch lam; did you mean lan?\n", p)
check("one switch has one port, not one ports", re.search(r"^lan +\d+ (port,|ports,) 0 addresses$", lodge("switch", "ls").stdout, re.M) and " 1 ports" not in lodge("switch", "ls").stdout)
lodge("snapshot", "create", "m", "-n", "s2", "--parent", "s1")
check("flattened", objects("snapshot", "flatten", "s2") == {"flattened": "s2"})
check("exported", objects("snapshot", "export", "s2", "s2.file") == {"exported": "s2.file"})
check("imported", objects("snapshot", "import", "s2.file", "--name", "s3") == {"imported": "s3"})
lodge("switch", "stop", "lan")
was = pid("m")
lodge("kill", "m")
gone(was)
log = os.path.join(HOME, "data", "vms", "m", "console.log")
for text in b"", b"\n", b"one", b"one\ntwo\n", b"one\n\ntwo", b"x" * 40000 + b"\n" + b"y" * 40000 + b"\nz\n":
    with open(log, "wb") as f:
        f.write(text)
    for n in 0, 1, 2, 3, 10**18:
        p = raw("logs", "m", "--tail", str(n))
        check(f"logs --tail {n} of {text[:12]!r}", p.returncode == 0 and p.stdout == b"".join(text.splitlines(True)[-n:] if n else []), p)
check("logs --tail: no number", raw("logs", "m", "--tail", "-1").returncode == USAGE)
p = lodge("rm", "nosuch", "m", ok=False)
check("lodge rm goes on behind one that is not there", p.returncode == MISSING and p.stderr.count("\n") == 1 and "m" not in lodge("ps", "--all").stdout.split(), p)

# As `nohup lodge run ... &` on a terminal that is closed.
r = subprocess.Popen([LODGE, "run", "--firmware", "spin.bin", "--memory", "16M", "--name", "n"], env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                     preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
end = time.monotonic() + 60 * SLOW
while '"running"' not in lodge("ps", "--json").stdout and r.poll() is None and time.monotonic() < end:
    time.sleep(0.05)
r.send_signal(signal.SIGHUP)
try:
    r.wait(0.5)  # a moment in which it would end: never too short for who is right
except subprocess.TimeoutExpired:
    pass
check("nohup lodge run does not hear a hangup", r.poll() is None and '"n"' in lodge("ps", "--json").stdout, r.returncode)
r.send_signal(signal.SIGTERM)
r.communicate(timeout=60 * SLOW)
check("and is ended by what it does hear", r.returncode == 128 + signal.SIGTERM, r.returncode)
lodge("rm", "n", ok=False)
left = lambda: [x for x in os.listdir(os.path.join(HOME, "run")) if x != ".switches"]
check("nothing is left at the end", wait_for(lambda: not left(), 20), left())

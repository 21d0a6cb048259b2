#!/usr/bin/env python3
# time-limit: 300
"""What a newcomer may get wrong with every verb (for `lodge run`: errors.py): one line that says what and why, the right exit code, nothing left behind;
also when standard output is closed or full, and when it is ended by a signal."""
import fcntl
import hashlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, SLOW, gone, lodge, pid
from machine import HOME, LODGE, TMP, VM, check, wait_for
from migration import rpc

VMS = os.path.join(HOME, "data", "vms")
USAGE, MISSING, LOCKED = 2, 3, 4
KVM = [("cpu", "show")] if os.access("/dev/kvm", os.R_OK | os.W_OK) else []


def files():
    return sorted(os.path.join(d, n) for d, dirs, names in os.walk(TMP) for n in names + dirs if n not in ("snapshots", "machine.log", "cache"))


def bad(code, cause, *args, **kw):
    """`cause`: a regular expression that its one line must have."""
    before = files()
    p = lodge(*args, ok=False, seconds=60, **kw)
    what = "lodge " + " ".join(map(repr, args))[:120]
    line = p.stderr.rstrip("\n")
    good = p.returncode == code and "\n" not in line and line.isprintable() and re.search(cause, line) and not p.stdout
    # Behind a machine that was begun somebody clears up for a moment.
    check(what, good and wait_for(lambda: files() == before, 20), (p.returncode, p.stderr, p.stdout, set(files()) ^ set(before)))


def of_process(p, file):
    try:
        return open(f"/proc/{p}/{file}").read()
    except OSError:
        return ""


with open("spin.bin", "wb") as f:
    f.write(struct.pack("<II", 0x10500073, 0xFFDFF06F))  # waits for interrupts for ever
with open("text", "w") as f:
    f.write("hello\n" * 1000)
lodge("disk", "create", "d.qcow2:qcow2", "-s", "1M")
lodge("disk", "create", "x y\nz.raw:raw", "-s", "1M")

# ---- words ----
bad(USAGE, "unknown verb frobnicate", "frobnicate")
bad(USAGE, "unknown verb snapshto.*did you mean snapshot", "snapshto", "ls")
bad(USAGE, "unknown verb disk creat .did you mean create.*lodge disk --help", "disk", "creat")
bad(USAGE, "unknown verb cpu x; see lodge cpu --help", "cpu", "x")
bad(USAGE, "unknown flag --nope", "doctor", "--nope")
bad(USAGE, "one argument too many", "stats", "a", "b")
bad(USAGE, "give 1 to 1000", "clone", "a", "-n", "0")
bad(USAGE, "more than 64 bits", "disk", "create", "n:raw", "-s", "99999999999999999999")
bad(USAGE, "0 is too small: give at least 1G", "image", "pull", "debian:mini", "--size", "0")
bad(USAGE, "cp.*one of the two|one of the two", "cp", "a", "b")
for verb in ("kill", "pause", "stats", "inspect", "console"):
    bad(USAGE, "machine name", verb, "../x")
    bad(MISSING, "no machine nosuch is running", verb, "nosuch")
bad(USAGE, "machine name .a.b.", "kill", "a\nb")
bad(USAGE, "machine name .a.\\[31mb.", "kill", "a\033[31mb")

# ---- documents ----
page = open(os.path.join(os.environ["LODGE_TOP"], "docs/cli.md")).read()
verbs = [m.group(1) for m in re.finditer(r"(?m)^  ([a-z]+(?: [a-z]+)?)(?= [A-Z|\[]|  |$)", lodge("help").stdout)]
verbs = [v for v in verbs if not v.startswith("names ")]
check("docs/cli.md has every verb", len(verbs) > 50 and all(f"lodge {v}" in page for v in verbs), [v for v in verbs if f"lodge {v}" not in page])

# ---- files ----
bad(1, "^lodge: disk d.qcow2: is there already", "disk", "create", "d.qcow2:qcow2", "-s", "1M")
bad(1, "^lodge: disk x y.z.raw: is there already", "disk", "create", "x y\nz.raw:raw", "-s", "1M")
bad(MISSING, "no such folder", "disk", "create", "/nonexistent/a:raw", "-s", "1M")
bad(MISSING, "disk nosuch: there is no such file", "disk", "info", "nosuch:raw")
bad(USAGE, "text is not a qcow2 image", "disk", "info", "text:qcow2")
bad(USAGE, "neither a file nor a block device", "disk", "check", "/dev/zero:qcow2")
bad(1, "is there already", "disk", "convert", "d.qcow2:qcow2", "/dev/full:raw")
bad(USAGE, "neither a file", "disk", "convert", "d.qcow2:qcow2", "/dev/full:raw", "--force")
bad(MISSING, "there is no snapshot nope", "disk", "convert", "d.qcow2:qcow2", "out:raw", "--snapshot", "nope")
bad(USAGE, "too small: its tables alone", "store", "create", "s:lodgefs", "--size", "1M")
bad(MISSING, "store nosuch: there is no such file", "store", "ls", "nosuch:lodgefs")
bad(MISSING, "no image is called", "image", "rm", "../x")
bad(MISSING, "--keyring /nonexistent: No such file", "image", "pull", "debian:mini", "--keyring", "/nonexistent")
bad(MISSING, "there is no snapshot nosuch", "snapshot", "show", "nosuch")
bad(USAGE, "snapshot name", "snapshot", "rm", "../../text")
for f in ("./text", "/dev/null", "/dev/zero", TMP):
    bad(1, "not a snapshot|no snapshot of Lodge", "snapshot", "verify", f)
bad(MISSING, "No such file", "snapshot", "import", "nosuch")
bad(MISSING, "there is no snapshot nosuch", "restore", "nosuch")
bad(MISSING, "no machine nosuch is running, and there is no snapshot", "clone", "nosuch")

# ---- addresses ----
bad(USAGE, "[Ss]ervname", "migrate", "a", "tcp:127.0.0.1:nosuchservice")
bad(MISSING, "not known", "migrate", "a", "tcp:a..b:7")
bad(USAGE, "'b' is no address: unix:PATH or tcp:HOST:PORT", "migrate", "a", "b")
bad(USAGE, "a path of 1 to 107 bytes", "receive", "a", "unix:" + "x" * 200)
for verb in ("migrate", "receive"):
    bad(USAGE, "a port is a number up to 65535", verb, "a", "tcp:127.0.0.1:99999")
    bad(1, "without TLS", verb, "a", "tcp:192.0.2.1:7")
bad(MISSING, "No such file", "receive", "a", "unix:/nonexistent/s")
bad(LOCKED, "remove a file of that name", "receive", "a", "unix:text")
bad(USAGE, "go together", "receive", "a", "tcp:127.0.0.1:0", "--tls-cert", "text")
bad(MISSING, "--tls-cert: .*/nonexistent", "receive", "a", "tcp:127.0.0.1:0", *(x for o in ("cert", "key", "ca") for x in ("--tls-" + o, "/nonexistent")))
bad(MISSING, "/nonexistent", "receive", "a", "unix:s", "--config", "/nonexistent")

# ---- waiting, and being ended ----
def waits(ignored=()):
    """A receiver that somebody watches."""
    r = subprocess.Popen([LODGE, "receive", "w", f"unix:{TMP}/w.sock"], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         preexec_fn=lambda: [signal.signal(s, signal.SIG_IGN) for s in ignored])
    r.stdout.readline()
    wait_for(lambda: os.path.exists(os.path.join(VMS, "w", "machine.log")))
    return r


def ended(what, r, sig):
    r.send_signal(sig)
    err = r.communicate(timeout=60 * SLOW)[1]
    if sig == signal.SIGKILL:
        os.unlink("w.sock")  # which nobody could
    else:
        check(f"{what} is said", r.returncode == 1 and err == "lodge: stopped; there is no machine w\n", (r.returncode, err))
    wait_for(lambda: not os.listdir(VMS))
    check(f"{what}: nothing is left", not os.listdir(VMS) and not os.path.exists("w.sock"), (os.listdir(VMS), os.listdir(TMP)))


for sig in signal.SIGINT, signal.SIGTERM, signal.SIGKILL:
    ended(f"{sig.name} of lodge receive", waits(), sig)
# As by nohup, and from a script in the background: what is ignored stays so, the rest ends it, and its process.
for sig in signal.SIGTERM, signal.SIGKILL:
    ended(f"{sig.name} of nohup lodge receive &", waits((signal.SIGHUP, signal.SIGINT)), sig)
r = waits((signal.SIGHUP, signal.SIGINT))
for sig in signal.SIGHUP, signal.SIGINT:
    r.send_signal(sig)
try:
    r.wait(0.5)  # a moment in which it would end: never too short for who is right
except subprocess.TimeoutExpired:
    pass
check("nohup lodge receive & does not hear a hangup, nor Ctrl-C", r.poll() is None, r.returncode)
ended("nohup lodge receive & at last", r, signal.SIGTERM)
# Somebody has the address, and no time.
with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
    busy.bind("busy.sock")
    busy.listen(0)
    first.connect("busy.sock")
    bad(LOCKED, "somebody has it already", "receive", "w", "unix:busy.sock")
os.unlink("busy.sock")
# A process that does not end cannot be waited for by force: it may have the machine. A second Ctrl-C leaves it.
r = waits()
# The keeper is there before it.
child = wait_for(lambda: next((int(p) for p in os.listdir("/proc") if p.isdigit() and "--receive" in (c := of_process(p, "cmdline")) and f"{VMS}/w/" in c), None))
os.kill(child, signal.SIGSTOP)
wait_for(lambda: "T (stopped)" in of_process(child, "status"))  # a hangup that comes with it would end it
r.send_signal(signal.SIGINT)
wait_for(lambda: re.search("ShdPnd:.*1$", of_process(child, "status"), re.M))  # until it was told, and so we are done with the first one
r.send_signal(signal.SIGINT)
r.communicate(timeout=60 * SLOW)
check("a second Ctrl-C leaves a receiver that does not end", r.returncode == -signal.SIGINT, r.returncode)
os.kill(child, signal.SIGCONT)
os.unlink("w.sock")
wait_for(lambda: not os.listdir(VMS))
check("and when it does, it takes its place along", not os.listdir(VMS), os.listdir(VMS))

os.mkdir(os.path.join(VMS, "begun"))  # by one that was killed at once
lodge("run", "-d", "--firmware", "spin.bin", "--memory", "16M", "--name", "m", "--disk", "d.qcow2:qcow2")
check("an empty place goes with the next machine", os.listdir(VMS) == ["m"], os.listdir(VMS))

# ---- a machine ----
lodge("run", "-d", "--firmware", "spin.bin", "--memory", "16M", "--name", "raw", "--disk", "x y\nz.raw:raw")
for name in ("../x", "x y", "", "n" * 64):
    bad(USAGE, "snapshot name", "snapshot", "create", "m", "--name", name)
    bad(USAGE, "machine name", "clone", "m", "--name", name)
bad(USAGE, "not both", "snapshot", "create", "m", "--memory-only", "--with-disks")
bad(1, "raw has no snapshots.*--memory-only", "snapshot", "create", "raw")
bad(MISSING, "there is no snapshot nosuch", "snapshot", "create", "m", "--parent", "nosuch")
for how in "--quiesce", "--hold":
    bad(1, "no agent answers", "snapshot", "create", "m", how)
bad(1, "no agent answers", "exec", "m", "ls")
bad(1, "no agent answers", "cp", "text", "m:/x")
bad(MISSING, "program /nonexistent: No such file", "update", "m", "--program", "/nonexistent")
bad(1, "text is not a program", "update", "m", "--program", "text")
bad(1, "ended before it said hello", "update", "m", "--program", "/bin/true")
with socket.socket(socket.AF_UNIX) as control:
    control.connect(os.path.join(HOME, "run", "m", "control.sock"))
    control.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "staus"}\n')
    said = control.makefile().readline()
    check("a method that is not there: the nearest is named", '"code":-32601' in said and "did you mean status?" in said, said)
bad(USAGE, "no such subject", "trace", "m", "x")
bad(MISSING, "no migration is under way", "migrate", "m", "--cancel")
bad(1, "nothing to take back", "migrate", "m", "--take-back")
bad(MISSING, "nobody waits there", "migrate", "m", "unix:nobody")
bad(1, "nobody waits there", "migrate", "m", "unix:text")
bad(LOCKED, "running here already", "receive", "m", "unix:s")
lodge("snapshot", "create", "m", "--name", "s")
bad(1, "snapshot s is there already", "snapshot", "create", "m", "--name", "s")
bad(LOCKED, "running already", "restore", "s")
bad(LOCKED, "in use by another machine", "restore", "s", "--name", "m2")
bad(USAGE, "machine name", "restore", "s", "--name", "a b")
bad(1, "is there already", "snapshot", "export", "s", "/dev/full")
bad(USAGE, "name of the file is empty", "snapshot", "export", "s", "")
bad(MISSING, "folder /nonexistent", "snapshot", "export", "s", "/nonexistent/x")
bad(LOCKED, "is running: end it first", "rm", "m")
t = subprocess.Popen([LODGE, "migrate", "m", f"unix:{HOME}/run/raw/control.sock"], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
wait_for(lambda: rpc("m", "migrate_status")["phase"] != "none")  # until it listens to signals
t.send_signal(signal.SIGINT)
err = t.communicate(timeout=60 * SLOW)[1]
check("what answers no migration is left by Ctrl-C", t.returncode == 1 and "goes on here" in err, err)

# ---- standard output ----


def digest():
    return hashlib.sha256(open("d2.qcow2", "rb").read()).hexdigest()


lodge("disk", "create", "d2.qcow2:qcow2", "-s", "1M")
was = digest()
for args in (("--help",), ("ps",), ("ps", "--json"), ("snapshot", "ls"), ("image", "show", "--help"), *KVM, ("disk", "info", "d2.qcow2:qcow2"),
             ("disk", "check", "--json", "d2.qcow2:qcow2"), ("inspect", "m"), ("stats", "m"), ("logs", "m", "--machine")):
    with open("/dev/full", "w") as full:
        p = subprocess.run([LODGE, *args], env=ENV, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60 * SLOW)
    empty = not subprocess.run([LODGE, *args], env=ENV, capture_output=True).stdout
    check(f"lodge {' '.join(args)}: a full standard output is an error", p.returncode == (not empty) and ("standard output" in p.stderr) == (not empty), p)
    p = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", LODGE, *args], env=ENV, stderr=subprocess.PIPE, text=True, timeout=60 * SLOW)
    check(f"lodge {' '.join(args)}: a closed one as well", p.returncode == (not empty) and ("standard output" in p.stderr) == (not empty), p)
check("nothing was written into the disk instead", digest() == was)
for closed in "<&- >&-", "<&- >&- 2>&-":
    p = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", LODGE, "run", "-d", "--firmware", "spin.bin", "--memory", "16M", "--name", "c", "--disk", "d2.qcow2:qcow2"],
                       env=ENV, timeout=60 * SLOW)
    lodge("kill", "c")
    lodge("rm", "c")
    p = subprocess.Popen(["sh", "-c", f'exec "$@" {closed}', "sh", VM, "--firmware", "spin.bin", "--memory", "16M", "--name", "c", "--disk", "d2.qcow2:qcow2"], env=ENV)
    wait_for(lambda: not lodge("pause", "c", ok=False).returncode or p.poll() is not None)  # until it has opened all that it opens, and said what it says
    lodge("kill", "c")
    p.wait(60 * SLOW)
check("nor by a machine", lodge("disk", "check", "d2.qcow2:qcow2").returncode == 0 and digest() == was)
# The disk of one that was killed is locked until the kernel has come to it; here what holds it lies in a socket, and in nobody's hands.
os.mkdir(os.path.join(VMS, "dead"))
with open(os.path.join(VMS, "dead", "disk.raw"), "wb") as f:
    fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    ends = socket.socketpair()
    socket.send_fds(ends[0], [b"x"], [f.fileno()])
threading.Timer(1, lambda: [s.close() for s in ends]).start()
lodge("rm", "dead")
check("one that was killed a moment ago is removed", "dead" not in os.listdir(VMS))
for name in "m", "raw":
    gone_pid = pid(name)
    lodge("kill", name)
    gone(gone_pid)
    lodge("rm", name)
check("nothing is left at the end", wait_for(lambda: not os.listdir(VMS) and not os.listdir(os.path.join(HOME, "run")), 20), (os.listdir(VMS), os.listdir(os.path.join(HOME, "run"))))

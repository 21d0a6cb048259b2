#!/usr/bin/env python3
# time-limit: 400
"""`lodge update`: the lodge-vm of a running machine is replaced by other builds, many times, under load; whatever fails leaves the machine where it is. LODGE_FAULTS=N: that many with somebody killed (20)."""
import atexit
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, SLOW, gone, lodge, pid, rounds, until, wait_rounds
from machine import BUILD, HOME, LODGE, TMP, Machine, check, skip, wait_for

RV64, X86 = (os.path.join(BUILD, "guest", f"stamp-{isa}.elf") for isa in ("rv64", "x86"))
NEXT, NEW, OLD, FAILS = (os.path.join(BUILD, "tests/tools", "lodge-vm-" + n) for n in ("next", "new", "old", "fails"))


def update(name, program=None, **kw):
    return lodge("update", name, "--json", *(["--program", program] if program else []), **kw)


class Control:
    """A connection to the control socket that lives through updates."""

    def __init__(self, name):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30 * SLOW)
        self.sock.connect(os.path.join(HOME, "run", name, "control.sock"))
        self.buf, self.id = b"", 0

    def line(self):
        while b"\n" not in self.buf:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError
            self.buf += more
        line, self.buf = self.buf.split(b"\n", 1)
        return json.loads(line)

    def send(self, method, **params):
        self.id += 1
        self.sock.sendall((json.dumps({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params}) + "\n").encode())

    def call(self, method, **params):
        self.send(method, **params)
        while True:
            m = self.line()
            if m.get("id") == self.id:
                return m["result"]


def clean():
    for n in ("a", "f", "hand", "rv64-one", "rv64-two", "kvm-one", "kvm-two"):
        subprocess.run([LODGE, "kill", n], env=ENV, stderr=subprocess.DEVNULL)


atexit.register(clean)
if not os.path.exists(RV64):
    skip("riscv64-linux-gnu-gcc is not installed")

# ---- refusals ----
hand = Machine("--firmware", RV64, "--memory", "32M", name="hand")
hand.call("status")
r = update("hand", ok=False)
check("a machine that was started by hand: refused, with the reason", r.returncode == 1 and "by hand" in r.stderr, r)
check("and it runs", hand.call("status")["state"] == "running")
hand.__exit__()

lodge("run", "--firmware", RV64, "--memory", "64M", "--smp", "2", "--name", "a", "-d")
wait_rounds("a", 2)
first = pid("a")
for what, program, text in (("is not there", "/nonexistent/lodge-vm", "No such file"), ("is no program", __file__ + "x", "No such file"),
                            ("is a text", os.path.join(TMP, "text"), "cannot be started|Exec format"), ("may not be run", "/etc/passwd", "not a program"),
                            ("ends at once", "/bin/true", "before it said hello"), ("is too new", NEW, "in between"), ("is too old", OLD, "older")):
    if what == "is a text":
        open(program, "w").write("#!/no\n")
        os.chmod(program, 0o755)
    r = update("a", program, ok=False)
    check(f"a new lodge-vm that {what}: refused", r.returncode in (1, 3) and re.search(text, r.stderr), r)
check("the machine is still where it was", pid("a") == first and rounds("a"))
r = update("nosuch", ok=False)
check("a machine that is not there", r.returncode == 3, r)

# ---- what fails, at every stage ----
os.mkdir(os.path.join(TMP, "b"))
for stage in ("started", "hello", "built", "sandboxed", "ready", "moment", "loaded", "carried", "woken"):
    for how in ("crash", "hang"):
        program = os.path.join(TMP, "b", f"vm.{stage}.{how}")
        shutil.copy(FAILS, program)
        if how == "hang" and stage in ("started", "hello", "built", "sandboxed", "ready"):
            # It waits for longer than anybody would: who asked loses patience.
            p = subprocess.Popen([LODGE, "update", "a", "--program", program], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.7)
            p.send_signal(signal.SIGINT)
            p.wait(20 * SLOW)
        else:
            r = update("a", program, ok=False)
            check(f"{how} at {stage}: fails", r.returncode == 1, r)
        wait_rounds("a", 1)
        check(f"{how} at {stage}: the machine goes on where it was", pid("a") == first)
        os.unlink(program)
r = json.loads(update("a", NEXT).stdout)
check("after all that, an update to a later build", r["version"] == "9.9.next" and pid("a") == r["pid"] != first, r)
check("the old process has gone", gone(first))
wait_rounds("a", 3)

# ---- many in a row; connections to the control socket live on ----
c, events, console = Control("a"), Control("a"), Control("a")
events.call("events", follow=True)
console.call("console", history=False)
pauses = []
for i in range(30):
    r = json.loads(update("a", NEXT if i % 2 else None).stdout)
    pauses.append(r["pause_us"])
    check(f"update {i}: the same connection is answered by process {r['pid']}", c.call("status")["pid"] == r["pid"] == pid("a"))
wait_rounds("a", 3)
seen = []
while len(seen) < 30:
    m = events.line()
    if m.get("method") == "updated":
        seen.append(m["params"]["pid"])
check("who follows events saw all of them", len(set(seen)) == 30)
text = b""
while text.count(b"rounds") < 4:
    text += console.sock.recv(65536)
check("who is on the console reads on, nothing is missing", not b"lost" in text)
console.sock.close()
pauses.sort()
print(f"pauses of 30 updates, ms: median {pauses[15] / 1000:.1f}, least {pauses[0] / 1000:.1f}, most {pauses[-1] / 1000:.1f}")

# ---- kill -9, at random moments: of who asks, of the new process ----
def kill_unless_it_runs(name, new, old):
    """Kills the process `new` while the machine is still `old`'s: a lodge-vm that is killed later takes its guest along."""
    try:
        os.kill(new, signal.SIGSTOP)
        try:
            # What `new` said before it was stopped has been heard when the second question is answered. Silence: the machine is `new`'s.
            asked = Control(name)
            asked.sock.settimeout(0.5)
            if all(asked.call("status")["pid"] == old for i in range(2)) and pid(name) == old:
                os.kill(new, signal.SIGKILL)
        except (OSError, EOFError):
            pass
        os.kill(new, signal.SIGCONT)
    except ProcessLookupError:
        pass  # it ended by itself


random.seed(7)
keeper = int(open(f"/proc/{pid('a')}/stat").read().rsplit(")", 1)[1].split()[1])
KILLS = int(os.environ.get("LODGE_FAULTS", "20"))
for i in range(KILLS):
    before = pid("a")
    p = subprocess.Popen([LODGE, "update", "a", "--program", NEXT], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(random.random() * 0.25)
    if i % 2:
        p.kill()
    else:
        for k in open(f"/proc/{keeper}/task/{keeper}/children").read().split():
            if int(k) != before:
                kill_unless_it_runs("a", int(k), before)
    p.wait(30 * SLOW)
    wait_rounds("a", 1)
check(f"{KILLS} updates with somebody killed: the machine runs, in one process", c.call("status")["state"] == "running")

# ---- a paused machine ----
lodge("pause", "a")
r = json.loads(update("a").stdout)
check("a paused machine is still paused", c.call("status")["state"] == "paused")
lodge("resume", "a")
wait_rounds("a", 2)

# ---- machines that came from a snapshot: their memory lies over its file until then ----
crash = os.path.join(TMP, "b", "vm.carried.crash")
shutil.copy(FAILS, crash)
for engine, flag, guest in (("rv64", "--firmware", RV64), ("kvm", "--kernel", X86)):
    name, copy = f"{engine}-one", f"{engine}-two"
    if engine == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("SKIP: no /dev/kvm here: machines that came from a snapshot, on rv64 only", flush=True)
        continue
    lodge("run", "--engine", engine, flag, guest, "--memory", "64M", "--smp", "2", "--name", name, "-d")
    wait_rounds(name, 2)
    lodge("snapshot", "create", name, "--name", engine)
    lodge("kill", name)
    lodge("restore", engine, "--name", copy, "-d")
    wait_rounds(copy, 1)
    was = pid(copy)
    r = update(copy, crash, ok=False)
    check(f"{engine}: restored, an update that fails in the moment", r.returncode == 1 and pid(copy) == was, r)
    wait_rounds(copy, 2)
    for i in range(3):
        r = json.loads(update(copy, None if i % 2 else NEXT).stdout)
        check(f"{engine}: restored, update {i}: pause {r['pause_us'] / 1000:.1f} ms", pid(copy) == r["pid"] != was, r)
        wait_rounds(copy, 2)
    maps = open(f"/proc/{pid(copy)}/maps").read()
    check(f"{engine}: nothing of it lies over the snapshot's file any more", "snapshot" not in maps, maps)
    lodge("snapshot", "create", copy, "--name", engine + "-again")
    wait_rounds(copy, 2)
    lodge("kill", copy)

# ---- its end is seen by who waits for it ----
last = pid("a")
lodge("kill", "a")
check("it ends as any machine", gone(last) and wait_for(lambda: not os.path.exists(os.path.join(HOME, "run", "a"))))
p = subprocess.Popen([LODGE, "run", "--firmware", RV64, "--memory", "64M", "--smp", "2", "--name", "f"], env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
until("f starts", lambda: "rounds" in lodge("logs", "f", ok=False).stdout)
wait_rounds("f", 1)
update("f", NEXT)
wait_rounds("f", 1)
lodge("kill", "f")
check("`lodge run` in the foreground waits for the new process, and has its exit code", p.wait(20 * SLOW) == 137, p.returncode)

#!/usr/bin/env python3
# time-limit: 420
"""The verbs over machines, from `run -d` to `rm`; exit codes; the console on a terminal; nothing left behind."""
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import BUILD, HOME, LODGE, SLOW, TMP, check, mini_image, wait_for

mini = mini_image()
ENV = dict(os.environ, LODGE_HOME=HOME)


def firmware(name, *words):
    p = os.path.join(TMP, name)
    with open(p, "wb") as f:
        f.write(b"".join(struct.pack("<I", w) for w in words))
    return p


# t0 = the UART; writes A; then waits for interrupts for ever.
UART_A = (0x100002B7, 0x04100313, 0x00628023)
WAIT = (0x10500073, 0xFFDFF06F)
SPIN = firmware("spin", *UART_A, *WAIT)


def exits(code):
    """Writes A and ends with a code: t0 = the finisher, t1 = 0x5555, or 0x3333 with the code above it."""
    if not code:
        end = (0x00005337, 0x55530313)
    else:
        end = ((code * 16 + 3) << 12 | 0x337, 0x33330313)
    return firmware(f"exit{code}", *UART_A, 0x001002B7, *end, 0x0062A023, *WAIT)


def lodge(*args, seconds=60, stdin=subprocess.DEVNULL):
    return subprocess.run([LODGE, *args], stdin=stdin, capture_output=True, timeout=seconds * SLOW, env=ENV, text=True)


def ok(*args, seconds=60):
    p = lodge(*args, seconds=seconds)
    check(f"lodge {' '.join(args[:2])}", p.returncode == 0, f"{p.returncode}: {p.stderr}")
    return p.stdout


def processes():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                env = f.read()
        except OSError:
            continue
        if f"LODGE_HOME={HOME}\0".encode() in env and int(pid) != os.getpid():
            found.append(int(pid))
    return found


def nothing_left(what):
    wait_for(lambda: not processes(), 10)
    left = [os.path.join(d, n) for d, dirs, names in os.walk(HOME) for n in names + dirs]
    left = [p for p in left if p not in (f"{HOME}/run", f"{HOME}/data", f"{HOME}/data/vms")]
    check(f"{what}: nothing is left", not processes() and not left, f"{processes()} {left}")


def states():
    return {m["name"]: m["state"] for m in map(json.loads, ok("ps", "--json").splitlines())}


class Terminal:
    """`lodge` on a pseudo terminal."""

    def __init__(self, *args):
        self.out, self.seen = b"", 0
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.p = subprocess.Popen([LODGE, *args], stdin=self.slave, stdout=self.slave, stderr=self.slave, env=ENV, start_new_session=True,
                                  preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def expect(self, text, seconds=30):
        end = time.monotonic() + seconds * SLOW
        while (at := self.out.find(text, self.seen)) < 0:
            if time.monotonic() > end:
                check(f"{text!r} comes on the terminal", False, repr(self.out[-500:]))
            if select.select([self.master], [], [], 0.2)[0]:
                self.out += os.read(self.master, 65536)
        self.seen = at + len(text)

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self, what, code):
        end = time.monotonic() + 20 * SLOW
        while self.p.poll() is None and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                self.out += os.read(self.master, 65536)
        got = self.p.poll()
        if got is None:
            self.p.kill()
            self.p.wait()
        check(f"{what}: exit code {code}", got == code, f"{got}: {self.out[-300:]!r}")
        check(f"{what}: the terminal is as before", termios.tcgetattr(self.slave) == self.before)
        os.close(self.master)
        os.close(self.slave)


def exit_codes():
    for code in (0, 1, 7, 255):
        # Quick guests, ten times: what they write is never lost.
        for _ in range(10 if code == 7 else 1):
            p = lodge("run", "--firmware", exits(code), "--memory", "16M")
            if p.returncode != code or p.stdout != "A" or p.stderr:
                check(f"a guest that ends with {code}", False, f"{p.returncode} {p.stdout!r} {p.stderr!r}")
        check(f"a guest that ends with {code}", True)
    for verb in ("stop", "kill", "pause", "resume", "reset", "console", "inspect", "stats", "events", "logs", "rm"):
        p = lodge(verb, "nosuch")
        check(f"{verb} of a machine that is not there: 3", p.returncode == 3 and p.stderr.count("\n") == 1, f"{p.returncode} {p.stderr}")
    nothing_left("exit codes")


def background():
    check("run -d prints the name", ok("run", "-d", "--name", "b1", "--firmware", SPIN, "--memory", "16M") == "b1\n")
    p = lodge("pause", "b2")
    check("the nearest name is offered", p.returncode == 3 and "b1" in p.stderr, p.stderr)
    check("it runs", states() == {"b1": "running"}, states())
    pid = int(ok("ps").splitlines()[1].split()[2])
    check("ps has its process", os.path.exists(f"/proc/{pid}"))
    ok("pause", "b1")
    check("paused", states() == {"b1": "paused"}, states())
    state = json.loads(ok("inspect", "b1", "--json"))
    check("inspect --json names registers", "pc" in json.dumps(state["state"]["cpu0"]), list(state["state"]))
    check("inspect has the topology", state["topology"]["vcpus"] == 1 and state["topology"]["memory_bytes"] == 16 << 20, state["topology"])
    check("inspect of a paused machine leaves it paused", states() == {"b1": "paused"})
    ok("resume", "b1")
    check("inspect is text by default", re.search(r"(?m)^state\.cpu0\S*\.pc\s", ok("inspect", "b1")) is not None)
    check("inspect of a running machine lets it run on", states() == {"b1": "running"})
    stats = json.loads(ok("stats", "b1", "--json"))
    check("stats has vCPUs and the process", stats["vcpu"][0]["instructions"] > 0 and stats["host"]["own_kib"] > 0, stats)
    check("stats is text by default", "vCPU 0" in ok("stats", "b1"))
    events = [json.loads(e)["event"] for e in ok("events", "b1").splitlines()]
    check("events tell its life, and inspect is none of it", events == ["started", "paused", "resumed"], events)
    check("logs has the console", ok("logs", "b1") == "A")
    ok("logs", "b1", "--machine")
    ok("reset", "b1")
    p = lodge("stop", "b1", "--timeout", "1")
    check("stop of a guest that does not obey: 1 and what to do", p.returncode == 1 and "kill" in p.stderr, f"{p.returncode} {p.stderr}")
    ok("stop", "b1", "--timeout", "1", "--force")
    check("stop --force ended it", states() == {})
    check("ps --all shows what is kept", "b1" in ok("ps", "--all") and "b1" not in ok("ps"))
    ok("rm", "b1")
    name = ok("run", "-d", "--firmware", SPIN, "--memory", "16M").strip()
    p = lodge("rm", name)
    check("rm of a running machine: 4", p.returncode == 4, p.stderr)
    ok("kill", name)
    nothing_left("run -d")


def killed():
    """However lodge run, its keeper or lodge-vm dies, the machine ends and nothing is left."""
    for what, sig, code in (("SIGTERM", signal.SIGTERM, 143), ("SIGHUP", signal.SIGHUP, 129), ("SIGINT", signal.SIGINT, 130), ("SIGKILL", signal.SIGKILL, -9)):
        p = subprocess.Popen([LODGE, "run", "--firmware", SPIN, "--memory", "16M"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=ENV)
        check(f"{what}: the guest runs", p.stdout.read(1) == b"A")
        p.send_signal(sig)
        check(f"{what}: exit code", p.wait(20 * SLOW) == code, p.returncode)
        p.stdout.close()
        nothing_left(what)
    p = subprocess.Popen([LODGE, "run", "--name", "k", "--firmware", SPIN, "--memory", "16M"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=ENV)
    p.stdout.read(1)
    os.kill(int(open(f"{HOME}/run/k/pid").read()), signal.SIGKILL)
    check("lodge-vm is killed: exit code", p.wait(20 * SLOW) == 137, p.returncode)
    p.stdout.close()
    ok("rm", "k")
    nothing_left("lodge-vm is killed")
    # Output that nobody reads.
    p = subprocess.Popen([LODGE, "run", "--firmware", SPIN, "--memory", "16M", "--name", "o"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV)
    p.stdout.read(1)
    p.stdout.close()
    ok("reset", "o")
    check("nobody reads the output: exit code", p.wait(20 * SLOW) == 1, p.returncode)
    check("nobody reads the output: it says so", b"nobody reads" in p.stderr.read())
    p.stdin.close()
    p.stderr.close()
    ok("rm", "o")
    nothing_left("nobody reads the output")


def terminal():
    t = Terminal("run", "--firmware", SPIN, "--memory", "16M", "--name", "t")
    t.expect(b"A")
    t.type("\x01h")
    t.expect(b"Ctrl-A d")
    t.type("\x01d")
    t.end("Ctrl-A d", 0)
    check("a detached machine runs on", states() == {"t": "running"})
    t = Terminal("console", "t")
    t.expect(b"A")  # the history
    t.type("\x01x")
    t.end("console, Ctrl-A x", 0)
    check("and still", states() == {"t": "running"})
    t = Terminal("console", "t", "--no-history")
    t.expect(b"helps")
    ok("kill", "t")
    t.expect(b"has ended")
    t.end("console of a machine that ends", 0)
    check("no history was wanted", b"A\r" not in t.out and not t.out.replace(b"Ctrl-A", b"").count(b"A"), t.out)
    ok("rm", "t")
    t = Terminal("run", "--firmware", SPIN, "--memory", "16M")
    t.expect(b"A")
    t.type("\x01x")
    t.end("Ctrl-A x", 137)
    nothing_left("Ctrl-A x")
    t = Terminal("run", "--firmware", SPIN, "--memory", "16M")
    t.expect(b"A")
    t.p.send_signal(signal.SIGTERM)
    t.end("SIGTERM on a terminal", 143)
    nothing_left("SIGTERM on a terminal")


def debian():
    """A guest that obeys: busybox on Debian's kernel."""
    args = ["--kernel", mini["kernel"], "--initrd", mini["initrd"], "--append", mini["append"], "--memory", "192M"]
    ok("run", "-d", "--name", "deb", *args)
    wait_for(lambda: "debian:mini ready" in lodge("logs", "deb").stdout)
    ok("pause", "deb")
    ok("inspect", "deb")
    ok("resume", "deb")
    t = Terminal("console", "deb")
    t.expect(b"ready")
    t.type("\r")
    t.expect(b"# ")
    t.type("echo $((6*7))_\r")
    t.expect(b"42_")
    t.type("\x03\x01d")
    t.end("console of Debian", 0)
    p = lodge("stop", "deb", "--timeout", "60", seconds=90)
    check("stop: the guest shuts down", p.returncode == 0, p.stderr)
    check("it has gone", states() == {})
    ok("rm", "deb")
    # What is typed before the guest has opened its console is lost there, as on a real machine.
    p = subprocess.Popen([LODGE, "run", *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENV)
    out, sent, end = b"", False, time.monotonic() + 90 * SLOW
    while select.select([p.stdout], [], [], max(0, end - time.monotonic()))[0]:
        chunk = os.read(p.stdout.fileno(), 65536)
        if not chunk:
            break
        out += chunk
        if not sent and re.search(rb"ready.*# ", out, re.S):
            p.stdin.write(b"echo in''put; poweroff\n")
            p.stdin.close()  # its end is not the machine's
            sent = True
    check("commands from a pipe, poweroff: 0", p.wait(30 * SLOW) == 0 and b"input\r\n" in out, f"{p.returncode} {out[-300:]}")
    p.stdout.close()
    nothing_left("Debian")


def tools():
    d = json.loads(ok("doctor", "--json"))
    check("doctor: each finding has what is missing", all({"available", "found", "remedy"} <= set(f) for f in d.values()), d)
    jit = d["rv64 JIT"]
    check("doctor: what the JIT needs of the host, one by one", {f["name"] for f in jit["list"]} >= {"AVX", "FMA"} and jit["available"] == all(f["value"] for f in jit["list"]), jit)
    p = lodge("events", "nosuch", "--jit")
    check("events has options of its own", p.returncode == 2 and "unknown flag --jit" in p.stderr, p.stderr)
    check("version", ok("version").startswith("lodge "))
    check("names of images", lodge("names", "images").returncode == 0)
    ok("run", "-d", "--name", "complete-me", "--firmware", SPIN, "--memory", "16M")
    script = f"""PATH={BUILD}/src/cli:$PATH; source {BUILD}/src/cli/lodge.bash
COMP_WORDS=(lodge pause com); COMP_CWORD=2; COMP_LINE="lodge pause com"; COMP_POINT=15; _complete_lodge; echo "${{COMPREPLY[*]}}"
COMP_WORDS=(lodge image pull debian : m); COMP_CWORD=5; COMP_LINE="lodge image pull debian:m"; COMP_POINT=25; _complete_lodge; echo "${{COMPREPLY[*]}}"
"""
    got = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=ENV).stdout.split()
    check("bash completes machines and images", got[:2] == ["complete-me", "mini"] and all(g.startswith("mini") for g in got[1:]), got)
    ok("kill", "complete-me")
    ok("rm", "complete-me")
    for page in ("cli/lodge.1", "vm/lodge-vm.1"):
        text = open(f"{BUILD}/src/{page}").read()
        check(f"{page} is a manual page", text.startswith(".TH ") and "EXIT STATUS" in text)
    nothing_left("tools")


for part in (exit_codes, background, killed, terminal, debian, tools):
    if not sys.argv[1:] or part.__name__ in sys.argv[1:]:
        part()
shutil.rmtree(HOME, ignore_errors=True)

#!/usr/bin/env python3
# time-limit: 420
"""The moment in which a machine changes sides, held open: somebody is killed between GO and RUNNING; the link goes silent before or in it, without breaking. The guest goes on
on exactly one side, never on two, or the error says what to do and that does it."""
import os
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import SLOW, lodge, pid, until, wait_rounds
from machine import BUILD, check, skip
from migration import Gate, Receive, alive, result, start_move

STAMP = os.path.join(BUILD, "guest", "stamp-rv64.elf")
PAGES, GO, RUNNING = 3, 7, 11  # docs/migration.md
if not os.path.exists(STAMP):
    skip("riscv64-linux-gnu-gcc is not installed")


def boot(name, smp=2):
    """One CPU only ticks; the second rewrites all memory."""
    lodge("run", "--firmware", STAMP, "--memory", "32M", "--smp", str(smp), "--name", name, "-d")
    until(f"{name} starts", lambda: "rounds" in lodge("logs", name).stdout)


def ticks(name):
    return lodge("logs", name).stdout.count("gap")


def wait_ticks(name):
    before = ticks(name)
    until(f"{name} goes on", lambda: ticks(name) > before)


# ---- a link that goes silent: two of them at once, since each is waited for ----
class Silent(threading.Thread):
    def __init__(self, name, kind, *more):
        super().__init__(daemon=True)
        self.name_, self.to, self.more, self.ok = name, name + "-to", more, False
        boot(name, 1)
        self.r = Receive(self.to)
        self.gate = Gate(self.r.at, kind)
        self.p = start_move(name, self.gate.address, *more)
        check(f"{name}: the link is silent", self.gate.held.wait(60 * SLOW))
        self.start()

    def run(self):
        self.st, self.err = result(self.p)
        self.ok = True


early, late = Silent("early", PAGES), Silent("late", GO, "--downtime", "1000")

# ---- somebody is killed while GO, or RUNNING, is on its way ----
for kind, word in (GO, "GO"), (RUNNING, "RUNNING"):
    for who in "source", "destination", "lodge migrate", "lodge receive":
        what = f"kill -9 of the {who} while {word} is on its way" if " " not in who else f"kill -9 of {who} while {word} is on its way"
        boot("a")
        r = Receive("b")
        gate = Gate(r.at, kind)
        p = start_move("a", gate.address, "--downtime", "1000")
        check(f"{word} is held", gate.held.wait(60 * SLOW), lodge("ps").stdout)
        victim = {"source": lambda: pid("a"), "destination": lambda: pid("b"), "lodge migrate": lambda: p.pid, "lodge receive": lambda: r.p.pid}[who]()
        os.kill(victim, signal.SIGKILL)
        if who in ("destination", "lodge receive") and kind == GO:
            until(f"{what}: it has ended", lambda: not alive("b"))
        # RUNNING that is heard late is heard, and what was killed after it is a machine as any; here it is lost with who said it.
        (gate.cut if who == "destination" else gate.open)()
        st, err = result(p)
        r.end()
        if who == "lodge receive" and kind == GO:
            check(f"{what}: its machine says that it ends, so the source goes on by itself", st["phase"] == "failed" and not alive("b"), (st, err))
            wait_rounds("a", 1)
            lodge("kill", "a")
            continue
        if who == "destination":
            # Behind a link nobody can tell from here; who looks sees that it is not there.
            check(f"{what}: the error says what to do", st["phase"] == "lost" and "--take-back" in err, (st, err))
            check(f"{what}: it does not go on by itself", lodge("resume", "a", ok=False).returncode == 1)
            check(f"{what}: it does not run there", not alive("b"))
            lodge("migrate", "--take-back", "a")
            wait_rounds("a", 1)
            lodge("kill", "a")
            continue
        until(f"{what}: the source has ended", lambda: not alive("a"))
        wait_rounds("b", 1)
        check(f"{what}: it runs at the destination, and only there", alive("b") and not alive("a"))
        lodge("kill", "b")
        until(f"{what}: b has ended", lambda: not alive("b"))
        check(f"{what}: what it wrote is kept", "rounds" in lodge("logs", "b", ok=False).stdout)

# ---- what became of the silent links ----
for x in early, late:
    x.join(100 * SLOW)
    check(f"{x.name_}: it does not wait for ever", x.ok)
check("silent while memory is copied: it goes on at the source, and the error says why", early.st["phase"] == "failed" and "nothing moved" in early.err, (early.st, early.err))
wait_ticks("early")
early.gate.cut()
check("and there is no other", early.r.end()[0] != 0 and not alive("early-to"))
check("silent when it was to run: it stands still, and the error says what to do", late.st["phase"] == "lost" and "--take-back" in late.err, (late.st, late.err))
before = ticks("late")
late.gate.cut()
check("the destination, which has not heard that it may, ends", late.r.end()[0] != 0 and not alive("late-to"))
check("nothing ran meanwhile", ticks("late") == before)
lodge("migrate", "--take-back", "late")
wait_ticks("late")
for name in "early", "late":
    lodge("kill", name)

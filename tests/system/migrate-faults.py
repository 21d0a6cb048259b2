#!/usr/bin/env python3
# time-limit: 420
"""Moves that go wrong at random points: the connection breaks, loses, repeats, swaps, damages or holds back what it carries; somebody is killed, or stopped by
Ctrl-C. The guest, which looks at all its memory, goes on on exactly one side, or the error says what to do. LODGE_FAULTS=N: of each (100 on demand),
LODGE_KINDS=word: only kinds with it, LODGE_SEED: the same again."""
import os
import random
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import SLOW, gone, lodge, pid, until, wait_rounds
from machine import BUILD, HOME, TMP, check, skip, wait_for
from migration import Middle, Receive, alive, rpc, start_move

STAMP = os.path.join(BUILD, "guest", "stamp-rv64.elf")
N = int(os.environ.get("LODGE_FAULTS", "1"))
KINDS = os.environ.get("LODGE_KINDS", "")
SEED = int(os.environ.get("LODGE_SEED", str(random.randrange(1 << 30))))
random.seed(SEED)
print(f"LODGE_SEED={SEED}", flush=True)
if not os.path.exists(STAMP):
    skip("riscv64-linux-gnu-gcc is not installed")
DONE = "--downtime", "1000"  # how long it stands still is not looked at here
VMS = os.path.join(HOME, "data", "vms")


def boot():
    lodge("run", "--firmware", STAMP, "--memory", "64M", "--smp", "2", "--name", "a", "-d")
    wait_rounds("a", 1)
    return "a", "b"


def phase(name):
    try:
        return rpc(name, "migrate_status")["phase"]
    except (OSError, ValueError):
        return None  # it has just ended


def settled(here, there):
    """What has been told to end has ended."""
    wait_for(lambda: alive(here) != alive(there) or phase(here) == "lost")


def remove(name):
    """Behind a machine that has ended somebody clears up for a moment."""
    # 3: its lodge receive was killed when it had come: nobody knew that the place is kept
    until(f"lodge rm {name}", lambda: lodge("rm", name, ok=False).returncode in (0, 3), 20)


def lost(what, here, there, err):
    """In the one moment when nobody can tell from here. What the error says to do."""
    if "--take-back" not in err:
        check(f"{what}: it says what to do", False, err)
    if alive(there):
        lodge("kill", here)
    else:
        lodge("migrate", here, "--take-back")


def nothing_left(what, who):
    """But the machine's own place."""
    def left():
        return {f for f in os.listdir(TMP) if f.endswith(".sock")} | set(os.listdir(VMS)) - {who}

    until(f"{what}: nothing is left", lambda: not left() and who in os.listdir(VMS), 20, left)


def over(what, here, there, err):
    """Afterwards exactly one goes on; its name first."""
    if phase(here) == "lost":
        lost(what, here, there, err)
    if alive(here) == alive(there):
        check(f"{what}: exactly one lives", False, (err, lodge("ps").stdout))
    if alive(there):
        remove(here)
        here, there = there, here
    wait_rounds(here, 1)
    return here, there


def by_link(harm, n, here, there):
    r = Receive(there)
    m = Middle(r.at, random.randrange(n), harm)
    what = f"{harm} at byte {m.at}"
    p = start_move(here, m.address, *DONE)
    err = p.communicate(timeout=100 * SLOW)[1]
    if p.returncode and not alive(there):
        r.p.send_signal(signal.SIGINT)  # what is no migration is forgotten, and the next one waited for
    code, rout, rerr = r.end()
    if harm == "slow" or not m.done:
        check(f"{what}: it moves", p.returncode == 0 and code == 0, (err, rerr))
    elif p.returncode == 0 or (code == 0 and not alive(there)):
        check(f"{what}: is noticed", False, (p.returncode, code, err, rerr))
    now = over(what, here, there, err)
    nothing_left(what, now[0])
    return now


def by_hand(who, took, here, there):
    r = Receive(there)
    p = start_move(here, r.at, *DONE)
    wait = random.uniform(0, took)
    time.sleep(wait)
    what = f"{who} after {wait:.3f} s"
    sig = signal.SIGINT if who.startswith("Ctrl-C") else signal.SIGKILL
    victim = None
    try:
        victim = pid(here) if "source" in who else pid(there) if "destination" in who else p.pid if "migrate" in who else r.p.pid
        os.kill(victim, sig)
    except (OSError, ValueError):
        pass  # the move was over, or there is nobody yet
    err = p.communicate(timeout=100 * SLOW)[1]
    if "source" in who and victim:
        gone(victim)
    try:
        r.p.wait(3)
    except subprocess.TimeoutExpired:
        if not alive(there):
            r.p.send_signal(signal.SIGINT)  # a lodge migrate that was killed at once never came
    r.end()
    if "source" in who or "destination" in who:
        time.sleep(0.1)
        if not alive(here) and not alive(there):  # it was killed, as any machine can be
            for name in os.listdir(VMS):
                remove(name)
            return boot()
    settled(here, there)
    now = over(what, here, there, err or "--take-back")
    if os.path.exists(os.path.join(TMP, there + ".sock")) and "kill -9 of lodge receive" in who:
        os.unlink(os.path.join(TMP, there + ".sock"))  # nobody could; the next one to listen there does
    nothing_left(what, now[0])
    return now


here, there = boot()
began = time.monotonic()
r = Receive(there)
m = Middle(r.at, 1 << 62, "none")
p = start_move(here, m.address, *DONE)
p.communicate(timeout=100 * SLOW)
r.end()
took = time.monotonic() - began
check("a move without a fault", p.returncode == 0 and alive(there) and not alive(here))
here, there = over("no fault", here, there, "")
size = m.bytes
for harm in filter(lambda x: KINDS in x, ("flip", "cut", "lose", "repeat", "swap", "slow")):
    for _ in range(N):
        here, there = by_link(harm, size, here, there)
    check(f"{N} times {harm} within {size >> 10} KiB: the guest goes on on exactly one side, nothing is left of the other", True)
for who in filter(lambda x: KINDS in x, ("kill -9 of the destination", "kill -9 of the source", "kill -9 of lodge migrate", "kill -9 of lodge receive",
                                         "Ctrl-C to lodge migrate", "Ctrl-C to lodge receive")):
    for _ in range(N):
        here, there = by_hand(who, took, here, there)
    check(f"{N} times {who} within {took:.2f} s: the same", True)
lodge("kill", here)

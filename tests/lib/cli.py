"""cli.py: machines under test by the command line, as users have them.

    lodge("run", "-d", "--name", "a", ...)          ends the test when lodge fails; ok=False: does not
    wait_rounds("a", 2)                             the guest has gone over all its memory twice more

Everything lies in LODGE_HOME below $LODGE_TMP. `rounds` is for the guests that stamp every page and look at the stamps
(guest/common/stamp.c).
"""
import json
import os
import re
import subprocess
import time

from machine import HOME, LODGE, SLOW, check, wait_for

ENV = dict(os.environ, LODGE_HOME=HOME)


def lodge(*args, ok=True, seconds=100, **kw):
    p = subprocess.run([LODGE, *args], capture_output=True, text=True, env=ENV, timeout=seconds * SLOW, **{"stdin": subprocess.DEVNULL, **kw})
    if ok and p.returncode:
        check("lodge " + " ".join(args), False, p.stderr)
    return p


def until(what, f, seconds=60, detail=lambda: lodge("ps", "--json").stdout):
    """As wait_for(); ends the test when it does not come."""
    found = wait_for(f, seconds)
    if not found:
        check(what, False, detail())
    return found


def pid(name):
    return int(open(os.path.join(HOME, "run", name, "pid")).read())


def gone(p, seconds=10):
    """Whether a process ends in time."""
    return wait_for(lambda: not os.path.exists(f"/proc/{p}"), seconds)


def rounds(name):
    text = lodge("logs", name).stdout
    if "FAIL" in text:
        check(f"{name}: every page is as it was written", False, text[-300:])
    found = re.findall(r"rounds (\d+)", text)
    return int(found[-1]) if found else 0


def wait_rounds(name, more, seconds=60):
    first = rounds(name)
    until(f"{name} goes on", lambda: rounds(name) >= first + more, seconds, lambda: lodge("logs", name, "--machine").stdout[-800:])


def listens(port):
    """For the shell of a guest: goes on when somebody takes connections to that port there."""
    return f"until grep -qs ':{port:04X} [0-9A-F]*:0000 0A' /proc/net/tcp /proc/net/tcp6; do usleep 20000; done"


def clock_off(name):
    """By how many seconds a guest's clock is surely wrong: what asking takes is nobody's fault."""
    before = time.time()
    clock = int(json.loads(lodge("agent", "info", name, "--json").stdout)["clock_ns"]) / 1e9
    return max(0, before - clock, clock - time.time())

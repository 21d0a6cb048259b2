#!/usr/bin/env python3
# time-limit: 120
"""Memory is ready for the guest when it arrives: the host's tables are filled before it runs, the second-level map has as large leaves as it had. bench/arrive has
the figures, beside a destination where nothing is mapped; tests/system/balloon.py what must not be mapped."""
import contextlib
import json
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import SLOW, lodge, pid, until
from machine import BUILD, LODGE, TMP, check, skip, wait_for
from migration import Receive, start_move

SWEEP = os.path.join(BUILD, "guest", "beat-sweep.elf")
MIB = 256
if not os.path.exists(SWEEP):
    skip("riscv64-linux-gnu-gcc is not installed")


def sweeps(name):
    return len(re.findall(r"sweep \d+ us: \d+ \d+ \d+ \d+ \d+\n", lodge("logs", name).stdout))


def wait_sweeps(name, n):
    until(f"{name} reads its memory", lambda: sweeps(name) >= n, detail=lambda: lodge("logs", name).stdout[-300:])


def faults(name):
    return int(open(f"/proc/{pid(name)}/stat").read().rsplit(") ", 1)[1].split()[7])


def leaves(name):
    return json.loads(lodge("stats", name, "--json").stdout)["map"]


lodge("run", "--firmware", SWEEP, "--memory", f"{MIB}M", "--name", "a", "-d")
wait_sweeps("a", 2)
had = leaves("a")
check("the map has large leaves", had["leaves_2m"] + 512 * had["leaves_1g"] >= MIB // 2, had)
r = Receive("b")
lodge("pause", "a")
p = start_move("a", r.at)
out, err = p.communicate(timeout=60 * SLOW)
check("it moves", p.returncode == 0 and r.end()[0] == 0, err)
check("it has them there too", leaves("b") == had, (had, leaves("b")))


def threads():
    found = set()
    for t in os.listdir(f"/proc/{pid('b')}/task"):
        with contextlib.suppress(OSError):  # it has just ended
            found.add(open(f"/proc/{pid('b')}/task/{t}/comm").read().strip())
    return found


check("nobody waits for faults any more", wait_for(lambda: not {"uffd", "receive", "receive-n"} & threads()), threads())
before = faults("b")
lodge("resume", "b")
wait_sweeps("b", 4)
found = faults("b") - before
check(f"a guest that reads its {MIB * 256} pages three times finds them mapped: {found} faults", found < MIB * 256 // 64, found)

# ---- a host that is short of memory: after two calls it makes nothing ahead any more ----
SHORT = os.path.join(TMP, "short.so")
text = """#include <errno.h>
#include <linux/ioctl.h>
#include <linux/userfaultfd.h>
#include <sys/syscall.h>
#include <unistd.h>
int ioctl(int fd, unsigned long what, void *arg)
{
	static int calls;
	if (what != UFFDIO_COPY || __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) < 3)
		return (int)syscall(SYS_ioctl, fd, what, arg);
	errno = ENOMEM;
	return -1;
}
"""
subprocess.run(["cc", "-shared", "-fPIC", "-o", SHORT, "-xc", "-"], input=text, text=True, check=True)
r = Receive("c", program=("env", f"LD_PRELOAD={SHORT}", LODGE))
p = start_move("b", r.at)
out, err = p.communicate(timeout=60 * SLOW)
check("short of memory: it moves", p.returncode == 0 and r.end()[0] == 0, err)
wait_sweeps("c", sweeps("c") + 2)
said = lodge("logs", "c", "--machine").stdout
check("short of memory: it runs, and its log says so once", said.count("Cannot allocate memory: the rest is left to the first touch") == 1, said)
check("short of memory: the map is as it was", leaves("c") == had, (had, leaves("c")))
lodge("kill", "c")

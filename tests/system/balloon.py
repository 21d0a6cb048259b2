#!/usr/bin/env python3
# time-limit: 180
"""The balloon under Debian's kernel: the process's memory shrinks when the guest is asked to give memory back, and by free page
reporting without being asked; the guest's own figures; a target that makes no sense; a snapshot of what is given back meanwhile."""
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, lodge, pid
from migration import Receive, start_move
from machine import HOME, LODGE, SLOW, Failed, Machine, check, mini_image, wait_for

MIB = 1 << 20


def rss_mib(m):
    """Guest RAM in use by a machine or a process, from the kernel's own book-keeping: RAM is one shared memory file."""
    with open(f"/proc/{m if isinstance(m, int) else m.p.pid}/status") as f:
        return next(int(line.split()[1]) // 1024 for line in f if line.startswith("RssShmem:"))


def wait(m, f, seconds=40):
    """As wait_for(); the console is read meanwhile."""
    return wait_for(lambda: (m.pump(0.2), f())[1], seconds)


def settle(m, below, seconds):
    wait(m, lambda: rss_mib(m) < below, seconds)
    return rss_mib(m)


def at_rest(m):
    """What it comes to when nothing more is given back: the guest's kernel reports every two seconds."""
    least, end = rss_mib(m), time.monotonic() + 5 * SLOW
    while time.monotonic() < end:
        m.pump(0.2)
        if rss_mib(m) < least - 1:
            least, end = rss_mib(m), time.monotonic() + 5 * SLOW
    return rss_mib(m)


def balloon(m):
    return m.call("stats")["devices"]["balloon"]


im = mini_image()
# The guest does not clear what it then gives back: who is to hear of that is the balloon.
im["append"] += " init_on_alloc=0"
with Machine("--kernel", im["kernel"], "--initrd", im["initrd"], "--append", im["append"], "--memory", "512M", name="balloon") as m:
    m.expect(b"# ", 60)
    m.run("free -m")
    idle = at_rest(m)
    check("what it has not used is not there", idle < 200, idle)

    # Every page of a file in memory is touched, then the file goes: reporting must give those pages back.
    m.run("dd if=/dev/zero of=/run/big bs=1M count=180 2>/dev/null", 60)
    full = rss_mib(m)
    check("a guest that fills memory takes it from the host", full > idle + 150, (idle, full))
    m.run("rm /run/big")
    after = settle(m, idle + 60, 30)
    check(f"free page reporting gives it back without being asked ({full} -> {after} MiB)", after < idle + 60, (idle, full, after))
    check("and is counted", balloon(m)["reported_pages"] * 4096 > 100 * MIB, balloon(m))

    m.run("dd if=/dev/zero of=/run/big bs=1M count=120 2>/dev/null", 60)
    full = rss_mib(m)
    m.call("balloon", target=256 * MIB)
    wait(m, lambda: balloon(m)["actual_bytes"] >= 256 * MIB)
    b = balloon(m)
    check("a guest asked to keep 256 of 512 MiB gives 256 back", b["actual_bytes"] == 256 * MIB and b["refused_pages"] == 0, b)
    check("and keeps its file", "120" in m.run("ls -l /run/big | awk '{ print $5 / 1048576 }'"))
    check("its own figures came through the stats queue", wait(m, lambda: balloon(m)["guest"].get("total", 0) > 100 * MIB), balloon(m))
    check("memory of the host is within the target", rss_mib(m) < 256 + 16, rss_mib(m))
    m.call("balloon", target=512 * MIB)
    wait(m, lambda: not balloon(m)["actual_bytes"])
    check("asked to take all again, it does", balloon(m)["actual_bytes"] == 0, balloon(m))
    m.run("rm /run/big; dd if=/dev/zero of=/run/big bs=1M count=220 2>/dev/null", 60)
    check("and can use what it had given", rss_mib(m) > 220, rss_mib(m))

    try:
        m.call("balloon", target=1 << 40)
        check("a target above the machine's memory is refused", False)
    except Failed as e:
        check("a target above the machine's memory is refused", "512 MiB" in str(e), e)

    # A snapshot has what lay in pages that are given back while it is being written.
    given = 0
    m.run("rm /run/big")
    for attempt in range(10):
        m.run("head -c 150000000 /dev/urandom > /run/big", 60)
        digest = m.run("sha256sum < /run/big", 60).split()[0]
        p = subprocess.Popen([LODGE, "snapshot", "create", "balloon", "--name", "given", "--queue", "1M"], env=ENV)
        while p.poll() is None and m.call("snapshot_status")["state"] != "writing":
            pass
        m.type("rm /run/big\n")
        m.call("balloon", target=256 * MIB)
        while m.call("snapshot_status")["state"] == "writing":
            given = balloon(m)["actual_bytes"]
        check("the snapshot is whole", p.wait() == 0)
        m.call("balloon", target=512 * MIB)
        if given > 100 * MIB:
            break
        lodge("snapshot", "rm", "given")
        m.run("rm -f /run/big")
    check(f"{given // MIB} MiB were given back while it was being written", given > 100 * MIB)
    with Machine("--kernel", im["kernel"], "--initrd", im["initrd"], "--append", im["append"], "--memory", "512M", "--restore",
                 os.path.join(HOME, "data/snapshots/given.snap"), name="again") as a:
        check("what lay there is in it", digest in a.run("sha256sum < /run/big", 60), a.out[-300:])
    lodge("snapshot", "rm", "given")
    wait(m, lambda: not balloon(m)["actual_bytes"])

    # It moves with its balloon full: what the guest has given back does not come, and costs the destination nothing.
    m.run("rm -f /run/big")
    m.call("balloon", target=192 * MIB)
    wait(m, lambda: balloon(m)["actual_bytes"] >= 320 * MIB)
    was = rss_mib(m)
    r = Receive("there")
    p = start_move("balloon", r.at)
    out, err = p.communicate(timeout=60 * SLOW)
    check("it moves with its balloon full", p.returncode == 0 and r.end()[0] == 0, err)
    now = rss_mib(pid("there"))
    check(f"what the guest has given back is not there either ({was} -> {now} MiB)", now < was + 16 and now < 192 + 16, (was, now))
    st = json.loads(lodge("stats", "there", "--json").stdout)
    check("and the balloon is as large", st["devices"]["balloon"]["actual_bytes"] == 320 * MIB, st["devices"]["balloon"])
    lodge("kill", "there")

#!/usr/bin/env python3
# time-limit: 900
"""Stock Debian 13 with systemd, from Debian's packages: boots to a login with 1 and 4 vCPUs, is `running`, installs a package over user
networking, and powers off with 0; the power button does the same."""
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import LODGE, TMP, Machine, check, skip

for attempt in range(2):
    p = subprocess.run([LODGE, "image", "show", "debian", "--json"], capture_output=True, text=True)
    if not p.returncode:
        break
    q = subprocess.run([LODGE, "image", "pull", "debian"], capture_output=True, text=True)
    if q.returncode and ("network" in q.stderr or "resolve" in q.stderr or "connect" in q.stderr):
        skip("debian is not there and cannot be pulled (no network)")
    check("lodge image pull debian", q.returncode == 0, q.stderr.strip())
m = json.loads(p.stdout)
where = m.get("dir") or m.get("directory") or m.get("path")
file = lambda key: os.path.join(where, m[key])
disk = m["disk"]["file"]


def log_in(vm):
    vm.expect(b"login: ", 240)
    vm.type("root\n")
    vm.expect(b"# ", 60)
    vm.run("stty -echo; export PS1='# ' TERM=dumb")


for smp in (1, 4):
    mine = os.path.join(TMP, f"disk{smp}.raw")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", os.path.join(where, disk), mine], check=True)
    with Machine("--kernel", file("kernel"), "--initrd", file("initrd"), "--append", m["append"], "--memory", "1G", "--smp", str(smp), "--disk", f"{mine}:raw",
                 "--net", "user", name=f"debian{smp}") as vm:
        log_in(vm)
        check(f"{smp} vCPUs: boots to a login prompt", True)
        check(f"{smp} vCPUs: every vCPU is there", vm.run("nproc").strip().endswith(str(smp)))
        state = vm.run("systemctl is-system-running --wait", 240).strip()
        check(f"{smp} vCPUs: is-system-running", state.endswith("running"), state + vm.run("systemctl --failed --no-legend", 30))
        if smp == 1:
            out = vm.run("apt-get update -qq && apt-get install -y -qq hello >/dev/null && hello", 400)
            check("apt-get update, install hello, hello", "Hello, world!" in out, out[-600:])
            vm.type("poweroff\n")
            check(f"{smp} vCPUs: poweroff ends it with 0", vm.wait(120) == 0)
        else:
            vm.call("stop")
            check(f"{smp} vCPUs: the power button ends it with 0", vm.wait(120) == 0)
    p = subprocess.run(["/sbin/e2fsck", "-fn", mine], capture_output=True, text=True) if shutil.which("e2fsck", path="/sbin:/usr/sbin") else None
    if p:
        check(f"{smp} vCPUs: the file system is clean", p.returncode == 0, p.stdout[-300:])
    os.unlink(mine)

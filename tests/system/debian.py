#!/usr/bin/env python3
# time-limit: 900
"""Stock Debian 13 with systemd, from Debian's packages: boots to a login with 1, 2 and 4 vCPUs, is `running`, installs a package over user
networking, and powers off with 0; the power button does the same. Once interpreted, for comparison.
LODGE_JIT_PACKAGES=1: emulators and compilers that generate code run in it, too: QEMU's user mode and a JavaScript engine."""
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


# What generates code, inside: an emulator running this architecture's own programs, and V8. Their answers are known.
NODE = ("let s=0n; function f(n){return n<2?n:f(n-1)+f(n-2)}; for(let i=0;i<28;i++) s+=BigInt(f(i));"
        "let a=new Float64Array(1000); for(let k=0;k<300;k++) for(let i=0;i<1000;i++) a[i]=(a[i]+i*0.5)%977;"
        "let m=new Map(); for(let i=0;i<200000;i++) m.set(i%977,(m.get(i%977)||0)+i);"
        "console.log(s.toString(), a.reduce((x,y)=>x+y,0), [...m.values()].reduce((x,y)=>x+y,0))")


def packages(vm):
    out = vm.run("apt-get update -qq; apt-get install -y -qq --no-install-recommends nodejs qemu-user busybox-static >/dev/null 2>&1; command -v node qemu-riscv64 | wc -l", 1200)
    check("nodejs and qemu-user are installed", out.strip().endswith("2"), out[-600:])
    vm.run("echo '%s' > /tmp/t.js" % NODE)
    want = vm.run("node --jitless /tmp/t.js 2>/dev/null", 900).strip()
    got = [vm.run("node /tmp/t.js", 300).strip() for _ in range(5)]
    check("JavaScript, compiled five times and interpreted once, gives the same", want and got == [want] * 5, f"{want} {got}")
    work = "sh -c 'i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo $i; seq 1 5000 | sha256sum; seq 1 3000 | sort -r | md5sum'"
    want = vm.run(f"busybox {work}", 120).strip()
    got = vm.run(f"qemu-riscv64 /bin/busybox {work}", 900).strip()
    check("QEMU's user mode, in the guest, gives the same", want and got == want, f"{want} {got}")


for smp, engine in ((1, "rv64"), (2, "rv64"), (4, "rv64"), (2, "interp")):
    mine = os.path.join(TMP, f"disk{smp}.raw")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", os.path.join(where, disk), mine], check=True)
    os.chmod(mine, 0o600)  # the image's own may only be read
    with Machine("--kernel", file("kernel"), "--initrd", file("initrd"), "--append", m["append"], "--memory", "1G", "--smp", str(smp), "--disk", f"{mine}:raw",
                 "--net", "user", "--engine", engine, name=f"debian{smp}{engine}") as vm:
        log_in(vm)
        how = "" if engine == "rv64" else ", interpreted"
        check(f"{smp} vCPUs{how}: boots to a login prompt", True)
        check(f"{smp} vCPUs{how}: every vCPU is there", vm.run("nproc").strip().endswith(str(smp)))
        state = vm.run("systemctl is-system-running --wait", 240).strip()
        check(f"{smp} vCPUs{how}: is-system-running", state.endswith("running"), state + vm.run("systemctl --failed --no-legend", 30))
        if engine == "rv64" and smp <= 2:
            # As tests/system/memory.py has shown, what stats says is what the host's kernel says.
            own = vm.call("stats")["host"]["own_kib"]
            check(f"{smp} vCPUs: at most 32 MiB beside guest RAM", own <= 32 * 1024, f"{own} KiB")
        if smp == 1:
            out = vm.run("apt-get update -qq && apt-get install -y -qq hello >/dev/null && hello", 400)
            check("apt-get update, install hello, hello", "Hello, world!" in out, out[-600:])
        if engine == "rv64" and smp <= 2 and os.environ.get("LODGE_JIT_PACKAGES"):
            packages(vm)
        if smp == 1:
            vm.type("poweroff\n")
            check(f"{smp} vCPUs{how}: poweroff ends it with 0", vm.wait(120) == 0)
        else:
            vm.call("stop")
            check(f"{smp} vCPUs{how}: the power button ends it with 0", vm.wait(120) == 0)
    p = subprocess.run(["/sbin/e2fsck", "-fn", mine], capture_output=True, text=True) if shutil.which("e2fsck", path="/sbin:/usr/sbin") else None
    if p:
        check(f"{smp} vCPUs{how}: the file system is clean", p.returncode == 0, p.stdout[-300:])
    os.unlink(mine)

"""bench/run real: programs of Debian riscv64 on Lodge and on the peer.

`lodge image pull` makes a Debian with the packages below once, in a store of its own (the folder `bench` in Lodge's cache). Both machines boot
debian:mini and mount that disk read-only; the work (bench/real/) is done below a file system in memory, by the programs of the disk,
with each row run once before. What a row prints must be the same on both machines.
"""
import json
import os
import re
import subprocess
import tempfile
import time

import cpu
from console import Console, with_files

PACKAGES = "sqlite3,xz-utils,zstd,python3,perl,gcc,libc6-dev"
FIO = "fio"  # for bench/disk --rows guest
ROWS = ["sqlite3", "gzip", "xz", "zstd", "openssl", "speed-sha256", "speed-aes-128-cbc", "python3", "perl", "gcc"]
TIMES = re.compile(r"^TIMES ([0-9.]+) ([0-9.]+) ([0-9.]+)$", re.M)
MOUNT = ("modprobe ext4; mkdir -p /d && mount -t ext4 -o ro,noload /dev/vda /d && mount -t tmpfs tmp /d/tmp && mount -t proc proc /d/proc && "
         "mount --bind /dev /d/dev && cp /real/* /d/tmp && chmod +x /d/tmp/run && chroot /d /tmp/run setup")


def disk_image(build, needed=PACKAGES):
    """The disk, pulled with all of PACKAGES and FIO when it is not there yet or lacks what is needed."""
    cache = os.environ.get("XDG_CACHE_HOME") or ("/var/cache" if os.geteuid() == 0 else os.path.expanduser("~/.cache"))
    store = os.path.join(cache, "lodge", "bench")
    env = dict(os.environ, XDG_DATA_HOME=store)
    tool = f"{build}/src/cli/lodge"

    def show():
        p = subprocess.run([tool, "image", "show", "debian:trixie", "--json"], capture_output=True, text=True, env=env)
        m = json.loads(p.stdout) if not p.returncode else {"packages": []}
        return m if set(needed.split(",")) <= {p["name"] for p in m["packages"]} else None

    if not show():
        print("bench: making the image (once, some minutes)", flush=True)
        p = subprocess.run([tool, "image", "pull", "debian:trixie", "--size", "4G", "--with", f"{PACKAGES},{FIO}"], env=env, stdout=subprocess.DEVNULL)
        if p.returncode:
            raise SystemExit("bench: the image of the guest's programs cannot be pulled")
    m = show()
    return os.path.join(m.get("dir") or m.get("directory") or m.get("path"), m["disk"]["file"])


def run_row(vm, row, perf=None):
    host = []
    with cpu.recording(vm, perf):
        text, status = vm.run(f"chroot /d /tmp/run {row} 2>&1", 600, host)
    m = TIMES.search(text)
    if status or not m:
        raise SystemExit(f"bench: {vm.arm.name}: {row}: status {status}\n{text[-600:]}")
    wall, user, system = map(float, m.groups())
    f = {"check": TIMES.sub("", text), "n": 1, "wall_s": wall, "cpu_s": user + system, "host_s": host[0]}
    rate = re.search(r"SPEED (\d+) ([0-9.]+)", text)
    if rate:  # It ran for one second; what differs is how far it came.
        share, seconds = 67108864 / int(rate.group(1)), float(rate.group(2))
        f.update(cpu_s=share * seconds, wall_s=share * wall, host_s=share * host[0], check="")
    return f


def run(o, arms, image):
    """The suite. Returns (records, geometric means)."""
    wanted = [r for r in (o.rows or "").split(",") if r]
    if any(r not in ROWS for r in wanted):
        raise SystemExit(f"bench: rows of real: {', '.join(ROWS)}")
    rows = {r: "real" for r in ROWS if not wanted or r in wanted}
    disk = disk_image(o.build)
    plan = cpu.machines(o, rows)
    runs = {name: {} for _, names in plan for name in names.values()}
    began = time.monotonic()
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "real")
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        files = {"real": (0o040755, b"")}
        for name in sorted(os.listdir(here)):
            with open(os.path.join(here, name), "rb") as f:
                files[f"real/{name}"] = (0o100644, f.read())
        job = dict(image, initrd=with_files(image["initrd"], files, os.path.join(home, "initrd")), memory=768, disk=disk)
        for repeat in range(o.repeats):
            for smp, names in plan:
                for arm in arms:
                    with Console(arm, dict(job, smp=smp)) as vm:
                        text, status = vm.run(f"{MOUNT} {' '.join(r for r in rows if '-' not in r)}", 600)
                        if status or "fails" in text:
                            raise SystemExit(f"bench: {arm.name}: no Debian in the guest\n{text[-800:]}")
                        for row, name in names.items():
                            perf = (o.perf if len(rows) == 1 else f"{o.perf}.{row}") if o.perf and arm is arms[0] and smp == plan[0][0] else None
                            f = run_row(vm, row, perf)
                            runs[name].setdefault(arm.name, []).append(f)
                            if o.verbose:
                                print(f"  {repeat + 1} {arm.name:<9} {name:<20} cpu {f['cpu_s']:8.3f} s  wall {f['wall_s']:8.3f} s  host {f['host_s']:8.3f} s", flush=True)
    cpu.judge(runs)
    records = cpu.table(o, arms, rows, runs, "real")
    means = cpu.means(o, arms, records)
    print(f"({time.monotonic() - began:.0f} s)")
    return records, means

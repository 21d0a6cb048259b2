"""bench/run cpu: the rows of guest/bench on Lodge, on the peer and natively.

Each machine is booted once a repeat and runs all rows, one command each, typed at its console. The program measures itself: CPU
seconds (of its processes and threads, as the guest's kernel counts them) and wall seconds by the guest's clock, around the work alone.
The host's CPU seconds of the whole VMM from command to answer are kept beside them: they include what a VMM does on other threads,
and are what is left to go by when the host is busy with something else.
"""
import contextlib
import math
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import tempfile
import time

from console import Console, with_files

LINE = re.compile(r"BENCH (\S+) n=(\d+) check=([0-9a-f]{16}) cpu=([0-9.]+) wall=([0-9.]+)")
TWO_VCPUS = {"atomics2"}
SCALING = {"coremix": 4, "hashing": 4, "faults": 4}  # row: times its work
TITLES = {"all": "all rows", "int": "integer rows", "fp": "floating point rows", "mem": "memory rows", "sys": "system rows", "code": "code rows", "real": "real programs"}


def parse(text, row, who):
    m = LINE.search(text)
    if not m or m.group(1) != row:
        raise SystemExit(f"bench: {who}: {row}: no figures\n{text[-600:]}")
    return {"n": int(m.group(2)), "check": m.group(3), "cpu_s": float(m.group(4)), "wall_s": float(m.group(5))}


def row_list(program, wanted):
    text = subprocess.run([program, "list"], capture_output=True, text=True, check=True).stdout
    kinds = dict(line.split() for line in text.splitlines())
    unknown = [r for r in wanted if r not in kinds and r not in kinds.values() and r not in ("all", "scaling")]
    if unknown:
        raise SystemExit(f"bench: no such row: {', '.join(unknown)}; there are: {', '.join(kinds)}; or a kind: {', '.join(sorted(set(kinds.values())))}; or scaling")
    return {r: k for r, k in kinds.items() if not wanted or "all" in wanted or r in wanted or k in wanted}


def run_native(program, row, scale):
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    p = subprocess.run([program, row, str(scale)], capture_output=True, text=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = parse(p.stdout + p.stderr, row, "native")
    figures["host_s"] = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return figures


@contextlib.contextmanager
def recording(vm, perf):
    """`perf record` of the VMM's process into the file `perf`, if there is one."""
    if not perf:
        yield
        return
    recorder = subprocess.Popen(["perf", "record", "-q", "-g", "-F", "997", "-p", str(vm.p.pid), "-o", perf], stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    try:
        yield
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.wait()


def run_guest(vm, row, scale, perf=None):
    cpu = []
    with recording(vm, perf):
        text, status = vm.run(f"/bench {row} {scale}", 600, cpu)
    if status:
        raise SystemExit(f"bench: {vm.arm.name}: {row}: status {status}\n{text[-600:]}")
    figures = parse(text, row, vm.arm.name)
    figures["host_s"] = cpu[0]
    return figures


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": values}


def geomean(values):
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else None


def guest_initrd(o, image, home):
    """The image's initial RAM file system with the guest's program as /bench."""
    with open(os.path.join(o.build, "guest/bench/bench-rv64"), "rb") as f:
        return with_files(image["initrd"], {"bench": (0o100755, f.read())}, os.path.join(home, "initrd"))


def machines(o, rows, two=()):
    """[(vCPUs, {row: its name there})]: each row on one vCPU and on two, as o.vcpus says; those of `two` need two."""
    plan = [(1, {r: r for r in rows if r not in two})] if "1" in o.vcpus else []
    more = {r: r if r in two else f"{r}@2" for r in rows if r in two or "2" in o.vcpus}
    return [(smp, names) for smp, names in plan + [(2, more)] if names]


def collect(o, arms, rows, image, native):
    """{row's name: {arm's name: [figures of each repeat]}}"""
    plan = machines(o, rows, TWO_VCPUS)
    runs = {name: {} for _, names in plan for name in names.values()}
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        job = dict(image, initrd=guest_initrd(o, image, home), memory=512)
        for repeat in range(o.repeats):
            for row in rows if native else ():
                f = run_native(native, row, o.scale)
                for _, names in plan:
                    if row in names:
                        runs[names[row]].setdefault("native", []).append(f)
            for smp, names in plan:
                for arm in arms:
                    with Console(arm, dict(job, smp=smp)) as vm:
                        for row, name in names.items():
                            perf = f"{o.perf}.{row}" if o.perf and len(rows) > 1 else o.perf
                            f = run_guest(vm, row, o.scale, perf if arm is arms[0] and not repeat else None)
                            runs[name].setdefault(arm.name, []).append(f)
                            if o.verbose:
                                print(f"  {repeat + 1} {arm.name:<9} {name:<13} cpu {f['cpu_s']:8.3f} s  wall {f['wall_s']:8.3f} s  host {f['host_s']:8.3f} s", flush=True)
    return runs


def native_pair(program, row, scale):
    """Two processes at once natively, beside one: [by the clock, by CPU seconds]. Less than 2 where the host's cores are two threads of one."""
    alone = run_native(program, row, scale)
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    pair = [subprocess.Popen([program, row, str(scale)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    walls = [parse(p.communicate()[0], row, "native")["wall_s"] for p in pair]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 2 * alone["wall_s"] / max(walls), 4 * alone["host_s"] / (ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)


def scaling(o, arms, image, native):
    """
    Two processes at once on two vCPUs, beside one: how many times the work is done in the same time. Returns records. By the host's CPU seconds,
    too: what it would be if both vCPUs always had a core, which on a busy host they have not; waiting does not show there.
    Natively the same: what the host's two cores give together, which no machine on them can surpass for the same kind of work.
    """
    values = {f"{row}{by}": {a: [] for a in [a.name for a in arms] + (["native"] if native else [])} for row in SCALING for by in ("", "-cpu")}
    print("scaling: two independent processes on 2 vCPUs beside one, times the work", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        job = dict(image, initrd=guest_initrd(o, image, home), memory=512, smp=2)
        for _ in range(o.repeats):
            for row, times in SCALING.items() if native else ():
                wall, cpu = native_pair(native, row, 4 * o.scale * times)
                values[row]["native"].append(wall)
                values[f"{row}-cpu"]["native"].append(cpu)
            for arm in arms:
                with Console(arm, job) as vm:
                    for row, times in SCALING.items():
                        run_guest(vm, row, o.scale)  # its code is translated
                        alone = run_guest(vm, row, o.scale * times)
                        both = []
                        text, _ = vm.run(f"/bench {row} {o.scale * times} & /bench {row} {o.scale * times}; wait", 600, both)
                        walls = [float(m.group(5)) for m in LINE.finditer(text) if m.group(3) == alone["check"]]
                        if len(walls) != 2:
                            raise SystemExit(f"bench: {arm.name}: scaling of {row}: two answers were to come\n{text[-600:]}")
                        values[row][arm.name].append(2 * alone["wall_s"] / max(walls))
                        values[f"{row}-cpu"][arm.name].append(4 * alone["host_s"] / both[0])
    records = []
    for row, of in values.items():
        r = {"row": f"scaling-{row}", "kind": "scaling", "figure": "scaling", "unit": "x", "better": "more", "suite": "cpu",
             "arms": {a: summary(v) for a, v in of.items()}}
        if len(arms) > 1:
            r["ratio"] = r["arms"][arms[0].name]["median"] / r["arms"][arms[1].name]["median"]
        print(f"  {row:<16} " + "  ".join(f"{a} {v['median']:.2f} ({v['min']:.2f}..{v['max']:.2f})" for a, v in r["arms"].items()), flush=True)
        records.append(r)
    return records


def judge(runs):
    for row in runs:
        checks = {(f["n"], f["check"]) for fs in runs[row].values() for f in fs}
        if len(checks) > 1:
            found = {a: sorted({f["check"] for f in fs}) for a, fs in runs[row].items()}
            raise SystemExit(f"bench: {row}: the machines computed different things: {found}")


def table(o, arms, rows, runs, suite):
    """Prints the rows and returns them as records for the JSON."""
    key, out = {"cpu": "cpu_s", "wall": "wall_s", "host": "host_s"}[o.figure], []
    lodge, peer = arms[0].name, arms[1].name if len(arms) > 1 else None
    print(f"{'row':<18} {'kind':<5} {'native s':>9} {lodge + ' s':>22} {peer + ' s' if peer else '':>22} {'x native':>9} {'peer x':>7} {'faster':>7}")
    for row in runs:
        kind = rows[row.split("@")[0]]
        record = {"row": row, "kind": kind, "vcpus": 2 if row.endswith("@2") or row in TWO_VCPUS else 1, "figure": key, "unit": "s", "better": "less", "suite": suite,
                  "arms": {a: summary([f[key] for f in fs]) for a, fs in runs[row].items()},
                  "also": {a: {k: summary([f[k] for f in fs]) for k in ("cpu_s", "wall_s", "host_s")} for a, fs in runs[row].items()}}
        median = {a: s["median"] for a, s in record["arms"].items()}
        if "native" in median and median["native"] > 0:
            record["slowdown"] = {a: m / median["native"] for a, m in median.items() if a != "native"}
        if peer and median[peer] > 0:
            record["ratio"] = median[lodge] / median[peer]
        span = lambda a: f"{median[a]:.3f} ({record['arms'][a]['min']:.3f}..{record['arms'][a]['max']:.3f})" if a in median else ""
        slow = record.get("slowdown", {})
        number = lambda v, form: format(v, form) if v else ""
        print(f"{row:<18} {kind:<5} {number(median.get('native'), '9.4f'):>9} {span(lodge):>22} {span(peer) if peer else '':>22} "
              f"{number(slow.get(lodge), '.1f'):>9} {number(slow.get(peer), '.1f'):>7} {number(1 / record['ratio'] if 'ratio' in record else None, '.2f'):>7}", flush=True)
        out.append(record)
    return out


def means(o, arms, records):
    ones = [r for r in records if not r["row"].endswith("@2")]
    twos = [r for r in records if r["vcpus"] == 2]
    return means_of(arms, ones, "") + (means_of(arms, twos, ", 2 vCPUs") if len(ones) < len(records) else [])


def means_of(arms, records, where):
    out = []
    for kind, title in TITLES.items():
        mine = [r for r in records if kind in ("all", r["kind"])]
        if not mine or (kind == "all" and len(mine) > 1 and len({r["kind"] for r in mine}) == 1):
            continue
        m = {"mean": kind + where, "rows": len(mine), "faster_than_peer": geomean([1 / r["ratio"] for r in mine if "ratio" in r]),
             "slowdown": {a.name: geomean([r["slowdown"][a.name] for r in mine if "slowdown" in r]) for a in arms}}
        text = [f"{a}: {v:.2f} times native" for a, v in m["slowdown"].items() if v]
        if m["faster_than_peer"]:
            text.append(f"Lodge {m['faster_than_peer']:.2f} times as fast as the peer")
        if not text:
            continue
        print(f"geometric mean, {title}{where} ({len(mine)}): " + ", ".join(text))
        out.append(m)
    return out


def run(o, arms, image):
    """The suite. Returns (records, geometric means)."""
    native = os.path.join(o.build, "guest/bench/bench-native")
    guest = os.path.join(o.build, "guest/bench/bench-rv64")
    if not os.path.exists(guest) or not os.path.exists(native):
        raise SystemExit("bench: guest/bench is not built: it needs gcc, riscv64-linux-gnu-gcc and libc6-dev-riscv64-cross (tools/setup --test)")
    if o.perf and not shutil.which("perf"):
        raise SystemExit("bench: --perf needs the program perf (package linux-perf)")
    wanted = [r for r in (o.rows or "").split(",") if r]
    rows = row_list(native, wanted) if wanted != ["scaling"] else {}
    began = time.monotonic()
    records, result = [], []
    if rows:
        runs = collect(o, arms, rows, image, None if o.no_native else native)
        judge(runs)
        records = table(o, arms, rows, runs, "cpu")
        result = means(o, arms, records)
    if "scaling" in wanted or not wanted:
        records += scaling(o, arms, image, None if o.no_native else native)
    print(f"({time.monotonic() - began:.0f} s)")
    return records, result

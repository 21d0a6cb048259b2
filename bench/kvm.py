"""The kvm engine beside QEMU's microvm on the same KVM: start, exits by kind, memory. One bare guest (guest/x86/exits.c) on both.

The host takes the time of each letter that comes out of the guest's serial port. `start` is from the start of the process to the letter that the
guest's first instructions write. An exit's cost is the time between two letters over the number of exits between them, less that of the
same loop without exits.
"""
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

from cpu import summary

EXITS = 20000
KINDS = ["pio_device", "pio_nobody", "mmio", "loop"]


def one_run(argv, own_kib):
    home = tempfile.mkdtemp(prefix="bench-")
    began = time.monotonic()
    p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ, LODGE_HOME=home))
    at, text = [], b""
    try:
        while b"END" not in text:
            if not select.select([p.stdout], [], [], 30)[0]:
                raise SystemExit(f"bench: {argv[0]}: nothing for 30 s after {text!r}")
            chunk = os.read(p.stdout.fileno(), 64)
            if not chunk:
                raise SystemExit(f"bench: {argv[0]}: ended after {text!r}")
            at += [time.monotonic()] * len(chunk)
            text += chunk
        if text[:9] != b"Sabababab":
            raise SystemExit(f"bench: {argv[0]}: the guest said {text!r}")
        spans = [at[2 + 2 * i] - at[1 + 2 * i] for i in range(len(KINDS))]
        figures = {kind + "_us": (spans[i] - spans[-1]) / EXITS * 1e6 for i, kind in enumerate(KINDS[:-1])}
        figures["start_ms"] = (at[0] - began) * 1e3
        figures["own_mib"] = own_kib(p.pid) / 1024
        return figures
    finally:
        p.send_signal(signal.SIGTERM)
        try:
            p.wait(5)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
        shutil.rmtree(home, ignore_errors=True)


def run(o, own_kib):
    """Rows and no means, as the other suites give them. Nothing where there is no /dev/kvm or no such guest."""
    guest = f"{o.build}/guest/x86/exits.elf"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or not os.path.exists(guest):
        print("kvm: left out: " + ("this build has no " + guest if os.access("/dev/kvm", os.R_OK | os.W_OK) else "/dev/kvm is not there, or not ours"))
        return [], []
    arms = {"Lodge": [f"{o.build}/src/vm/lodge-vm", "--engine", "kvm", "--memory", "64M", "--kernel", guest]}
    peer = shutil.which("qemu-system-x86_64")
    if peer and not o.no_peer:
        arms["QEMU microvm"] = [peer, "-M", "microvm,pcie=on,acpi=on,memory-backend=ram", "-accel", "kvm", "-m", "64M",
                                "-object", "memory-backend-memfd,id=ram,size=64M,share=on", "-nodefaults", "-display", "none",
                                "-no-reboot", "-serial", "stdio", "-kernel", guest]
    runs = {name: [] for name in arms}
    print("kvm: a bare guest, beside QEMU's microvm on the same /dev/kvm (guest/x86/exits.c)", flush=True)
    for _ in range(o.repeats):
        for name, argv in arms.items():
            runs[name].append(one_run(argv, own_kib))
    rows = []
    for key, unit in (("start_ms", "ms"), *((k + "_us", "us") for k in KINDS[:-1]), ("own_mib", "MiB")):
        row = {"row": "kvm", "figure": key, "unit": unit, "better": "less", "arms": {n: summary([r[key] for r in rs]) for n, rs in runs.items()}}
        if len(arms) == 2 and row["arms"]["QEMU microvm"]["median"] > 0:
            row["ratio"] = row["arms"]["Lodge"]["median"] / row["arms"]["QEMU microvm"]["median"]
        rows.append(row)
        text = "  ".join(f"{n} {s['median']:.3g} ({s['min']:.3g}..{s['max']:.3g})" for n, s in row["arms"].items())
        print(f"  {key:<14} {unit:<4} {text}  " + (f"ratio {row['ratio']:.2f}" if "ratio" in row else ""), flush=True)
    return rows, []

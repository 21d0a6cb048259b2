#!/usr/bin/env python3
# time-limit: 120
"""The ACPI tables of the `pc` board: iasl takes them apart and puts them together again without a word, and ACPICA runs what is in them."""
import os
import re
import shutil
import subprocess
import sys

TOOL = os.path.join(os.environ["LODGE_BUILD"], "tests/tools/pc-acpi")
SHAPES = [
    # vCPUs, nodes, memory, form, step of APIC ids
    ("1", "1", "64M", "reduced", "1"),
    ("4", "2", "5G", "reduced", "1"),
    ("5", "3", "3G", "reduced", "2"),
    ("128", "8", "64G", "reduced", "2"),
    ("128", "8", "64G", "reduced", "4"),
    ("2", "1", "1G", "full", "1"),
    ("8", "4", "16G", "full", "1"),
]
failed = 0


def check(ok, what, detail=""):
    global failed
    print(f"{'PASS' if ok else 'FAIL'}: {what}{'' if ok else ': ' + detail}")
    failed += not ok
    return ok


def run(*argv, cwd=None):
    p = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=60)
    return p.returncode, p.stdout + p.stderr


def complaints(text):
    """Lines of ACPICA that say more than "0 Errors, 0 Warnings, 0 Remarks"."""
    return [l for l in text.splitlines()
            if re.search(r"error|warning|remark", l, re.I) and not re.search(r"0 Errors, 0 Warnings, 0 Remarks", l)]


# What acpiexec says of itself: registers that a machine need not have, _SRS of devices that have none, work in other threads at its end.
OWN = r"aetests-|AcpiSetCurrentResources failed: AE_NOT_FOUND|Outstanding cache allocations"


def compile_again(where, name):
    code, text = run("iasl", "-d", name + ".dat", cwd=where)
    bad = complaints(text)
    if code or bad or not os.path.exists(f"{where}/{name}.dsl"):
        return f"{name}: iasl -d: {bad or text}"
    code, text = run("iasl", "-vs", "-oa", "-p", "again-" + name, name + ".dsl", cwd=where)
    bad = complaints(text)
    if code or bad:
        return f"{name}: iasl: {bad or text}"
    # The same bytes come out: what the disassembler understood is what was meant (header fields of the compiler left out).
    old, new = (open(f"{where}/{f}", "rb").read() for f in (name + ".dat", f"again-{name}.aml"))
    old, new = (b[:9] + b[10:28] + b[36:] for b in (old, new))
    return None if old == new else f"{name}: {len(new)} bytes come out, {len(old)} went in, or others"


def acpica(where, tables, what):
    """Loads the tables and runs commands of ACPICA's debugger."""
    # Its threads are not always ready at its start, nor done when it takes the namespace down at its end: then it is asked again. Tables that are
    # wrong are wrong each time.
    for _ in range(3):
        code, text = run("acpiexec", "-b", ";".join(what + ["quit"]), *[t + ".dat" for t in tables], cwd=where)
        bad = [l for l in text.splitlines() if re.search(r"ACPI (Error|Warning|BIOS)|AE_|failed", l) and not re.search(OWN, l)]
        if not code and not bad:
            break
    return ("" if code == 0 else f"ends with {code}; ") + "; ".join(bad[:3]), text


def one(shape):
    cpus, nodes, memory, form, step = shape
    name = f"{cpus} vCPUs, {nodes} nodes, {memory}, {form}, APIC ids by {step}"
    where = os.path.abspath("t-" + "-".join(shape))
    os.makedirs(where)
    code, text = run(TOOL, where, *shape)
    if not check(code == 0, f"{name}: tables are made", text):
        return
    tables = sorted(f[:-4] for f in os.listdir(where) if f.endswith(".dat"))
    want = ["apic", "dsdt", "facp", "mcfg", "rsdp", "srat", "xsdt"]
    want += ["facs"] if form == "full" else []
    want += ["slit"] if nodes != "1" else []
    check(tables == sorted(want), f"{name}: all tables are there", str(tables))
    bad = [b for b in (compile_again(where, t) for t in tables if t not in ("facs", "rsdp")) if b]
    check(not bad, f"{name}: iasl takes each apart and makes the same bytes again", "; ".join(bad))
    bad, text = acpica(where, [t for t in tables if t not in ("rsdp", "xsdt", "facs")], [
        "execute \\_SB.PCI0._PRT", "execute \\_SB.C000._STA", "execute \\_SB.LNKC._STA",
        "execute \\_SB.GED._EVT 9", "resources \\_SB.PCI0", "resources \\_SB.COM1", "resources \\_SB.RTC",
        "resources \\_SB.GED", "resources \\_SB.MRES", "resources \\_SB.LNKA", "notify \\_SB.PWRB 0x80"])
    check(not bad, f"{name}: ACPICA loads them and runs _PRT, _CRS, _STA, _EVT", bad)
    check("Address Minimum : C0000000" in text and "Address Minimum : 03F8" in text and "[Integer] = 000000000000000F" in text,
          f"{name}: ACPICA reads the PCI window, the serial port and _STA", text[-2000:])


if not shutil.which("iasl") or not shutil.which("acpiexec"):
    print("SKIP: acpica-tools is not installed")
    sys.exit(0)
for s in SHAPES:
    one(s)
sys.exit(failed > 0)

#!/usr/bin/env python3
# time-limit: 420
"""Debian's amd64 kernels on this host's KVM: 6.12 and 6.1, as bzImages. Where KVM runs kernel code on hardware they come to a shell. Where it
interprets ring 0 they come as far as it goes, and the reason of the end is an instruction that it cannot emulate, with its bytes."""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import LODGE, check, skip

APPEND = "loglevel=8 earlyprintk=ttyS0,115200 nokaslr noxsave init_on_alloc=0 mitigations=off"
# What the log of 6.1 must have before the end that an interpreted ring 0 leads to.
EARLY = (r"Linux version 6\.1", r"BIOS-e820: \[mem 0x00000000000e0000-0x00000000000effff\] ACPI data", r"Hypervisor detected: KVM",
         r"ACPI: RSDP 0x00000000000E0000", r"ACPI: FACP .*LODGE", r"ACPI: DSDT .*LODGE", r"ACPI: MCFG .*LODGE",
         r"ACPI: SRAT: Node 0 PXM 0", r"ACPI: SRAT: Node 1 PXM 1")
BAD = r"ACPI (BIOS )?(Error|Warning|Exception)|ACPI BIOS Bug|\[Firmware (Bug|Warn)"
SLOW = float(os.environ.get("LODGE_SLOW", "1"))

if not os.access("/dev/kvm", os.R_OK | os.W_OK):
    skip("/dev/kvm is not here or may not be used")


def image(name):
    for attempt in range(2):
        p = subprocess.run([LODGE, "image", "show", name, "--json"], capture_output=True, text=True)
        if not p.returncode:
            return
        q = subprocess.run([LODGE, "image", "pull", name], capture_output=True, text=True)
        if q.returncode and re.search("network|resolve|connect", q.stderr):
            skip(f"{name} is not here and cannot be pulled (no network)")
        check(f"lodge image pull {name}", q.returncode == 0, q.stderr.strip())


class Vm:
    """A machine in the background; console and errors are read where lodge keeps them."""

    def __init__(self, name, image, *more):
        self.name = name
        p = subprocess.run([LODGE, "run", "-d", "--name", name, "--engine", "kvm", "--memory", "512M", "--nodes", "2", "--smp", "2",
                            "--append", APPEND, *more, image], capture_output=True, text=True)
        check(f"{image}: starts", p.returncode == 0, p.stderr)

    def console(self):
        p = subprocess.run([LODGE, "logs", self.name], capture_output=True, text=True, errors="replace")
        return p.stdout.replace("\r", "")

    def error(self):
        p = subprocess.run([LODGE, "logs", "--machine", self.name], capture_output=True, text=True, errors="replace")
        m = re.findall(r"cannot emulate.*instruction bytes ([0-9a-f ]+)", p.stdout)
        return m[0] if m else None

    def follow(self, patterns, seconds):
        """Until the log has all patterns, or the machine has stopped, or the time is over. What is missing."""
        end = time.monotonic() + seconds * SLOW
        while True:
            text, error = self.console(), self.error()
            missing = [p for p in patterns if not re.search(p, text)]
            if not missing or error or time.monotonic() > end:
                return missing, text, error
            time.sleep(2)

    def kill(self):
        subprocess.run([LODGE, "kill", self.name], capture_output=True)


image("debian:mini-amd64")
image("debian:mini-bookworm-amd64")
vm = Vm("trixie", "debian:mini-amd64")
try:
    missing, text, error = vm.follow([r"lodge:~# "], 60)
    check("6.12: comes to a shell, or stops in its decompressor at an instruction that is named",
          not missing or error is not None, text[-500:])
    interpreted = bool(missing)
    print(f"PASS: 6.12: {'stopped at ' + error if interpreted else 'a shell'}")
finally:
    vm.kill()
vm = Vm("bookworm", "debian:mini-bookworm-amd64")
try:
    missing, text, error = vm.follow(EARLY if interpreted else [r"lodge:~# "], 300)
    check("6.1: memory map, ACPI tables, nodes" if interpreted else "6.1: comes to a shell", not missing, f"{missing} {error} {text[-500:]}")
    check("6.1: the kernel has nothing against the tables", not re.search(BAD, text), "; ".join(l for l in text.splitlines() if re.search(BAD, l)))
    if not interpreted:
        check("6.1: PCI and virtio devices", "virtio-pci 0000:00:01.0" in text or "virtio" in text, text[-500:])
    p = subprocess.run([LODGE, "inspect", "bookworm", "--acpi", "acpi"], capture_output=True, text=True)
    check("lodge inspect writes the tables", p.returncode == 0 and os.path.exists("acpi/dsdt.dat"), p.stderr)
    if subprocess.run(["which", "iasl"], capture_output=True).returncode == 0:
        q = subprocess.run("iasl -d dsdt.dat && iasl -vs dsdt.dsl", shell=True, cwd="acpi", capture_output=True, text=True)
        check("the running machine's DSDT compiles without a word", q.returncode == 0 and "0 Errors, 0 Warnings, 0 Remarks" in q.stdout, q.stdout)
finally:
    vm.kill()

#!/usr/bin/env python3
# time-limit: 300
"""QEMU as a witness of the `pc` board's tables and boot state: its microvm board has the same map, and Debian's amd64 kernels boot there, under
TCG, with what Lodge puts into memory: kernel, zero page, ACPI tables. Nothing of QEMU's own firmware or tables is used (tests/lib/witness.py).
To a shell with the kernels of Debian 12 and 13; LODGE_WITNESS_FULL=1: to a login of the whole system, too, which takes some ten minutes."""
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
import witness
from machine import LODGE, check, skip

SLOW = float(os.environ.get("LODGE_SLOW", "1"))


def image(name):
    """The manifest of an image; pulled where it is not here."""
    for attempt in range(2):
        p = subprocess.run([LODGE, "image", "show", name, "--json"], capture_output=True, text=True)
        if not p.returncode:
            return json.loads(p.stdout)
        # The witness configures the whole system's packages, too: no KVM has to run kernels here.
        q = subprocess.run([LODGE, "image", "pull", name, "--machine", os.path.join(witness.TOP, "tests/witness/machine")], capture_output=True, text=True)
        if q.returncode and re.search("network|resolve|connect", q.stderr):
            skip(f"{name} is not here and cannot be pulled (no network)")
        check(f"lodge image pull {name}", q.returncode == 0, q.stderr.strip())
    sys.exit(1)


class Qemu:
    def __init__(self, where, memory, cpus, disk):
        self.text = b""
        argv = witness.argv(where, memory, cpus, disk, "-serial", f"unix:{where}/serial,server=on,wait=on",
                            "-monitor", f"unix:{where}/monitor,server=on,wait=off")
        self.p = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self.serial = self.dial(f"{where}/serial")
        self.monitor = self.dial(f"{where}/monitor")

    def dial(self, path):
        s = socket.socket(socket.AF_UNIX)
        for _ in range(200):
            try:
                s.connect(path)
                return s
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"FAIL: QEMU does not listen on {path}")

    def expect(self, pattern, seconds):
        """Reads until the pattern comes; what came up to it, or None."""
        end = time.monotonic() + seconds * SLOW
        while time.monotonic() < end:
            m = re.search(pattern, self.text)
            if m:
                out, self.text = self.text[:m.end()], self.text[m.end():]
                return out.decode(errors="replace")
            if select.select([self.serial], [], [], 1)[0]:
                more = self.serial.recv(65536)
                if not more:
                    return None
                self.text += more
        return None

    def run(self, line, seconds=60):
        self.serial.sendall(f"{line}; echo END''-$?\n".encode())
        out = self.expect(rb"END-\d+\r?\n", seconds)
        return re.sub(r"END-\d+\s*$", "", out or "").replace("\r", "")

    def ended(self, seconds):
        """What it says meanwhile is read: a guest whose serial port is full would wait for us."""
        self.expect(rb"a line that does not come", seconds)
        try:
            return self.p.wait(10)
        except subprocess.TimeoutExpired:
            return None

    def close(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()


def prepare(name, m, memory, cpus, nodes, append):
    where = os.path.abspath("w-" + name.replace(":", "-"))
    os.makedirs(where)
    file = lambda key: os.path.join(m["directory"], m[key])
    p = witness.image(where, file("kernel"), file("initrd"), memory, cpus, nodes, append)
    check(f"{name}: what the board puts into memory is written", p.returncode == 0, p.stderr)
    return where


def looks(vm, name, nodes):
    """What the guest says of its tables."""
    log = vm.run("dmesg")
    bad = [l for l in log.splitlines()
           if re.search(r"ACPI (BIOS )?(Error|Warning|Exception)|ACPI BIOS Bug|\[Firmware (Bug|Warn)|AE_[A-Z_]+", l)]
    check(f"{name}: the kernel has nothing against the tables", len(log) > 5000 and not bad, "; ".join(bad[:3]) or log[-300:])
    for table in ("RSDP", "XSDT", "FACP", "DSDT", "APIC", "MCFG", "SRAT", "SLIT"):
        if not re.search(rf"ACPI: {table} 0x[0-9A-Fa-f]+ .*LODGE", log):
            check(f"{name}: table {table} is found", False)
    check(f"{name}: ECAM comes from the MCFG", re.search(r"(ECAM|MMCONFIG).*\[mem 0xe0000000-0xefffffff\]", log) is not None)
    check(f"{name}: the host bridge's windows come from _CRS",
          "root bus resource [mem 0xc0000000-0xdfffffff window]" in log and "root bus resource [io  0x1000-0xffff window]" in log)
    check(f"{name}: interrupt links are routed", "Interrupt link LNKA configured for IRQ 12" in log)
    check(f"{name}: _OSC grants what it should", "OS now controls [PME PCIeCapability]" in log)
    check(f"{name}: clock and serial port are PNP devices", "rtc_cmos 00:" in log and re.search(r"00:0\d: ttyS0 at I/O 0x3f8", log) is not None)
    check(f"{name}: {nodes} nodes of the SRAT", f"0-{nodes - 1}" in vm.run("cat /sys/devices/system/node/online"))
    check(f"{name}: distances of the SLIT", "10 20" in vm.run("cat /sys/devices/system/node/node0/distance"))
    found = vm.run("ls /sys/bus/acpi/devices")
    check(f"{name}: power button, event device, processors, bridge in the name space",
          all(d in found for d in ("PNP0C0C:00", "ACPI0013:00", "ACPI0007:01", "PNP0A08:00", "PNP0C0F:03")), found)
    pci = vm.run("cat /sys/bus/pci/devices/*/vendor /sys/bus/virtio/devices/*/device")
    check(f"{name}: virtio devices have drivers", pci.count("0x1af4") == 2 and "0x0002" in pci and "0x0004" in pci, pci)


def mini(name):
    m = image(name)
    where = prepare(name, m, "512M", "2", "2", "console=ttyS0 loglevel=4 log_buf_len=1M")
    with open("disk.img", "wb") as f:
        f.truncate(16 << 20)
    vm = Qemu(where, "512M", 2, "disk.img")
    try:
        came = vm.expect(rb"[#$] (\x1b\[6n)?$", 150)
        check(f"{name}: boots to a shell", came is not None, vm.text[-600:].decode(errors="replace"))
        vm.run("stty -echo")
        looks(vm, name, 2)
        check(f"{name}: the event device has its interrupt", "ACPI:Ged" in vm.run("cat /proc/interrupts"))
        vm.monitor.sendall(b"system_powerdown\n")
        check(f"{name}: the power button is heard, and the guest powers off by the sleep register", vm.ended(60) == 0)
    finally:
        vm.close()
        shutil.rmtree(where)


def full(name):
    m = image(name)
    where = prepare(name, m, "1G", "2", "2", m["append"])
    subprocess.run(["cp", "--sparse=always", os.path.join(m["directory"], m["disk"]["file"]), "full.img"], check=True)
    os.chmod("full.img", 0o600)
    vm = Qemu(where, "1G", 2, "full.img")
    try:
        came = vm.expect(rb"login: $", 900)
        check(f"{name}: boots to a login", came is not None, vm.text[-600:].decode(errors="replace"))
        vm.serial.sendall(b"root\n")
        vm.expect(rb"# (\x1b\[6n)?$", 120)
        vm.run("stty -echo; export TERM=dumb")
        looks(vm, name, 2)
        check(f"{name}: the kernel has the power button", "Power Button" in vm.run("cat /proc/bus/input/devices"))
        vm.monitor.sendall(b"system_powerdown\n")
        check(f"{name}: powers off by the power button", vm.ended(300) == 0)
    finally:
        vm.close()
        shutil.rmtree(where)
        os.unlink("full.img")


if not shutil.which("qemu-system-x86_64"):
    skip("qemu-system-x86 is not installed")
mini("debian:mini-amd64")
mini("debian:mini-bookworm-amd64")
if os.environ.get("LODGE_WITNESS_FULL") == "1":
    full("debian:trixie-amd64")

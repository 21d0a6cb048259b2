"""witness.py: QEMU's microvm board under TCG, with what Lodge's `pc` board puts into memory, started by a ROM that has no tables of its own
(tests/witness/rom.S). For tests/system/acpi-witness.py and tests/witness/machine."""
import os
import subprocess

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOLS = os.path.join(os.environ.get("LODGE_BUILD", os.path.join(TOP, "build")), "tests/tools")


def khz():
    """QEMU's board has no timer by which a busy host's TSC can be measured; TCG's counts as the host's."""
    for line in open("/proc/cpuinfo"):
        if line.startswith("cpu MHz"):
            return int(float(line.split(":")[1]) * 1000)
    return 2000000


def image(where, kernel, initrd, memory, cpus, nodes, append):
    """Writes what the board puts into memory, a file for each address."""
    return subprocess.run([f"{TOOLS}/pc-image", where, kernel, initrd, memory, cpus, nodes, f"{append} tsc_early_khz={khz()}"],
                          capture_output=True, text=True)


def argv(where, memory, cpus, disk, *more):
    out = ["qemu-system-x86_64", "-M", "microvm,pcie=on,acpi=on,rtc=on,pit=on,pic=on,isa-serial=on", "-accel", "tcg",
           "-bios", f"{TOOLS}/pc-rom.bin", "-cpu", "max", "-m", memory, "-smp", f"{cpus},sockets={cpus}",
           "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
           "-device", "virtio-rng-pci,disable-legacy=on,addr=1",
           "-drive", f"if=none,id=d,file={disk},format=raw,cache=unsafe", "-device", "virtio-blk-pci,drive=d,disable-legacy=on,addr=2", *more]
    for b in sorted(f for f in os.listdir(where) if f.startswith("0x")):
        out += ["-device", f"loader,file={where}/{b},addr={b[:-4]},force-raw=on"]
    return out

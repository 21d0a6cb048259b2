#!/usr/bin/env python3
# time-limit: 200
"""Bad input to `lodge run`: one line with cause and remedy, a non-zero exit, and nothing left behind."""
import os
import re
import shutil
import socket
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import HOME, LODGE, TMP, wait_for

ENV = dict(os.environ, LODGE_HOME=HOME)
failed = 0


def report(what, good, detail=""):
    global failed
    failed += not good
    print(f"{'PASS' if good else 'FAIL'}: {what}" + (f": {detail}" if detail and not good else ""), flush=True)


def path(name, data=b"", size=None):
    """A file in the test's own folder; `size` makes it that long with a hole."""
    p = os.path.join(TMP, name)
    with open(p, "wb") as f:
        f.write(data)
        if size is not None:
            f.truncate(size)
    return p


def code(*words):
    return b"".join(struct.pack("<I", w) for w in words)


def image(total, magic=b"RISCV\0\0\0RSC\x05"):
    """A kernel Image as Linux defines it (Documentation/arch/riscv/boot-image-header.rst), with no code."""
    return struct.pack("<IIQQQIIQ", 0x0000006F, 0, 0x200000, total, 0, 2, 0, 0) + magic + b"\0\0\0\0"


def elf(size):
    """A riscv64 ELF header with one segment of `size` bytes that the file need not have."""
    ident = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    head = struct.pack("<HHIQQQIHHHHHH", 2, 243, 1, 0x80200000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return ident + head + struct.pack("<IIQQQQQQ", 1, 7, 4096, 0x80200000, 0x80200000, size, size, 4096)


# Firmware: waits for interrupts for ever.
SPIN = path("spin.bin", code(0x10500073, 0xFFDFF06F))
KERNEL = path("kernel", image(1 << 20), 1 << 20)
EMPTY = path("empty")
DISK = path("disk.img", size=1 << 20)


def processes():
    """Processes of ours that still run; the one word that only they have is their LODGE_HOME."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                env = f.read()
            with open(f"/proc/{pid}/comm") as f:
                comm = f.read().strip()
        except OSError:
            continue
        if f"LODGE_HOME={HOME}\0".encode() in env and int(pid) != os.getpid():
            found.append(f"{comm} ({pid})")
    return found


def files():
    return sorted(os.path.join(d, n) for top in (HOME,) for d, dirs, names in os.walk(top) for n in names + dirs
                  if os.path.join(d, n) not in (f"{HOME}/run", f"{HOME}/data", f"{HOME}/data/vms", f"{HOME}/cache"))


def there():
    return set(processes() + files())


def left(before=()):
    """What is there that was not before; the keeper of an ended machine has a moment to go."""
    wait_for(lambda: not set(processes()) - set(before), 30)
    return there() - set(before)


def bad(what, args, cause, remedy, codes=(1, 2), prefix=(), allowed=()):
    """`cause` and `remedy` are regular expressions that the one line must have."""
    before = there()
    try:
        p = subprocess.run([*prefix, LODGE, "run", *args], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, env=ENV, cwd=TMP, text=True)
    except subprocess.TimeoutExpired:
        report(what, False, "it runs: nothing was refused")
        for pid in [int(re.search(r"\((\d+)\)", t)[1]) for t in processes() if t not in before]:
            os.kill(pid, 9)
        return
    line = p.stderr.rstrip("\n")
    report(f"{what}: exit code", p.returncode in codes, f"{p.returncode}, wanted one of {codes}: {line}")
    report(f"{what}: one line", line.count("\n") == 0 and line and not p.stdout, repr(p.stderr + p.stdout))
    report(f"{what}: cause and remedy", bool(re.search(cause, line) and re.search(remedy, line)), line)
    new = sorted(left(before))
    report(f"{what}: nothing left", not new, new)


def boot(*args):
    return ["--firmware", SPIN, "--memory", "64M", *args]


def kernels():
    bad("missing kernel", ["--kernel", "/nonexistent/kernel"], "kernel /nonexistent/kernel", "No such file", (3,))
    bad("empty kernel", ["--kernel", EMPTY], f"kernel {EMPTY} is empty", "copied")
    bad("kernel that is a directory", ["--kernel", TMP], "is a directory", "name a file")
    bad("kernel for x86-64 (ELF)", ["--kernel", os.path.realpath("/bin/true")], "kernel .*(x86|machine|RISC-V)", "riscv64|RISC-V|join the group|load kvm_",
        (1, 2, 3))
    bad("kernel for arm64 (Image)", ["--kernel", path("arm64", image(1 << 20, b"\0" * 8 + b"ARM\x64"), 1 << 20)], "kernel .*arm64", "riscv64|RISC-V")
    bad("kernel cut short (ELF)", ["--kernel", path("short", elf(8 << 20), 4096)], "kernel ", "cut|short|copied|end")
    bad("kernel cut short (Image)", ["--kernel", path("short", image(1 << 20)[:40])], "kernel ", "cut|short|copied|Image|ELF")
    bad("kernel that is no kernel", ["--kernel", path("text", b"hello\n" * 1000)], "kernel ", "riscv64|RISC-V|Image|ELF")
    bad("initrd larger than memory", ["--kernel", KERNEL, "--initrd", path("initrd", size=70 << 20), "--memory", "64M"], "initrd", "--memory")
    bad("kernel larger than memory", ["--kernel", path("big", image(100 << 20), 90 << 20), "--memory", "64M"], "kernel", "--memory")
    bad("kernel that says it is larger than memory", ["--kernel", path("says", image(1 << 40), 1 << 20), "--memory", "64M"], "kernel", "--memory|memory")
    bad("missing firmware", ["--firmware", "/nonexistent/fw"], "firmware /nonexistent/fw", "No such file", (3,))
    bad("nothing to boot", [], "nothing to boot", "name an image|--kernel", (1, 2))
    bad("unknown image", ["debian:nosuch"], "debian:nosuch", "debian:mini|image", (3,))


def shape():
    for text in ("0", "3", "1K"):
        bad(f"memory {text}", ["--firmware", SPIN, "--memory", text], f"memory.*{text}", "give 1M|write 3M", (2,))
    bad("memory of no unit", ["--firmware", SPIN, "--memory", "12X"], "memory.*12X", "512M|K, M|G", (2,))
    bad("memory beyond the host's", ["--firmware", SPIN, "--memory", "7T"], "7T is more than the .* that this host has", "give less", (1, 2))
    bad("memory beyond any", ["--firmware", SPIN, "--memory", "900T"], "900T is too large", "give 1M to", (2,))
    bad("memory that is no multiple of a page", ["--firmware", SPIN, "--memory", "67108865B"], "multiple of 4K", "K, M or G")
    for n in ("0", "129", "-1", "two"):
        bad(f"smp {n}", boot("--smp", n), f"smp.*{n}", "128|number", (2,))
    bad("more nodes than vCPUs", boot("--nodes", "4"), "4 nodes", "--smp|--nodes")
    bad("unknown flag", boot("--memroy", "1G"), "memroy", "--memory", (2,))
    bad("unknown engine", boot("--engine", "tcg"), "engine.*tcg", "rv64|auto", (2,))
    bad("unknown CPU switch", boot("--cpu", "rv64,zbx=off"), "zbx", "zb[abs]", (1, 2))
    bad("two images", ["debian:mini", "debian"], "debian", "lodge run|argument", (2,))


def disks():
    bad("missing disk", boot("--disk", "/nonexistent/disk:raw"), "disk /nonexistent/disk", "No such file", (3,))
    bad("empty disk", boot("--disk", f"{EMPTY}:raw"), f"disk {EMPTY} is empty", "copied|truncate|size")
    bad("truncated disk", boot("--disk", path("cut.img", size=1000) + ":raw"), "cut.img", "512|copied|multiple")
    bad("disk of no format", boot("--disk", DISK), "format", "raw", (1, 2))
    bad("disk of an unknown format", boot("--disk", f"{DISK}:qcow9"), "qcow9", "raw", (1, 2))
    bad("disk twice", boot("--disk", f"{DISK}:raw", "--disk", f"{DISK}:raw"), "twice", "readonly|own")
    bad("disk that is a directory", boot("--disk", f"{TMP}:raw"), "directory", "name a file")
    readonly = path("readonly.img", size=1 << 20)
    os.chmod(readonly, 0o444)
    bad("read-only disk", boot("--disk", f"{readonly}:raw"), "readonly.img cannot be written", "readonly", prefix=powerless())


def powerless():
    """Root without capabilities obeys file modes and may make no network interface."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


def taken():
    first = ["run", "-d", *boot("--name", "first", "--disk", f"{DISK}:raw")]
    p = subprocess.run([LODGE, *first], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, env=ENV, text=True)
    report("a machine in the background", p.returncode == 0 and p.stdout == "first\n", p.stderr)
    bad("two machines of one name", boot("--name", "first"), "first is running", "--name|lodge stop", (4,))
    bad("locked disk", boot("--disk", f"{DISK}:raw"), "disk.img.*(in use|lock|used)", "readonly|stop|own|first", (1, 4))
    bad("name that is a path", boot("--name", "../x"), "name", "letter", (1, 2))
    p = subprocess.run([LODGE, "kill", "first"], capture_output=True, timeout=20, env=ENV, text=True)
    report("it is killed", p.returncode == 0, p.stderr)
    p = subprocess.run([LODGE, "rm", "first"], capture_output=True, timeout=20, env=ENV, text=True)
    report("and removed", p.returncode == 0 and not left(), f"{p.stderr} {left()}")


def networks():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        bad("taken port", boot("--net", f"user,hostfwd=tcp::{port}-:22"), f"{port}", "in use|another|taken", (1, 4))
    bad("tap that is not there", boot("--net", "tap=lodgetest0"), "no tap lodgetest0", "ip tuntap", (1,), prefix=powerless())
    tap = f"lt{os.getpid()}"
    # Who may not make an interface cannot make one for somebody else either; that case then needs root.
    if not subprocess.run(["ip", "tuntap", "add", "dev", tap, "mode", "tap", "user", "65534"], capture_output=True).returncode:
        bad("tap without permission", boot("--net", f"tap={tap}"), f"tap {tap} belongs to another user", "ip tuntap|--net user", (1,), prefix=powerless())
        subprocess.run(["ip", "link", "delete", tap], check=True)
    bad("net of no kind", boot("--net", "mac=52:54:00:00:00:01"), "net", "user, tap=NAME or switch=NAME", (1, 2))
    bad("port that is no port", boot("--net", "user,hostfwd=tcp::99999-:22"), "99999", "PORT", (1, 2))


def definitions():
    def yaml(name, text):
        return ["--config", path(name, text.encode())]

    bad("YAML: wrong type", yaml("a.yaml", f"firmware: {SPIN}\nmemory: [1, 2]\n"), r"a\.yaml: line 2, column 9: memory", "512M", (2,))
    bad("YAML: a text where a list belongs", yaml("b.yaml", f"firmware: {SPIN}\nsmp: 1\ndisks: 7\n"), r"b\.yaml: line 3, column 8: disks", "list", (2,))
    bad("YAML: unknown key", yaml("c.yaml", f"firmware: {SPIN}\nmemroy: 1G\n"), r"c\.yaml: line 2, column 1: .*memroy", "\"memory\"", (2,))
    bad("YAML: not YAML", yaml("d.yaml", "memory: \"1G\n"), r"d\.yaml: line \d+, column \d+", "", (2,))
    bad("YAML: missing file", ["--config", "/nonexistent/vm.yaml"], "/nonexistent/vm.yaml", "No such file", (2, 3))


def main():
    for part in (kernels, shape, disks, taken, networks, definitions):
        if not sys.argv[1:] or part.__name__ in sys.argv[1:]:
            part()
    shutil.rmtree(HOME, ignore_errors=True)
    sys.exit(1 if failed else 0)


main()

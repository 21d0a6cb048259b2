#!/usr/bin/env python3
# time-limit: 420
"""The host fails under a disk: full, read-only, over its quota, over a limit of file sizes, I/O errors, the file removed or cut off, two openers, the lease taken
away; and disks that are very large. For each: what the policy asked for (report, pause, ignore) happens, the disk goes on when the cause is gone, and nothing
that was acknowledged is lost.

Mounts a small tmpfs for a full host, a loop device on it for I/O errors, an ext4 that finds itself damaged and a btrfs for quotas; all need root.
"""
import contextlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from failing import take_lease
from machine import BUILD, LODGE, Machine, fill_up, loop_device, sh

TOOL = f"{BUILD}/tests/tools/disk-failures"
IO = f"{BUILD}/tests/tools/disk-io"
MIB = 1 << 20
EPERM, EIO, EFBIG, ENOSPC, ESTALE, EDQUOT = 1, 5, 27, 28, 116, 122
SUMS = "off"  # stores with checksums of data
failed = 0


def make(fmt, path, size, store=None):
    """The name of a new disk of that format, all in one file at `path`."""
    if fmt != "lodgefs":
        sh(LODGE, "disk", "create", f"{path}:{fmt}", "--size", f"{size}B")
        return path
    sh(LODGE, "store", "create", f"{path}:lodgefs", "--size", f"{store or 96 * MIB}B", "-o", f"journal=2M,sums={SUMS}", "--force")
    sh(LODGE, "disk", "create", f"{path}/d:lodgefs", "--size", f"{size}B")
    return f"{path}/d"


def whole(fmt, path, leaks=False):
    """No damage: what the format's own check says. leaks: qcow2 may have counted clusters that nobody uses, and a repair gives them back."""
    if fmt == "qcow2" and leaks:
        sh(LODGE, "disk", "repair", f"{path}:qcow2")
    if fmt == "lodgefs":
        sh(LODGE, "store", "check", f"{path}:lodgefs")
    elif fmt == "qcow2":
        sh("qemu-img", "check", "-q", path)


class Disk:
    def __init__(self, fmt, path, policy="report", *more):
        self.p = subprocess.Popen([TOOL, fmt, path, policy, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.first = self.p.stdout.readline().strip()
        self.acked = {}  # place: (length, pattern)

    def __enter__(self):
        assert self.first == "open", self.first
        return self

    def __exit__(self, *_):
        self.p.stdin.close()
        self.last = self.p.stdout.read().strip()  # what closing it says
        assert self.p.wait(60) == 0, f"it ended with {self.p.returncode}"

    def do(self, line):
        self.p.stdin.write(line + "\n")
        self.p.stdin.flush()
        return self.p.stdout.readline().strip()

    def write(self, off, n, pat):
        a = self.do(f"w {off} {n} {pat}")
        if a == "ok":
            self.acked[off] = (n, pat)
        return a

    def verify(self):
        for off, (n, pat) in self.acked.items():
            a = self.do(f"r {off} {n} {pat}")
            assert a == "ok", f"{n} bytes at {off} were acknowledged, and: {a}"

    def until_it_fails(self, step, n=65536, most=2000, pat=1):
        """Writes until something is not "ok": (where, answer)."""
        for i in range(most):
            a = self.write(i * step, n, pat)
            if a != "ok":
                return i * step, a
        raise AssertionError("nothing failed")


def again(fmt, path, acked, *more):
    """In a new process."""
    with Disk(fmt, path, "report", *more) as d:
        d.acked = acked
        d.verify()


class Full:
    """A tmpfs of so many MiB."""

    def __init__(self, size):
        self.dir = tempfile.mkdtemp(prefix="lodge-full-")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.dir], check=True)

    def __enter__(self):
        return self.dir

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.dir], check=True)
        os.rmdir(self.dir)


def full(fmt):
    with Full("24m") as t:
        path, filler = f"{t}/image", f"{t}/filler"
        name = make(fmt, path, 64 * MIB)
        open(filler, "wb").write(bytes(8 * MIB))
        with Disk(fmt, name) as d:
            where, a = d.until_it_fails(65536)
            assert a == f"error {ENOSPC}", a
            d.verify()
            assert d.write(0, 4096, 9) == "ok", "what is there cannot be overwritten"
            del d.acked[0]
            d.acked[4096] = (61440, 1)
            os.unlink(filler)
            time.sleep(.15)
            assert d.write(where, 65536, 3) == "ok", "there is room, and it does not go on"
            assert d.do("f") == "ok"
            d.verify()
            kept = d.acked
        again(fmt, name, kept)
        whole(fmt, path)
        # pause: the same, and the guest notices nothing
        open(filler, "wb").write(bytes(4 * MIB))
        with Disk(fmt, name, "pause") as d:
            where, a = d.until_it_fails(65536, pat=5)
            assert a == "held", a
            assert d.do("retry") == "held", "it is as full as before"
            os.unlink(filler)
            time.sleep(.15)
            assert d.do("retry") == "ok"
            d.acked[where] = (65536, 5)
            assert d.do("f") == "ok"
            kept = d.acked
        again(fmt, name, kept)
        # ignore: all goes well, they say
        fill_up(filler)
        with Disk(fmt, name, "ignore") as d:
            for i in range(400):
                assert d.write(i * 163840 % (64 * MIB - 65536), 65536, 7) == "ok"
        os.unlink(filler)
        with Disk(fmt, name) as d:
            assert d.do("r 0 4096 7") == "ok", "what was there before could be written"
        # With errors ignored nobody could give back, at the end, what had been set aside.
        whole(fmt, path, leaks=True)


class Loop:
    """A file system on a loop device of so many MiB."""

    def __init__(self, mkfs, size, options=""):
        self.dir = tempfile.mkdtemp(prefix="lodge-loop-")
        self.fs, self.options = f"{self.dir}/fs", options
        with open(f"{self.dir}/back", "wb") as f:
            f.truncate(size * MIB)
        self.dev = sh("losetup", "-f", "--show", f"{self.dir}/back").strip()
        os.mkdir(self.fs)
        try:
            sh(*mkfs, self.dev)
            self.mount()
        except BaseException:
            subprocess.run(["losetup", "-d", self.dev])
            raise

    def mount(self):
        sh("mount", *(["-o", self.options] if self.options else []), self.dev, self.fs)

    def umount(self):
        for _ in range(300):  # the kernel takes a ring down a little after its process is gone
            if not subprocess.run(["umount", self.fs], capture_output=True).returncode:
                return
            time.sleep(.1)
        raise AssertionError(f"{self.fs} stays in use")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.fs], check=True)
        subprocess.run(["losetup", "-d", self.dev], check=True)
        shutil.rmtree(self.dir)


def leaves(t):
    """A store of two disks, with many pages of pointers that are in the journal only, on a host that has no room left; who had it is killed. What stands on the first."""
    sh(LODGE, "store", "create", f"{t}/s:lodgefs", "--size", "1G", "-o", f"journal=8M,sums={SUMS}")
    for name in "d0", "d1":
        sh(LODGE, "disk", "create", f"{t}/s/{name}:lodgefs", "--size", "16G")
        d = Disk("lodgefs", f"{t}/s/{name}")
        for n in range(250):
            assert d.write(n * 56 * MIB, 4096, n) == "ok"
        assert d.do("f") == "ok"
        if name == "d0":
            kept = d.acked
            assert d.do("S 0 1") == "ok"
            d.__exit__()
    fill_up(f"{t}/filler")
    d.p.kill()
    d.p.wait(60)
    return kept


def free_bytes(t):
    os.sync()
    return os.statvfs(t).f_bfree * os.statvfs(t).f_bsize


def frees(host):
    """A host that is full keeps nobody from letting go: a disk, a snapshot, what a guest discards; and what is given back is there."""
    for what in "rm", "snapshot", "discard":
        with host() as h:
            t = getattr(h, "fs", h)
            store, kept = f"{t}/s", leaves(t)
            had = free_bytes(t)
            if what == "rm":
                sh(LODGE, "store", "rm", f"{store}:lodgefs", "d1")
            elif what == "snapshot":
                sh(LODGE, "disk", "snapshot", f"{store}/d0:lodgefs", "--delete", "s0")
            else:
                with Disk("lodgefs", f"{store}/d1") as d:
                    for n in range(250):
                        assert d.do(f"d {n * 56 * MIB} {MIB} 0") == "ok", n
                    assert d.do("f") == "ok"
                    for _ in range(100):  # it goes back in the background
                        a = d.write(0, 65536, 7)
                        if a == "ok":
                            break
                        time.sleep(.05)
                    assert a == "ok", f"what was let go is not there: {a}, {free_bytes(t) - had} bytes"
            assert what == "snapshot" or free_bytes(t) > had + (512 << 10), (had, free_bytes(t))
            again("lodgefs", f"{store}/d0", kept)
            whole("lodgefs", store)


def bitmaps():
    """Bitmaps that cannot be written when their disk is closed: that is said, by name, by whatever had the disk."""
    with Full("24m") as t:
        path, filler = f"{t}/image", f"{t}/filler"

        def listed():
            return json.loads(sh(LODGE, "disk", "bitmap", f"{path}:qcow2", "--json"))

        def again():
            if os.path.exists(filler):
                os.unlink(filler)
            for b in listed():
                sh(LODGE, "disk", "bitmap", f"{path}:qcow2", "--remove", b["name"])
            for b in "one", "two":
                sh(LODGE, "disk", "bitmap", f"{path}:qcow2", "--add", b, "--granularity", "512B")

        def lost(said):
            busy = [b["name"] for b in listed() if b["busy"]]
            assert busy and said.count("could not be written") == len(busy), (busy, said)
            for b in busy:
                for words in f"disk {path}: bitmap {b} could not be written (No space left on device)", "make a full one", f"`lodge disk bitmap {path}:qcow2 --remove {b}`":
                    assert words in said, (words, said)
            whole("qcow2", path)
            again()

        sh(LODGE, "disk", "create", f"{path}:qcow2", "--size", "64M")
        again()
        with Disk("qcow2", path) as d:
            assert d.write(0, 65536, 1) == "ok" and d.do("f") == "ok"
            fill_up(filler)
        lost(d.last)
        # The size that was asked for is there; the verb ends with 1 all the same.
        for args in ("resize", f"{path}:qcow2", "+1M"), ("resize", f"{path}:qcow2", "64M", "--shrink"):
            with Disk("qcow2", path) as d:
                assert d.write(0, 65536, 2) == "ok"
            fill_up(filler)
            p = subprocess.run([LODGE, "disk", *args, "--json"], capture_output=True, text=True)
            assert p.returncode == 1 and not p.stdout and p.stderr.startswith("error: "), p
            lost(p.stderr)
        assert json.loads(sh(LODGE, "disk", "info", f"{path}:qcow2", "--json"))["size"] == 64 * MIB
        # A machine that ends.
        with Disk("qcow2", path) as d:
            assert d.write(0, 65536, 3) == "ok"
        spin = f"{tempfile.gettempdir()}/lodge-spin-{os.getpid()}"
        with open(spin, "wb") as f:
            f.write(struct.pack("<II", 0x10500073, 0xFFDFF06F))  # waits for interrupts for ever
        with Machine("--firmware", spin, "--disk", f"{path}:qcow2", "--memory", "16M", name="bitmaps") as m:
            m.call("status")
            fill_up(filler)
            m.call("kill")
            m.wait(60)
        os.unlink(spin)
        lost(open(m.log.name).read())


def quota(fmt):
    """A quota of the file system's own: btrfs counts for everybody, root too."""
    with Loop(["mkfs.btrfs", "-q", "-M"], 256) as t:
        path = f"{t.fs}/s/image"
        sh("btrfs", "subvolume", "create", f"{t.fs}/s")
        sh("btrfs", "quota", "enable", t.fs)
        name = make(fmt, path, 64 * MIB)
        for policy in ("report", "pause", "ignore"):
            with Disk(fmt, name, policy) as d:
                assert d.write(0, MIB, 1) == "ok" and d.do("f") == "ok"
                sh("btrfs", "qgroup", "limit", "512K", "0/256", t.fs)
                if policy == "ignore":
                    for i in range(1, 40):
                        assert d.do(f"w {i * MIB} 65536 7") == "ok"
                    assert d.do("f") == "ok"
                    sh("btrfs", "qgroup", "limit", "none", "0/256", t.fs)
                    d.verify()
                    continue
                where, a = d.until_it_fails(MIB, most=64, pat=len(policy))
                said = f"error {EDQUOT}" if policy == "report" else "held"
                assert a == said, a
                sh("btrfs", "qgroup", "limit", "none", "0/256", t.fs)
                time.sleep(.15)
                if policy == "pause":
                    assert d.do("retry") == "ok"
                    d.acked[where] = (65536, len(policy))
                else:
                    assert d.write(where, 65536, 2) == "ok"
                assert d.do("f") == "ok"
                d.acked.pop(0) if where == 0 else None
                d.verify()
                kept = d.acked
            again(fmt, name, kept)
            whole(fmt, path)


def turns_read_only(fmt):
    """The host's file system finds damage in itself and turns read-only under an open disk."""
    for policy in ("report", "pause", "ignore"):
        with Loop(["mkfs.ext4", "-q"], 96, "errors=remount-ro") as t:
            path = f"{t.fs}/image"
            name = make(fmt, path, 16 * MIB, 48 * MIB)
            with Disk(fmt, name, policy) as d:
                assert d.write(0, 65536, 1) == "ok" and d.do("f") == "ok"
                kept = dict(d.acked)
                with open(f"/sys/fs/ext4/{os.path.basename(t.dev)}/trigger_fs_error", "w") as f:
                    f.write("a test of Lodge")
                a = d.do(f"w {MIB} 65536 2")
                a = d.do("f") if a == "ok" else a  # the change waits in memory
                if policy == "pause":
                    assert a == "held" and d.do("retry") == "held", a
                    a = d.do("fail")
                assert a == ("ok" if policy == "ignore" else f"error {EPERM}"), a
                d.verify()
            t.umount()
            subprocess.run(["e2fsck", "-fy", t.dev], capture_output=True)
            t.mount()
            again(fmt, name, kept)
            whole(fmt, path, leaks=True)


@contextlib.contextmanager
def device(fmt, sector=512):
    """A disk of that format on a loop device of 96 MiB, whose host has 24: the disk's name, the device, and the file that fills the host."""
    with Full("24m") as t:
        back, filler = f"{t}/back", f"{t}/filler"
        with open(back, "wb") as f:
            f.truncate(96 * MIB)
        with loop_device(back, "-b", str(sector)) as dev:
            if fmt == "lodgefs":
                sh(LODGE, "store", "create", f"{dev}:lodgefs", "--size", "96M", "-o", f"journal=2M,sums={SUMS}", "--force")
                sh(LODGE, "disk", "create", f"{dev}/d:lodgefs", "--size", "64M")
            if fmt == "qcow2":
                sh(LODGE, "disk", "create", f"{dev}:qcow2", "--size", "64M", "--force")
            yield f"{dev}/d" if fmt == "lodgefs" else dev, dev, filler


def stays_lost(d, policy, filler):
    """The flush fails, and with room on the host again it does so once more."""
    for ask in "f", "f" if policy == "report" else "retry":
        a = d.do(ask)
        assert a.startswith("error") if policy == "report" else a == "held", f"{policy}: {a}: what was lost is called durable"
        if os.path.exists(filler):
            os.unlink(filler)
            time.sleep(.15)
    d.do("fail") if policy == "pause" else None


def lost_pages(fmt):
    """The page cache takes a write that the device does not: the flush fails, and so does every later one: the host has forgotten what it could not write."""
    with device(fmt) as (name, dev, filler):
        for policy in ("report", "pause"):
            with Disk(fmt, name, policy) as d:
                at = MIB * (1 if policy == "report" else 2)
                assert d.write(0, 65536, 1) == "ok" and d.do("f") == "ok"
                kept = dict(d.acked)
                fill_up(filler)
                for i in range(16):
                    d.do(f"w {i * 4 * MIB + at} 4096 3")
                stays_lost(d, policy, filler)
            again(fmt, name, kept)
            with Disk(fmt, name, policy) as d:
                assert d.write(at, 4096, 2) == "ok" and d.do("f") == "ok", "opened again it goes on"


def lost_sectors(fmt):
    """The same with cache=none: what is smaller than the device's sectors goes through the page cache nevertheless."""
    for policy in ("report", "pause"):
        with device(fmt, 4096) as (name, dev, filler):
            with Disk(fmt, name, policy, "direct") as d:
                for i in range(16):
                    assert d.write(i * MIB, 4096, 1) == "ok"
                assert d.do("f") == "ok"
                kept = {0: (4096, 1)}
            # What lies there has no space on the host any more.
            extents = json.loads(sh(LODGE, "disk", "map", f"{name}:{fmt}", "--json"))
            for at in range(MIB, 16 * MIB, MIB):
                x = next(x for x in extents if x["start"] <= at < x["start"] + x["length"])
                sh("fallocate", "-p", "-o", str(x["offset"] + at - x["start"]), "-l", "4096", f"{os.path.dirname(filler)}/back")
            sh("blockdev", "--flushbufs", dev)
            fill_up(filler)
            with Disk(fmt, name, policy, "direct") as d:
                for i in range(1, 16):
                    d.do(f"w {i * MIB + 512} 512 3")
                stays_lost(d, policy, filler)
            again(fmt, name, kept, "direct")
            with Disk(fmt, name, policy, "direct") as d:
                assert d.write(MIB, 512, 2) == "ok" and d.do("f") == "ok", "opened again it goes on"


def file_sizes(fmt):
    with tempfile.TemporaryDirectory(prefix="lodge-quota-") as t:
        path = f"{t}/image"
        name = make(fmt, path, 64 * MIB)
        if fmt == "raw":
            os.truncate(path, 64 * MIB)  # longer than the limit: whatever is beyond it fails
        for policy in ("report", "pause"):
            with Disk(fmt, name, policy) as d:
                limit = (1 if fmt == "qcow2" else 8) * MIB * (1 if policy == "report" else 2)
                assert d.do(f"limit {limit}") == "ok"
                where, a = d.until_it_fails(MIB, most=64, pat=len(policy))
                assert a == ("held" if policy == "pause" else f"error {EFBIG}"), a
                assert d.do("limit 0") == "ok"
                time.sleep(.15)
                if policy == "pause":
                    assert d.do("retry") == "ok"
                    d.acked[where] = (65536, len(policy))
                else:
                    assert d.write(where, 65536, 2) == "ok"
                assert d.do("f") == "ok"
                d.verify()
                kept = d.acked
            again(fmt, name, kept)
            whole(fmt, path)


def not_flushed(fmt):
    """The host fails for good before anybody flushed: what was acknowledged may go, but not in silence, and what was flushed stays."""
    for policy in ("report", "pause", "ignore"):
        with tempfile.TemporaryDirectory(prefix="lodge-lost-") as t:
            path = f"{t}/image"
            name = make(fmt, path, 16 * MIB)
            with Disk(fmt, name, policy) as d:
                assert d.write(0, 65536, 1) == "ok" and d.do("f") == "ok"
                kept = dict(d.acked)
                assert d.do(f"w {8 * MIB} 65536 2") == "ok"
                assert d.do("limit 512") == "ok"
            assert d.last == ("" if fmt == "raw" else f"lost {EFBIG}"), d.last
            again(fmt, name, kept)
            whole(fmt, path, leaks=True)


def read_only(fmt):
    with Full("24m") as t:
        path = f"{t}/image"
        name = make(fmt, path, 16 * MIB)
        with Disk(fmt, name) as d:
            assert d.write(0, 65536, 1) == "ok"
        for _ in range(300):  # the kernel takes a ring down a little after its process is gone
            if not subprocess.run(["mount", "-o", "remount,ro", t], capture_output=True).returncode:
                break
            time.sleep(.1)
        d = Disk(fmt, name)
        d.p.stdin.close()
        assert d.p.wait(60) == 1 and "read" in d.first, d.first
        sh(LODGE, "disk", "info", f"{name}:{fmt}")
        out = subprocess.run([LODGE, "disk", "resize", f"{name}:{fmt}", "32M"], capture_output=True, text=True)
        assert out.returncode == 1 and "read" in out.stderr.lower(), out


def io_errors(fmt):
    """A loop device on a host that is full: every write to what has no space there is an I/O error of the device.

    Pages one by one: Linux' loop device calls it a success when only the beginning of a write had space (6.18; dd sees the same).
    """
    with device(fmt) as (name, dev, filler):
        for policy in ("report", "pause"):
            open(filler, "wb").write(bytes(18 * MIB)) if policy == "report" else fill_up(filler)
            with Disk(fmt, name, policy, "direct") as d:
                where, a = d.until_it_fails(32768 + (policy == "pause") * 4096, 4096, most=1700, pat=4)
                assert a == "held" if policy == "pause" else a in (f"error {EIO}", f"error {ENOSPC}"), a
                d.verify()
                os.unlink(filler)
                time.sleep(.15)
                if policy == "pause":
                    a = d.do("retry")
                    assert a == "ok", a
                    d.acked[where] = (4096, 4)
                else:
                    assert d.write(where, 4096, 2) == "ok", "the device works, and it does not go on"
                a = d.do("f")
                assert a == "ok", a
                kept = d.acked
            again(fmt, name, kept, "direct")
            subprocess.run(["blkdiscard", dev], check=True) if fmt == "raw" else None
        whole(fmt, dev)


def wide_sectors(fmt):
    """Requests of 512 bytes on a device whose own sectors have 4 KiB, where fallocate(2) refuses them."""
    with tempfile.TemporaryDirectory(prefix="lodge-wide-") as t:
        os.truncate(os.open(f"{t}/back", os.O_CREAT | os.O_RDWR), 64 * MIB)
        with loop_device(f"{t}/back", "-b", "4096") as dev:
            name, size = dev, 2 * MIB
            if fmt == "qcow2":
                sh(LODGE, "disk", "create", f"{dev}:qcow2", "--size", "2M", "-o", "cluster-size=512B", "--force")
            elif fmt == "lodgefs":
                name = make(fmt, dev, size, 64 * MIB)
            rnd, disk = random.Random(7), bytearray(size)
            for mode in ((), ("direct",), ("discard",), ("direct", "discard")):
                script = []
                for n in range(200):
                    at = rnd.randrange(size // 512 - 64) * 512
                    length, pat = rnd.randrange(1, 64) * 512, rnd.randrange(200)
                    if n % 3:
                        script.append(f"w {at} {length} {pat}")
                        disk[at : at + length] = b"".join(bytes([(pat + at // 512 + i) % 251]) * 512 for i in range(length // 512))
                    else:
                        script.append(f"z {at} {length} {n % 2}")
                        disk[at : at + length] = bytes(length)
                    if not n % 20:  # what it reads as is not said
                        script += [f"d {at} {length}", f"z {at} {length} 0", "f"]
                        disk[at : at + length] = bytes(length)
                script.append(f"x {t}/read")
                p = subprocess.run([IO, "run", fmt, name, *mode], input="\n".join(script) + "\n", capture_output=True, text=True, timeout=120)
                assert p.returncode == 0 and not p.stdout, p.stdout + p.stderr
                got = open(f"{t}/read", "rb").read(size)
                assert got == disk, f"{mode}: sector {next(i for i in range(size) if got[i] != disk[i]) // 512} differs"
            whole(fmt, dev)


def removed(fmt):
    with tempfile.TemporaryDirectory(prefix="lodge-removed-") as t:
        path = f"{t}/image"
        name = make(fmt, path, 16 * MIB)
        with Disk(fmt, name) as d:
            assert d.write(0, 65536, 1) == "ok"
            os.unlink(path)
            assert d.write(MIB, 65536, 2) == "ok"
            assert d.do("f") == "ok"
            d.verify()
        assert not os.path.exists(path)


def cut_off(fmt):
    with tempfile.TemporaryDirectory(prefix="lodge-cut-") as t:
        path = f"{t}/image"
        name = make(fmt, path, 16 * MIB)
        with Disk(fmt, name) as d:
            for i in range(16):
                assert d.write(i * MIB, 65536, 1) == "ok"
            assert d.do("f") == "ok"
            size = os.path.getsize(path)
            os.truncate(path, size // 8)
            said = [d.do(f"r {i * MIB} 65536 1") for i in range(16)]
            # What was cut off is gone; it must not be handed out as if it were the data.
            assert f"error {EIO}" in said and not set(said) - {"ok", f"error {EIO}"}, said
            d.do("w 0 4096 3")
            assert d.do("f") == f"error {EIO}", "what was flushed before is gone, and this flush says that all is well"
            if fmt == "lodgefs":
                os.truncate(path, size)
                assert d.do("f") == f"error {EIO}", "as long as before, and what was there is trusted again"
        if fmt == "lodgefs":
            said = Disk(fmt, name).first  # what was written behind the cut made the file longer again, with a hole before it
            assert "cut off" in said or "is none of this store's" in said, said


def two_openers(fmt):
    with tempfile.TemporaryDirectory(prefix="lodge-two-") as t:
        name = make(fmt, f"{t}/image", 16 * MIB)
        with Disk(fmt, name) as d:
            second = Disk(fmt, name).first
            assert f"pid {d.p.pid}" in second and "in use" in second, second
            if fmt == "lodgefs":
                assert "one process writes to a store" in second, second
            sh(LODGE, "disk", "snapshot", f"{name}:{fmt}", "--create", "x", code=4) if fmt != "raw" else None
            assert d.write(0, 65536, 1) == "ok"


def lease():
    """Another host takes the store while a machine runs on it."""
    for policy in ("report", "pause"):
        with tempfile.TemporaryDirectory(prefix="lodge-lease-") as t:
            path = f"{t}/image"
            name = make("lodgefs", path, 16 * MIB)
            with Disk("lodgefs", name, policy) as d:
                assert d.write(0, 65536, 1) == "ok" and d.do("f") == "ok"
                kept = dict(d.acked)
                take_lease(path)
                a = d.do("f")
                if policy == "pause":
                    assert a == "held" and d.do("retry") == "held", a
                    a = d.do("fail")
                assert a == f"error {ESTALE}", a
                assert d.write(MIB, 4096, 1) == ("held" if policy == "pause" else f"error {ESTALE}")
                d.do("fail") if policy == "pause" else None
            assert "elsewhere" in Disk("lodgefs", name).first
            out = sh(LODGE, "store", "check", f"{path}:lodgefs")
            assert "nothing is wrong" in out, out
            sh(TOOL, "lodgefs", name, "report", code=1)
            # A manager's number that is too old does not get it; who says that the other is gone does, and what was flushed is there.
            was = struct.unpack("<Q", open(path, "rb").read()[8200:8208])[0]
            sh(LODGE, "store", "take", f"{path}:lodgefs", "--fence", str(was), code=1)
            assert json.loads(sh(LODGE, "store", "take", f"{path}:lodgefs", "--json"))["fence"] == was + 1
            again("lodgefs", name, kept)


def left_by_a_kill():
    """What a process let go and had not given back when it was killed, and the next one does not know of: `lodge store trim` does."""
    with tempfile.TemporaryDirectory(prefix="lodge-trim-") as t:
        path = f"{t}/image"
        name = make("lodgefs", path, 64 * MIB)
        d = Disk("lodgefs", name)
        for i in range(40):
            assert d.write(i * MIB, MIB, 1 + i) == "ok"
        assert d.do("f") == "ok"
        assert d.do(f"d {20 * MIB} {20 * MIB} 0") == "ok" and d.do("f") == "ok"
        d.p.kill()
        d.p.wait(60)
        kept = {off: v for off, v in d.acked.items() if off < 20 * MIB}
        again("lodgefs", name, kept)
        had = os.stat(path).st_blocks * 512
        given = json.loads(sh(LODGE, "store", "trim", f"{path}:lodgefs", "--json"))["given_back"]
        assert given >= 20 * MIB, given
        assert os.stat(path).st_blocks * 512 <= had - 20 * MIB
        assert json.loads(sh(LODGE, "store", "trim", f"{path}:lodgefs", "--json"))["given_back"] == 0
        again("lodgefs", name, kept)
        whole("lodgefs", path)


def huge(fmt):
    """16 TiB: made, written at both ends, checked, copied without what is not there."""
    # A raw disk is a file of that size, which is more than one of ext4 can have.
    with tempfile.TemporaryDirectory(prefix="lodge-huge-", dir="/dev/shm" if fmt == "raw" else None) as t:
        path, size = f"{t}/image", 16 << 40
        name = make(fmt, path, size, 256 * MIB)
        with Disk(fmt, name) as d:
            for off in (0, size // 2 + 4096, size - 65536):
                assert d.write(off, 65536, 1) == "ok"
            assert d.do("f") == "ok"
            kept = d.acked
        again(fmt, name, kept)
        whole(fmt, path)
        assert os.stat(path).st_blocks * 512 < 64 * MIB
        out = make("lodgefs", f"{t}/copy", size, 256 * MIB)
        sh(LODGE, "disk", "convert", f"{name}:{fmt}", f"{out}:lodgefs", "--force")
        again("lodgefs", out, kept)
        assert os.stat(f"{t}/copy").st_blocks * 512 < 64 * MIB
        sh(LODGE, "disk", "compare", f"{name}:{fmt}", f"{out}:lodgefs")


def per_snapshot(d, first, n):
    """Makes that many, and how many microseconds each took."""
    began = time.monotonic()
    a = d.do(f"S {first} {first + n}")
    assert a == "ok", a
    return round((time.monotonic() - began) / n * 1e6)


def snapshots():
    """10,000 in a row; then the limit, by name."""
    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="lodge-snaps-", dir=where) as t:
        path = f"{t}/image"
        sh(LODGE, "store", "create", f"{path}:lodgefs", "--size", "128M", "-o", "entries=10003,journal=8M")
        sh(LODGE, "disk", "create", f"{path}/d:lodgefs", "--size", "64M")
        with Disk("lodgefs", f"{path}/d") as d:
            assert d.write(0, 65536, 1) == "ok"
            took = []
            for i in range(0, 10000, 1000):
                took.append(per_snapshot(d, i, 1000))
                assert d.write(MIB, 4096, i // 1000) == "ok"
            print(f"  microseconds for each of 1,000: {took}")
            a = d.do("S 20000 20009")
            assert "entries" in a and "in use" in a, a
            d.verify()
        whole("lodgefs", path)
        n = len(json.loads(sh(LODGE, "disk", "snapshot", f"{path}/d:lodgefs", "--json")))
        assert n >= 10000, n


def qcow2_snapshots():
    """As many as its counts have room for; the next is refused by name, and nothing is the worse for it. A chain of backing files that is too long, too."""
    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="lodge-snaps-", dir=where) as t:
        path = f"{t}/image"
        sh(LODGE, "disk", "create", f"{path}:qcow2", "--size", "64M", "-o", "refcount-bits=8")
        with Disk("qcow2", path) as d:
            assert d.write(0, 65536, 1) == "ok"
            a = d.do("S 0 10000")
            assert "error at 254" in a and "8 bits" in a, a
            d.verify()
            assert d.write(0, 65536, 2) == "ok"
        whole("qcow2", path)
        again("qcow2", path, {0: (65536, 2)})
        many = f"{t}/many"
        sh(LODGE, "disk", "create", f"{many}:qcow2", "--size", "64M", "-o", "cluster-size=4K")
        with Disk("qcow2", many) as d:
            took = []
            for i in range(0, 10000, 1000):
                assert d.write(i * 4096, 4096, i // 1000) == "ok"
                took.append(per_snapshot(d, i, 1000))
            print(f"  microseconds for each of 1,000: {took}")
            d.verify()
        whole("qcow2", many)
        n = len(json.loads(sh(LODGE, "disk", "snapshot", f"{many}:qcow2", "--json")))
        assert n == 10000, n
        # Each has a table of its own and an entry: nothing is written once more for each, or left behind.
        assert os.path.getsize(many) < 10000 * 8192 + 16 * MIB, os.path.getsize(many)
        n = len(json.loads(sh("qemu-img", "info", "--output=json", many))["snapshots"])
        assert n == 10000, n
        below = path
        for i in range(201):
            sh("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", below, "-F", "qcow2", f"{t}/c{i}", "64M")
            below = f"{t}/c{i}"
        again("qcow2", f"{t}/c150", {0: (65536, 2)})
        said = Disk("qcow2", below).first
        assert "200" in said, said


def case(name, f, *args, root=False, tool=None):
    global failed
    if tool and not shutil.which(tool):
        print(f"SKIP: {name}: {tool} is not installed; tools/setup --test gets it")
        return
    if root and os.geteuid():
        print(f"SKIP: {name}: mounting needs root")
        return
    began = time.monotonic()
    try:
        f(*args)
        print(f"PASS: {name} ({time.monotonic() - began:.1f} s)", flush=True)
    except (AssertionError, subprocess.SubprocessError, OSError, ValueError) as e:
        failed += 1
        print(f"FAIL: {name}: {e!r}", flush=True)


for kind in ("raw", "qcow2", "lodgefs"):
    if kind == "qcow2" and not shutil.which("qemu-img"):
        print("SKIP: qcow2: qemu-img is not installed; tools/setup --test gets it")
        continue
    case(f"{kind}: the host is full", full, kind, root=True)
    case(f"{kind}: never flushed", not_flushed, kind)
    case(f"{kind}: over a limit of file sizes", file_sizes, kind)
    case(f"{kind}: over the quota", quota, kind, root=True, tool="mkfs.btrfs")
    case(f"{kind}: the host turns read-only", turns_read_only, kind, root=True)
    case(f"{kind}: pages that the host has lost", lost_pages, kind, root=True)
    case(f"{kind}: sectors that the host has lost", lost_sectors, kind, root=True)
    case(f"{kind}: the host is read-only", read_only, kind, root=True)
    case(f"{kind}: I/O errors", io_errors, kind, root=True)
    case(f"{kind}: wide sectors", wide_sectors, kind, root=True)
    case(f"{kind}: removed", removed, kind)
    case(f"{kind}: cut off", cut_off, kind)
    case(f"{kind}: two openers", two_openers, kind)
    if kind != "raw" or os.path.isdir("/dev/shm"):
        case(f"{kind}: 16 TiB", huge, kind)
TMPFS, EXT4 = lambda: Full("64m"), lambda: Loop(["mkfs.ext4", "-q"], 96)
for name, host in ("tmpfs", TMPFS), ("ext4", EXT4):
    case(f"lodgefs: a full host ({name}) keeps nobody from letting go", frees, host, root=True)
SUMS = "on"
case("lodgefs with checksums: a full host keeps nobody from letting go", frees, TMPFS, root=True)
for what, f in (("the host is full", full), ("I/O errors", io_errors)):
    case(f"lodgefs with checksums: {what}", f, "lodgefs", root=True)
case("lodgefs with checksums: over a limit of file sizes", file_sizes, "lodgefs")
case("lodgefs with checksums: cut off", cut_off, "lodgefs")
SUMS = "off"
case("lodgefs: the lease is taken", lease)
case("lodgefs: space that a kill left behind", left_by_a_kill)
case("lodgefs: 10,000 snapshots", snapshots)
if shutil.which("qemu-img"):
    case("qcow2: bitmaps that cannot be written", bitmaps, root=True)
    case("qcow2: as many snapshots as there can be, and backing files", qcow2_snapshots)
raise SystemExit(failed != 0)

#!/usr/bin/env python3
# time-limit: 600
"""qcow2 beside QEMU's tools: random operations by both on every kind of image, each state checked and compared with a raw oracle.

Each option of `qemu-img create` by itself, and all pairs of them: rows "pairs", of which one has many options at once. --all: with every width of counts and
every size of clusters there. Half of what QEMU writes goes through an NBD server.
"""
import argparse
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time

top = os.environ.get("LODGE_TOP", os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
ap = argparse.ArgumentParser()
ap.add_argument("--only", default="")
ap.add_argument("--seed", type=int, default=1)
ap.add_argument("--rounds", type=int, default=4)
ap.add_argument("--build", default=os.environ.get("LODGE_BUILD", os.path.join(top, "build")))
ap.add_argument("--keep", action="store_true")
ap.add_argument("--all", action="store_true")
args = ap.parse_args()
TOOL = os.path.join(args.build, "tests/tools/disk-io")
LODGE = os.path.join(args.build, "src/cli/lodge")
SECTOR = 512
MIB = 1 << 20
failed = 0


def sh(*cmd, ok=(0,), **kw):
    p = subprocess.run(cmd, capture_output=True, text=True, timeout=120, **kw)
    if ok is not None and p.returncode not in ok:
        raise AssertionError(f"{' '.join(cmd)}: {p.returncode}\n{p.stdout}{p.stderr}")
    return p


def pattern(off, length, pat):
    return b"".join(bytes([(pat + n) % 251]) * SECTOR for n in range(off // SECTOR, (off + length) // SECTOR))


class Nbd:
    """QEMU's server of one image."""

    def __init__(self, path, *options):
        if os.path.exists("nbd"):
            os.unlink("nbd")
        self.p = subprocess.Popen(["qemu-nbd", "-f", "qcow2", "-k", os.path.abspath("nbd"), "--persistent", *options, path])
        while True:  # the socket is there a moment before it listens
            with socket.socket(socket.AF_UNIX) as s:
                if not s.connect_ex("nbd"):
                    return
            assert self.p.poll() is None, f"qemu-nbd does not take {path} {options}"
            time.sleep(0.01)

    def __enter__(self):
        return "nbd+unix:///?socket=nbd"

    def __exit__(self, *_):
        self.p.terminate()
        self.p.wait()


class Image:
    def __init__(self, name, size, options=(), backing=None, by="qemu", setup=None, discard=False, v2=False, check_ok=(0,), rounds=None):
        self.name, self.size, self.by, self.discard, self.v2 = name, size, by, discard, v2
        self.rounds = rounds or args.rounds
        self.path = f"{name}.qcow2"
        self.options, self.backing, self.setup, self.check_ok = list(options), backing, setup, check_ok
        self.data = bytearray(size)
        self.snaps = {}
        self.bitmaps = {}  # name: [granularity, records, granules]
        self.packs = not any("data_file" in o for o in self.options)
        self.cluster = int(([o.split("=")[1] for o in self.options if o.startswith("cluster_size=")] or [65536])[0])
        self.bits = int(([o.split("=")[1] for o in self.options if o.startswith("refcount_bits=")] or [16])[0])

    def create(self):
        if self.backing:
            kind, bsize = self.backing
            base = bytearray(random.randbytes(bsize))
            base[MIB // 2:MIB] = bytes(MIB // 2)
            with open(self.name + ".base.raw", "wb") as f:
                f.write(base)
            bpath = self.name + ".base.raw"
            if kind == "qcow2":
                bpath = self.name + ".base.qcow2"
                sh("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", self.name + ".base.raw", bpath)
            if kind == "chain":
                bpath, kind = self.between(base), "qcow2"
            self.data[:min(bsize, self.size)] = base[:self.size]
        if self.by == "qemu":
            opts = list(self.options)
            extra = ["-b", bpath, "-F", kind] if self.backing else []
            sh("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", ",".join(opts)] if opts else []), *extra, self.path, str(self.size))
        else:
            opts = [o.replace("_", "-", 1) if not o.startswith("data_file_raw") else o.replace("_", "-") for o in self.options]
            opts = [o + "B" if o.startswith("cluster-size") else o for o in opts]
            extra = [f"backing={bpath}:{kind}"] if self.backing else []
            sh(TOOL, "create", "qcow2", self.path, str(self.size), *opts, *extra)
        if self.setup:
            self.setup(self)
        self.check("created")

    def between(self, base):
        """An overlay of the other program's, with other clusters, between the base and this one."""
        path, bsize = self.name + ".mid.qcow2", len(base)
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", "-b", self.name + ".base.raw", "-F", "raw", path) if self.by == "lodge" else \
            sh(TOOL, "create", "qcow2", path, str(bsize), "cluster-size=4096B", f"backing={self.name}.base.raw:raw")
        sh("qemu-io", "-f", "qcow2", "-c", "write -P 77 1M 100k", "-c", "write -z 3M 200k", path)
        base[MIB:MIB + 100 * 1024] = bytes([77]) * (100 * 1024)
        base[3 * MIB:3 * MIB + 200 * 1024] = bytes(200 * 1024)
        return path

    def touch(self, off, length):
        """Bitmaps that record know of it."""
        for b in self.bitmaps.values():
            if b[1]:
                b[2] |= set(range(off // b[0], (off + length - 1) // b[0] + 1))

    def settle(self, out, discarded):
        """What was discarded reads as it did, or as zeroes, sector by sector."""
        for off, length in discarded:
            for at in range(off, off + length, SECTOR):
                is_ = out[at:at + SECTOR]
                if is_ != self.data[at:at + SECTOR]:
                    assert is_ == bytes(SECTOR), f"discard at {at}: neither old nor zero"
                    self.data[at:at + SECTOR] = is_
                    self.touch(at, SECTOR)

    def free_range(self, taken, align=SECTOR, most=256 * 1024):
        for _ in range(50):
            n = random.choice([SECTOR, 4096, 65536, random.randrange(SECTOR, most + 1)])
            n = max(align, n // align * align)
            off = random.randrange(0, self.size - n + 1) // align * align
            if random.random() < 0.3:
                off = min(off, 4 * MIB) // align * align
            if off + n <= self.size and all(off + n <= a or b <= off for a, b in taken):
                taken.append((off, off + n))
                return off, n
        return None

    def lodge(self, n):
        script, discarded, cluster = [], [], self.cluster
        while n > 0:
            taken = []
            script.append("{")
            for _ in range(random.choice([1, 4, 16])):
                n -= 1
                op = random.choices("wuzdc", [60, 2, 15, 10, 8 if self.packs else 0])[0]
                if op == "c":
                    script.append("}")
                r = self.free_range(taken, cluster if op == "c" else SECTOR, 4 * cluster if op == "c" else 256 * 1024)
                if not r:
                    continue
                off, length = r
                pat = random.randrange(251)
                if op != "d":
                    self.touch(off, length)
                if op in "wuc":
                    script.append(f"{op} {off} {length} {pat}")
                    self.data[off:off + length] = pattern(off, length, pat)
                elif op == "z":
                    script.append(f"z {off} {length} {random.randrange(2)}")
                    self.data[off:off + length] = bytes(length)
                elif not discarded:
                    # what it reads as is looked at when the round is over: nothing may be written there before
                    script.append(f"d {off} {length}")
                    discarded.append((off, length))
                if op == "c":
                    taken = []
                    script.append("{")
            script.append("}")
            if random.random() < 0.4:
                script.append("f")
            if discarded:
                break
        script.append("x out.raw")
        p = subprocess.run([TOOL, "run", "qcow2", self.path] + (["discard"] if self.discard else []) + random.choice([[], [], ["direct"]]), input="\n".join(script) + "\n", text=True,
                           capture_output=True, timeout=120)
        with open("last-script", "w") as f:
            f.write("\n".join(script) + "\n")
        assert p.returncode == 0, f"disk-io: {p.returncode}: {p.stdout}{p.stderr}"
        with open("out.raw", "rb") as f:
            out = f.read()
        self.settle(out, discarded)
        self.differ(out, "read by Lodge")

    def qemu(self, n):
        cmds, taken, discarded = [], [], []
        for _ in range(n):
            op = random.choices("wzZd", [60, 15, 0 if self.v2 else 10, 0 if self.v2 else 8])[0]
            r = self.free_range(taken)
            if not r:
                continue
            off, length = r
            if op == "d":
                cmds += ["-c", f"discard {off} {length}"]
                discarded.append((off, length))
                continue
            self.touch(off, length)
            if op == "w":
                pat = random.randrange(1, 251)
                cmds += ["-c", f"write -P {pat} {off} {length}"]
                self.data[off:off + length] = bytes([pat]) * length
            else:
                cmds += ["-c", f"write -z {'-u ' if op == 'Z' else ''}{off} {length}"]
                self.data[off:off + length] = bytes(length)
        if random.random() < 0.5:
            p = sh("qemu-io", "-f", "qcow2", "-d", "unmap", "-t", "unsafe", *cmds, self.path)
        else:
            with Nbd(self.path, "--cache=unsafe", "--discard=unmap") as url:
                p = sh("qemu-io", "-f", "raw", "-d", "unmap", *cmds, url)
        assert "rror" not in p.stdout + p.stderr and "failed" not in p.stdout + p.stderr, p.stdout + p.stderr
        if discarded:
            sh("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path, "out.raw")
            with open("out.raw", "rb") as f:
                self.settle(f.read(), discarded)
        r = (random.randrange(self.size // self.cluster) * self.cluster, self.cluster) if self.packs and random.random() < 0.5 else None
        if r:  # QEMU compresses into clusters that are not there yet, and refuses others
            p = sh("qemu-io", "-f", "qcow2", "-t", "unsafe", "-c", f"write -c -P 99 {r[0]} {r[1]}", self.path, ok=(0, 1))
            if p.returncode == 0:
                self.touch(*r)
                self.data[r[0]:r[0] + r[1]] = bytes([99]) * r[1]

    def qemu_admin(self):
        """One of: snapshots, size, bitmaps, features, by qemu-img."""
        can = ["resize"] if not (self.v2 and self.snaps) else []
        can += ["snapshot"] * 3 if self.packs and self.bits > 1 else []
        can += ["bitmap"] * 2 + ["lazy"] if not self.v2 else []
        can += ["bits"] if not self.v2 and not self.snaps else []
        what = random.choice(can)
        if what == "snapshot" and self.snaps and random.random() < 0.6:
            name = random.choice(list(self.snaps))
            if random.random() < 0.5 and not self.bitmaps:
                sh("qemu-img", "snapshot", "-a", name, self.path)
                self.data = bytearray(self.snaps[name])
                self.size = len(self.data)
            else:
                sh("qemu-img", "snapshot", "-d", name, self.path)
                del self.snaps[name]
        elif what == "snapshot":
            name = f"q{random.randrange(10**6)}"
            p = sh("qemu-img", "snapshot", "-c", name, self.path, ok=(0, 1) if self.bits < 8 else (0,))
            if p.returncode:  # narrow counts and packed clusters; QEMU leaves leaks behind then
                sh("qemu-img", "check", "-q", "-r", "leaks", self.path, ok=(0, 3))
            else:
                self.snaps[name] = bytes(self.data)
        elif what == "resize":
            size = self.size + random.randrange(1, 2 * MIB) // SECTOR * SECTOR
            sh("qemu-img", "resize", "-q", "-f", "qcow2", self.path, str(size))
            self.data += bytes(size - self.size)
            self.size = size
        elif what == "lazy":
            sh("qemu-img", "amend", "-f", "qcow2", "-o", f"lazy_refcounts={random.choice(('on', 'off'))}", self.path)
        elif what == "bits":
            bits = random.choice((8, 16, 32, 64))
            sh("qemu-img", "amend", "-f", "qcow2", "-o", f"refcount_bits={bits}", self.path)
            self.bits = bits
        else:
            self.qemu_bitmap()
        return what

    def qemu_bitmap(self):
        have = list(self.bitmaps)
        op = random.choice(["add", "clear", "remove", "disable", "enable", "merge"]) if have else "add"
        name, from_ = random.choice(have or ["none"]), random.choice(have or ["none"])
        if op == "add":
            grain = random.choice((4096, 65536))
            name = f"b{len(have)}-{random.randrange(10**6)}"
            self.bitmaps[name] = [grain, True, set()]
            sh("qemu-img", "bitmap", "--add", "-g", str(grain), self.path, name)
            return
        b, f = self.bitmaps[name], self.bitmaps[from_]
        if op == "merge" and b[0] == f[0]:
            sh("qemu-img", "bitmap", "--merge", from_, self.path, name)
            b[2] |= f[2]
        elif op != "merge":
            sh("qemu-img", "bitmap", f"--{op}", self.path, name)
            if op == "remove":
                del self.bitmaps[name]
            elif op == "clear":
                b[2] = set()
            else:
                b[1] = op == "enable"

    def lodge_bitmap(self):
        """What lodge disk bitmap does to one of them; QEMU looks at it afterwards."""
        name, op = random.choice(list(self.bitmaps)), random.choice(("clear", "disable", "enable", "remove"))
        sh(LODGE, "disk", "bitmap", f"{self.path}:qcow2", f"--{op}", name)
        if op == "remove":
            del self.bitmaps[name]
        elif op == "clear":
            self.bitmaps[name][2] = set()
        else:
            self.bitmaps[name][1] = op == "enable"
        on = {b["name"]: "auto" in b["flags"] for b in json.loads(sh("qemu-img", "info", "--output=json", self.path).stdout)["format-specific"]["data"].get("bitmaps", [])}
        assert on == {n: b[1] for n, b in self.bitmaps.items()}, f"lodge disk bitmap --{op} {name}: QEMU says {on}"

    def cut_bitmaps(self):
        for b in self.bitmaps.values():
            b[2] = {g for g in b[2] if g * b[0] < self.size}

    def check_bitmap(self, when):
        """What one bitmap says, to Lodge and to an NBD server of QEMU's: the same, and no change is missing."""
        name = random.choice(list(self.bitmaps))
        grain, _, want = self.bitmaps[name]
        p = subprocess.run([TOOL, "run", "qcow2", self.path, "readonly"], input=f"m {name}\n", text=True, capture_output=True, timeout=60)
        assert p.returncode == 0, f"{when}: bitmap {name}: {p.stdout}{p.stderr}"
        ours = set()
        for line in p.stdout.split("\n"):
            if line:
                off, length = map(int, line.split())
                ours |= set(range(off // grain, (off + length + grain - 1) // grain))
        with Nbd(self.path, "-r", "-B", name):
            p = sh("qemu-img", "map", "--output=json", "--image-opts",
                   f"driver=nbd,server.type=unix,server.path=nbd,x-dirty-bitmap=qemu:dirty-bitmap:{name}")
        theirs = set()
        for x in json.loads(p.stdout):
            if not x["data"]:
                theirs |= set(range(x["start"] // grain, (x["start"] + x["length"] + grain - 1) // grain))
        assert ours == theirs, f"{when}: bitmap {name}: Lodge reads {len(ours)} granules, QEMU {len(theirs)}: {sorted(ours ^ theirs)[:8]}"
        missing = want - ours
        assert not missing, f"{when}: bitmap {name}: changes are missing: {sorted(missing)[:8]} of {grain}"

    def admin(self):
        """Snapshots, size, check and bitmaps by Lodge."""
        script = []
        if self.packs and self.bits > 1:
            if self.snaps and random.random() < 0.5:
                name = random.choice(list(self.snaps))
                if random.random() < 0.5:
                    self.data = bytearray(self.snaps[name])
                    script.append(f"A {name}")
                    self.size = len(self.data)
                    self.cut_bitmaps()
                    self.touch(0, self.size)
                else:
                    del self.snaps[name]
                    script.append(f"D {name}")
            elif len(self.snaps) < 2:
                name = f"l{random.randrange(10**6)}"
                self.snaps[name] = bytes(self.data)
                script.append(f"S {name}")
        elif random.random() < 0.5:
            size = max(MIB, self.size + random.choice([-1, 1, 3]) * random.randrange(1, 3 * MIB) // SECTOR * SECTOR)
            script.append(f"s {size}")
            self.data = self.data[:size] + bytes(max(0, size - self.size))
            self.size = size
            self.cut_bitmaps()
        if not self.v2 and random.random() < 0.3:
            name = f"bm{random.randrange(10**6)}"
            script.append(f"B {name}")
            self.bitmaps[name] = [4096, True, set()]
        r = self.free_range([])
        self.touch(*r)
        script += [f"w {r[0]} {r[1]} 7", "R 0", "x out.raw"]
        self.data[r[0]:r[0] + r[1]] = pattern(r[0], r[1], 7)
        with open("last-script", "w") as f:
            f.write("\n".join(script) + "\n")
        p = subprocess.run([TOOL, "run", "qcow2", self.path], input="\n".join(script) + "\n", text=True, capture_output=True, timeout=120)
        if p.returncode and "no room for another snapshot" in p.stdout and len(p.stdout.split("\n")) == 3:
            self.snaps.popitem()  # narrow counts and packed clusters
        else:
            assert p.returncode == 0, f"disk-io: {p.returncode}: {p.stdout}{p.stderr}"
        assert "errors 0 leaks 0" in p.stdout, p.stdout
        with open("out.raw", "rb") as f:
            self.differ(f.read(), "read by Lodge")
        if self.bitmaps and random.random() < 0.7:
            self.lodge_bitmap()

    def differ(self, out, what):
        if out != self.data:
            at = next(i for i in range(0, max(len(out), self.size), SECTOR) if out[i:i + SECTOR] != self.data[i:i + SECTOR])
            raise AssertionError(f"{what}: differs at {at} (cluster {at >> 16:#x}): {out[at:at + 4].hex()} instead of {self.data[at:at + 4].hex()}, "
                                 f"lengths {len(out)} {len(self.data)}")

    def check(self, when):
        p = sh("qemu-img", "check", "-f", "qcow2", self.path, ok=None)
        assert p.returncode in self.check_ok, f"{when}: qemu-img check: {p.returncode}\n{p.stdout}{p.stderr}"
        with open("oracle.raw", "wb") as f:
            f.write(self.data)
        p = sh("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "oracle.raw", self.path, ok=None)
        assert p.returncode == 0, f"{when}: qemu-img compare: {p.stdout}{p.stderr}"
        if self.bitmaps:
            self.check_bitmap(when)

    def run(self):
        self.create()
        for i in range(self.rounds):
            if args.keep:
                sh("cp", self.path, "before.qcow2")
                if os.path.exists("last-script"):
                    os.rename("last-script", "script-before")
            if i % 4 == 2:
                self.admin()
                self.check(f"round {i}: snapshots, size, bitmaps by Lodge")
            elif i % 4 == 3:
                self.check(f"round {i}: {self.qemu_admin()} by qemu-img")
            elif i % 4 == 0:
                self.lodge(random.choice([3, 20, 60]))
                self.check(f"round {i} by Lodge")
            else:
                self.qemu(random.choice([3, 12]))
                self.check(f"round {i} by qemu-io")
        if self.backing:
            sh("qemu-img", "rebase", "-q", "-f", "qcow2", "-b", "", self.path)
            self.check("taken off its backing file by qemu-img")
            self.lodge(20)
            self.check("the last round by Lodge")


def snapshots(img):
    for n in range(2):
        img.qemu(6)
        sh("qemu-img", "snapshot", "-c", f"s{n}", img.path)
        img.snaps[f"s{n}"] = bytes(img.data)
    img.qemu(4)


def bitmaps(img):
    img.qemu_bitmap()
    img.qemu(4)
    img.qemu_bitmap()


def compressed(img):
    img.qemu(8)
    with open("oracle.raw", "wb") as f:
        f.write(img.data)
    opts = ["-o", ",".join(img.options)] if img.options else []
    sh("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", *opts, "oracle.raw", img.path)


kinds = []
for by in ("qemu", "lodge"):
    def add(name, size, *options, **kw):
        kinds.append(Image(f"{by}-{name}", size, options, by=by, **kw))
    add("plain", 16 * MIB)
    add("discard", 16 * MIB, discard=True)
    add("odd", 5 * MIB + 512 * 3)
    add("v2", 16 * MIB, "compat=0.10", v2=True, discard=True)
    add("v2-backing", 8 * MIB, "compat=0.10", v2=True, backing=("raw", 6 * MIB), discard=True)
    add("c512", 4 * MIB, "cluster_size=512")
    add("c4k", 8 * MIB, "cluster_size=4096", discard=True)
    for kib in (1, 2, 8, 16, 32, 128, 256, 512, 1024):
        add(f"c{kib}k", 4 * MIB, f"cluster_size={kib * 1024}", rounds=4, discard=True)
    add("c2m", 32 * MIB, "cluster_size=2097152")
    for bits in (1, 2, 4, 8, 32, 64):
        add(f"r{bits}", 8 * MIB, f"refcount_bits={bits}", discard=True)
    add("c512r64", 2 * MIB, "cluster_size=512", "refcount_bits=64", discard=True)
    add("lazy", 16 * MIB, "lazy_refcounts=on")
    add("zstd", 16 * MIB, "compression_type=zstd", setup=compressed if by == "qemu" else None)
    add("zlib", 16 * MIB, setup=compressed if by == "qemu" else None)
    add("ext", 16 * MIB, "extended_l2=on", discard=True)
    add("ext-backing", 16 * MIB, "extended_l2=on", backing=("qcow2", 12 * MIB + 512 * 5), discard=True)
    add("ext-2m", 32 * MIB, "extended_l2=on", "cluster_size=2097152", backing=("raw", 12 * MIB))
    add("backing-raw", 16 * MIB, backing=("raw", 10 * MIB), discard=True)
    add("backing-qcow2", 16 * MIB, backing=("qcow2", 16 * MIB))
    add("backing-larger", 8 * MIB, backing=("qcow2", 12 * MIB), discard=True)
    add("chain", 8 * MIB, backing=("chain", 6 * MIB), discard=True)
    add("data", 16 * MIB, f"data_file={by}-data.data")
    add("data-raw", 16 * MIB, f"data_file={by}-data-raw.data", "data_file_raw=on")
    add("data-ext", 16 * MIB, f"data_file={by}-data-ext.data", "extended_l2=on")
    add("prealloc", 8 * MIB, "preallocation=metadata")
    add("prealloc-ext", 8 * MIB, "preallocation=metadata", "extended_l2=on")
    add("snap", 16 * MIB, setup=snapshots, discard=True)
    add("snap-ext", 16 * MIB, "extended_l2=on", setup=snapshots, discard=True)
    add("snap-c4k", 8 * MIB, "cluster_size=4096", setup=snapshots, discard=True)
    add("bitmaps", 16 * MIB, setup=bitmaps)
    add("bitmaps-c4k", 8 * MIB, "cluster_size=4096", setup=bitmaps)
    add("zstd-ext", 8 * MIB, "compression_type=zstd", "extended_l2=on", setup=compressed if by == "qemu" else None)
for how in ("falloc", "full"):
    kinds.append(Image(f"qemu-prealloc-{how}", 8 * MIB, [f"preallocation={how}"]))
kinds.append(Image("qemu-prealloc-data", 8 * MIB, ["preallocation=metadata", "data_file=qemu-prealloc-data.data"]))
kinds.append(Image("qemu-prealloc-backing", 8 * MIB, ["preallocation=metadata", "extended_l2=on"], backing=("raw", 6 * MIB)))


class Pairs:
    """Few kinds of image that have every pair of options which go together."""

    dims = {"by": ["qemu", "lodge"],
            "compat": ["1.1", "0.10"],
            "cluster_size": [512 << n for n in range(13)] if args.all else [512, 4096, 65536, 2097152],
            "refcount_bits": [1, 2, 4, 8, 16, 32, 64] if args.all else [1, 4, 16, 64],
            "extended_l2": ["off", "on"],
            "lazy_refcounts": ["off", "on"],
            "compression_type": ["zlib", "zstd"],
            "preallocation": ["off", "metadata", "falloc", "full"],
            "data": ["", "file", "raw"],
            "backing": ["", "raw", "qcow2", "chain"],
            "holds": ["", "compressed", "snapshots", "bitmaps"]}

    @staticmethod
    def good(o):
        """Do these go together? What is not in `o` is not decided yet."""
        has = lambda k, *v: k in o and o[k] in v
        hasnt = lambda k, *v: k in o and o[k] not in v
        return not (has("compat", "0.10") and (has("extended_l2", "on") or has("lazy_refcounts", "on") or has("compression_type", "zstd") or has("data", "file", "raw") or
                                               has("holds", "bitmaps") or hasnt("refcount_bits", 16)) or
                    has("extended_l2", "on") and o.get("cluster_size", 65536) < 16384 or
                    # tables for the whole disk and an old one below: only where a table can say so for a part of a cluster
                    hasnt("preallocation", "off") and hasnt("backing", "") and has("extended_l2", "off") or
                    has("data", "raw") and hasnt("backing", "") or
                    hasnt("data", "") and has("holds", "compressed", "snapshots") or
                    has("holds", "compressed") and (hasnt("backing", "") or hasnt("preallocation", "off")) or
                    has("holds", "snapshots") and has("refcount_bits", 1) or
                    has("by", "lodge") and hasnt("preallocation", "off") and (hasnt("backing", "") or hasnt("data", "")))

    @classmethod
    def pairs(cls, o):
        return {frozenset(p) for p in itertools.combinations(sorted(o.items(), key=lambda kv: kv[0]), 2)}

    @classmethod
    def rows(cls):
        rng = random.Random(7)
        left = {frozenset(p) for a, b in itertools.combinations(sorted(cls.dims), 2)
                for p in itertools.product([(a, x) for x in cls.dims[a]], [(b, x) for x in cls.dims[b]]) if cls.good(dict(p))}
        while left:
            best, most = None, -1
            for _ in range(60):
                o = dict(rng.choice(sorted(map(sorted, left), key=str)))
                for k in rng.sample(sorted(cls.dims), len(cls.dims)):
                    values = [v for v in cls.dims[k] if cls.good({**o, k: v})] if k not in o else []
                    if values:
                        rng.shuffle(values)
                        o[k] = max(values, key=lambda v: len(cls.pairs({**o, k: v}) & left))
                n = len(cls.pairs(o) & left) if len(o) == len(cls.dims) else -1
                if n > most:
                    best, most = o, n
            if most <= 0:
                break  # what is left goes with nothing else: none, as long as good() is right
            left -= cls.pairs(best)
            yield best
        assert not left, left

    @classmethod
    def image(cls, n, o):
        name = f"pairs-{n}"
        options = [f"{k}={o[k]}" for k in ("compat", "cluster_size", "refcount_bits") if o[k] not in ("1.1", 65536, 16)]
        options += [f"{k}={o[k]}" for k in ("extended_l2", "lazy_refcounts", "compression_type", "preallocation") if o[k] not in ("off", "zlib")]
        options += [f"data_file={name}.data"] * (o["data"] != "") + ["data_file_raw=on"] * (o["data"] == "raw")
        setup = {"": None, "compressed": compressed, "snapshots": snapshots, "bitmaps": bitmaps}[o["holds"]]
        big = o["cluster_size"] > 65536
        return Image(name, (16 if big else 4 if o["cluster_size"] > 512 else 2) * MIB, options, by=o["by"], v2=o["compat"] == "0.10", rounds=3,
                     backing=(o["backing"], (8 if big else 4) * MIB) if o["backing"] else None, discard=n % 2 == 0,
                     setup=None if o["by"] == "lodge" and o["holds"] == "compressed" else setup)


kinds += [Pairs.image(n, o) for n, o in enumerate(Pairs.rows())]


def refused():
    """What Lodge does not take, it names."""
    for how in ("luks", "aes"):
        sh("qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o",
           f"encrypt.format={how},encrypt.key-secret=s" + ",encrypt.iter-time=10" * (how == "luks"), how, "1M")
        p = sh(LODGE, "disk", "info", f"{how}:qcow2", ok=(1,))
        assert "encrypt" in p.stderr, p.stderr
    sh("qemu-img", "create", "-q", "-f", "qcow2", "base", "1M")
    sh("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-o", "compat=0.10", "-b", "base", "-F", "qcow2", "top", "1M")
    with open("top", "r+b") as f:  # as old versions of qemu-img made them: the format is not named
        f.seek(72)
        assert f.read(4) == bytes.fromhex("e2792aca")
        f.seek(72)
        f.write(bytes(8))
    p = sh(LODGE, "disk", "convert", "top:qcow2", "out:raw", ok=(1, 2))
    assert "formats are never guessed" in p.stderr, p.stderr


with tempfile.TemporaryDirectory(prefix="lodge-qcow2-") as tmp:
    if args.keep:
        tmp = "/tmp/lodge-qcow2-kept"
        os.makedirs(tmp, exist_ok=True)
    os.chdir(tmp)
    for name, run in [(k.name, k.run) for k in kinds] + [("refused", refused)]:
        if args.only not in name:
            continue
        random.seed(f"{args.seed} {name}")
        began = time.monotonic()
        try:
            run()
            print(f"PASS: {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except (AssertionError, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"FAIL: {name}: {e}", flush=True)
            if args.keep:
                break
sys.exit(failed != 0)

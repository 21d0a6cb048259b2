#!/usr/bin/env python3
# time-limit: 300
"""qcow2 beside QEMU's tools: random operations by both on every kind of image, each state checked and compared with a raw oracle."""
import argparse
import os
import random
import subprocess
import sys
import tempfile

top = os.environ.get("LODGE_TOP", os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
ap = argparse.ArgumentParser()
ap.add_argument("--only", default="")
ap.add_argument("--seed", type=int, default=1)
ap.add_argument("--rounds", type=int, default=8)
ap.add_argument("--build", default=os.environ.get("LODGE_BUILD", os.path.join(top, "build")))
ap.add_argument("--keep", action="store_true")
args = ap.parse_args()
TOOL = os.path.join(args.build, "tests/tools/disk-io")
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


class Image:
    def __init__(self, name, size, options=(), backing=None, by="qemu", setup=None, discard=False, v2=False, check_ok=(0,)):
        self.name, self.size, self.by, self.discard, self.v2 = name, size, by, discard, v2
        self.path = f"{name}.qcow2"
        self.options, self.backing, self.setup, self.check_ok = list(options), backing, setup, check_ok
        self.data = bytearray(size)
        self.snaps, self.bitmaps = {}, False
        self.packs = not any("data_file" in o for o in self.options)

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
        script, discarded = [], []
        cluster = 65536
        for o in self.options:
            if o.startswith("cluster_size="):
                cluster = int(o.split("=")[1])
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
                if op in "wuc":
                    script.append(f"{op} {off} {length} {pat}")
                    self.data[off:off + length] = pattern(off, length, pat)
                elif op == "z":
                    script.append(f"z {off} {length} {random.randrange(2)}")
                    self.data[off:off + length] = bytes(length)
                elif not discarded:
                    # what it reads as is looked at when the round is over: nothing may be written there before
                    script.append(f"d {off} {length}")
                    discarded.append((off, length, bytes(self.data[off:off + length])))
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
        for off, length, old in discarded:
            for at in range(0, length, SECTOR):
                is_ = out[off + at:off + at + SECTOR]
                if is_ != self.data[off + at:off + at + SECTOR]:
                    assert is_ == bytes(SECTOR), f"discard at {off + at}: neither old nor zero"
                    self.data[off + at:off + at + SECTOR] = is_
        self.differ(out, "read by Lodge")

    def qemu(self, n):
        cmds, taken = [], []
        for _ in range(n):
            r = self.free_range(taken)
            if not r:
                continue
            off, length = r
            op = random.choices("wzZ", [60, 15, 0 if self.v2 else 10])[0]
            if op == "w":
                pat = random.randrange(1, 251)
                cmds += ["-c", f"write -P {pat} {off} {length}"]
                self.data[off:off + length] = bytes([pat]) * length
            else:
                cmds += ["-c", f"write -z {'-u ' if op == 'Z' else ''}{off} {length}"]
                self.data[off:off + length] = bytes(length)
        p = sh("qemu-io", "-f", "qcow2", *cmds, self.path)
        assert "rror" not in p.stdout + p.stderr and "failed" not in p.stdout + p.stderr, p.stdout + p.stderr

    def admin(self):
        """Snapshots, size, check and bitmaps by Lodge."""
        script = []
        if self.packs and not any("refcount_bits=1" == o for o in self.options):
            if self.snaps and random.random() < 0.5:
                name = random.choice(list(self.snaps))
                if random.random() < 0.5 and not self.bitmaps:
                    self.data = bytearray(self.snaps[name])
                    script.append(f"A {name}")
                    self.size = len(self.data)
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
        if not self.v2 and random.random() < 0.3:
            script.append(f"B bm{random.randrange(10**6)}")
            self.bitmaps = True
        r = self.free_range([])
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

    def run(self):
        self.create()
        for i in range(args.rounds):
            if args.keep:
                sh("cp", self.path, "before.qcow2")
                if os.path.exists("last-script"):
                    os.rename("last-script", "script-before")
            if i % 3 == 2:
                self.admin()
                self.check(f"round {i}: snapshots, size, bitmaps by Lodge")
            elif i % 3 == 0:
                self.lodge(random.choice([3, 20, 60]))
                self.check(f"round {i} by Lodge")
            else:
                self.qemu(random.choice([3, 12]))
                self.check(f"round {i} by qemu-io")


def snapshots(img):
    for n in range(2):
        img.qemu(6)
        sh("qemu-img", "snapshot", "-c", f"s{n}", img.path)
    img.qemu(4)


def bitmaps(img):
    sh("qemu-img", "bitmap", "--add", img.path, "b0")
    img.qemu(4)
    sh("qemu-img", "bitmap", "--add", "-g", "4096", img.path, "b1")


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
    add("data", 16 * MIB, f"data_file={by}-data.data")
    add("data-raw", 16 * MIB, f"data_file={by}-data-raw.data", "data_file_raw=on")
    add("data-ext", 16 * MIB, f"data_file={by}-data-ext.data", "extended_l2=on")
    add("prealloc", 8 * MIB, "preallocation=metadata")
    add("prealloc-ext", 8 * MIB, "preallocation=metadata", "extended_l2=on")
    add("snap", 16 * MIB, setup=snapshots, discard=True)
    add("snap-ext", 16 * MIB, "extended_l2=on", setup=snapshots, discard=True)
    add("snap-c4k", 8 * MIB, "cluster_size=4096", setup=snapshots, discard=True)
    add("bitmaps", 16 * MIB, setup=bitmaps)

with tempfile.TemporaryDirectory(prefix="lodge-qcow2-") as tmp:
    if args.keep:
        tmp = "/tmp/lodge-qcow2-kept"
        os.makedirs(tmp, exist_ok=True)
    os.chdir(tmp)
    for k in kinds:
        if args.only not in k.name:
            continue
        random.seed(f"{args.seed} {k.name}")
        try:
            k.run()
            print(f"ok   {k.name}", flush=True)
        except (AssertionError, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"FAIL {k.name}: {e}", flush=True)
            if args.keep:
                break
sys.exit(failed != 0)

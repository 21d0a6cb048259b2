#!/usr/bin/env python3
# time-limit: 420
"""Stores that Lodge writes, read by a reader that was written from docs/lodgefs.md alone (tests/lib/lodgefs.py): with snapshots, clones, composed disks, recorded
changes, checksums of data, and a journal to replay. It yields the same bytes as Lodge, also where a power cut took data that a record vouches for."""
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

top = os.environ.get("LODGE_TOP", os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
sys.path.insert(0, os.path.join(top, "tests/lib"))
import lodgefs

BUILD = os.environ.get("LODGE_BUILD", os.path.join(top, "build"))
LODGE, TOOL = f"{BUILD}/src/cli/lodge", f"{BUILD}/tests/tools/disk-failures"
MIB = 1 << 20
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # it is not about the host's disk
failed = 0


def sh(*cmd, code=0):
    p = subprocess.run(cmd, capture_output=True, text=True, timeout=60)
    assert p.returncode == code, f"{' '.join(cmd)}: {p.returncode}, not {code}\n{p.stdout}{p.stderr}"
    return p.stdout


def traffic(rng, path, steps, kill, snapshots=0, commit="flush"):
    """Writes, zeroes, discards, snapshots in a process that closes the disk at the end, or is killed."""
    with subprocess.Popen([TOOL, "lodgefs", path, "report", f"commit={commit}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as p:
        assert p.stdout.readline() == "open\n"
        for i in range(steps):
            off, n = rng.randrange(24) * 4 * MIB + rng.randrange(32) * 4096, rng.choice((512, 4096, 4096, 20480, 65536, 200 * 1024))
            off += rng.choice((0, 0, 0, 512, 3584))
            line = f"{rng.choice('wwwwwwzd')} {off} {n} {rng.randrange(250)}"
            if snapshots and i % (steps // snapshots) == steps // snapshots - 1:
                line = f"S {i} {i + 1}"
            elif not rng.randrange(12):
                line = "f"
            p.stdin.write(line + "\n")
            answer = p.stdout.readline()
            assert answer == "ok\n", f"{line}: {answer}"
        if kill:
            p.kill()
        else:
            p.stdin.close()
        p.wait(60)


def read(store, name, out):
    with open(out, "wb") as f:
        for n, b in store.contents(store.find(name)):
            if b is None:
                f.seek(n, os.SEEK_CUR)
            else:
                f.write(b)
        f.truncate()


def data_of(f):
    """Where a file has data."""
    at, end = 0, os.fstat(f.fileno()).st_size
    while at < end:
        try:
            at = os.lseek(f.fileno(), at, os.SEEK_DATA)
        except OSError:
            return
        hole = os.lseek(f.fileno(), at, os.SEEK_HOLE)
        yield at, hole
        at = hole


def alike(one, two):
    """The same bytes; holes are not read in both."""
    with open(one, "rb") as a, open(two, "rb") as b:
        assert os.fstat(a.fileno()).st_size == os.fstat(b.fileno()).st_size
        for at, end in list(data_of(a)) + list(data_of(b)):
            for off in range(at, end, MIB):
                n = min(MIB, end - off)
                assert os.pread(a.fileno(), n, off) == os.pread(b.fileno(), n, off), f"{one} and {two} differ in {n} bytes at {off}"


def ranges(changes):
    """Of chunks of 64 KiB: (offset, length)."""
    out = []
    for c in changes:
        if out and out[-1][0] + out[-1][1] == c * 65536:
            out[-1][1] += 65536
        else:
            out.append([c * 65536, 65536])
    return out


def same(path, boot=None, generations=()):
    """What the reader says of the store as it is, and Lodge of a copy."""
    s = lodgefs.Store(path, boot)
    s.check()
    copy = path + ".copy"
    sh("cp", "--sparse=always", path, copy)
    disks = {r.id: r.name for r in s.records if r.type == lodgefs.DISK}
    names = [(name, name) for name in disks.values()]
    for r in s.records:
        if r.type == lodgefs.SNAPSHOT:
            names.append((f"{disks[r.owner]}@{r.name}", f"of-{r.id}"))
            sh(LODGE, "disk", "create", "-o", f"clone={disks[r.owner]}@{r.name}", f"{copy}/of-{r.id}:lodgefs")
    for name, theirs in names:
        read(s, name, path + ".ours")
        sh(LODGE, "disk", "convert", f"{copy}/{theirs}:lodgefs", f"{path}.theirs:raw", "--force")
        alike(path + ".ours", path + ".theirs")
    for name, g in generations:
        said = json.loads(sh(LODGE, "disk", "map", f"{copy}/{name}:lodgefs", "--changed-since", str(g), "--json"))
        theirs = [[x["start"], x["length"]] for x in said["changed"]]
        ours = ranges(s.changed_since(s.find(name), g))
        assert ours == theirs, f"{name} since {g}: {ours}, and Lodge says {theirs}"
    sh(LODGE, "store", "check", f"{copy}:lodgefs")
    os.unlink(copy)
    return s


def poke(path, off, data):
    with open(path, "r+b") as f:
        f.seek(off)
        f.write(data)


def other_boot(path):
    """As if the host had been booted since."""
    with open(path, "rb") as f:
        f.seek(8192)
        b = f.read(512)
    b = b[:120] + b"another boot".ljust(40, b"\0") + b[160:]
    poke(path, 8192, b[:4] + struct.pack("<I", lodgefs.crc32c(lodgefs.without(b, 4))) + b[8:])


def last_vouched(path):
    """Of the records that need a proof, the last one's first place of data."""
    s = lodgefs.Store(path)
    number, at, found, durable = s.number, s.tail, None, 0
    while (r := s._record(at, number)) is not None:
        if r[0] == 3:
            at = 0
            continue
        durable = max(durable, r[1])
        found = (number, r[3][0][0]) if r[3] else found
        at, number = (at + r[4]) % s.journal_bytes, number + 1
    return found[1] if found and found[0] > durable else None


def whole_story(seed, sums):
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="lodge-spec-", dir=MEMORY) as t:
        path = f"{t}/store"
        sh(LODGE, "store", "create", f"{path}:lodgefs", "-s", "120M", "-o", f"journal=1M,entries=40,max-size=300M,sums={sums}")
        sh(LODGE, "disk", "create", "-o", "track=on", "-s", "100M", f"{path}/a:lodgefs")
        traffic(rng, f"{path}/a", 60, False, 2)
        first = json.loads(sh(LODGE, "disk", "generation", "--next", "--json", f"{path}/a:lodgefs"))["generation"]
        snapshots = json.loads(sh(LODGE, "disk", "snapshot", f"{path}/a:lodgefs", "--json"))
        sh(LODGE, "disk", "create", "-o", f"clone=a@{snapshots[0]['name']}", f"{path}/b:lodgefs")
        sh(LODGE, "disk", "create", "-o", f"compose=a/0/9M/ro+-/4M+b/4M/60M+a@{snapshots[1]['name']}/0/12M/ro", f"{path}/c:lodgefs")
        sh(LODGE, "disk", "create", "-s", "60000M", f"{path}/high:lodgefs")
        sh(LODGE, "disk", "bitmap", f"{path}/a:lodgefs", "--add", "backup")
        sh(LODGE, "disk", "resize", f"{path}/b:lodgefs", "7000M")
        traffic(rng, f"{path}/high", 12, False, 1)
        same(path, None, [("a", first)])
        # Killed: the host lives, and everything that was answered counts.
        for name, steps, commit in (("b", 24, "flush"), ("a", 40, "batch")):
            traffic(rng, f"{path}/{name}", steps, True, 1, commit)
            s = same(path, None, [("a", first), ("a", first + 1)])
            assert s.replayed > 0 and s.dropped == 0, "there was nothing to replay"
            if name == "b":
                continue
            # The host was booted since: records have to be proved.
            cut = f"{path}.cut"
            shutil.copy(path, cut)
            other_boot(cut)
            same(cut, None, [("a", first)])
            # And now the data of the last one has not arrived.
            place = last_vouched(path)
            if place is not None:
                poke(cut, place, os.urandom(512))
                assert same(cut, None, [("a", first)]).dropped > 0, "data that is not there was not missed"
            # The end of the journal is torn.
            shutil.copy(path, cut)
            poke(cut, s.journal_at + (s.tail + 700) % s.journal_bytes, os.urandom(8))
            assert same(cut).replayed < s.replayed


def refused():
    """What contradicts the page is refused by both."""
    with tempfile.TemporaryDirectory(prefix="lodge-spec-", dir=MEMORY) as t:
        path = f"{t}/store"
        sh(LODGE, "store", "create", f"{path}:lodgefs", "-s", "120M", "-o", "journal=1M,entries=7,max-size=120M,sums=on")
        sh(LODGE, "disk", "create", "-s", "100M", f"{path}/a:lodgefs")
        traffic(random.Random(1), f"{path}/a", 1, False)
        traffic(random.Random(2), f"{path}/a", 20, False)
        s = same(path)
        root = s.find("a").root
        places = [p for mib in range(100) for p in s.entry(s.find("a"), mib) if p]
        for what, at in (("a page of pointers", root * 4096 + 100), ("the directory", s.dir_at + 700), ("the bitmap", s.bitmap_at + 100),
                         ("data", places[len(places) // 2] + 5)):
            bad = path + ".bad"
            shutil.copy(path, bad)
            with open(bad, "rb") as f:
                f.seek(at)
                b = f.read(1)
            poke(bad, at, bytes([b[0] ^ 16]))
            try:
                s = lodgefs.Store(bad)
                s.check()
                for _ in s.contents(s.find("a")):
                    pass
                raise AssertionError(f"{what}: the reader has not seen it")
            except lodgefs.Wrong:
                pass
            sh(LODGE, "disk", "convert", f"{bad}/a:lodgefs", f"{path}.out:raw", "--force", code=1)
            sh(LODGE, "store", "check", f"{bad}:lodgefs", code=1)


def case(name, f, *args):
    global failed
    try:
        f(*args)
        print(f"PASS: {name}", flush=True)
    except (AssertionError, lodgefs.Wrong, subprocess.SubprocessError, OSError) as e:
        failed += 1
        print(f"FAIL: {name}: {e!r}", flush=True)


for seed in range(int(os.environ.get("LODGE_SPEC_SEED", 1)), int(os.environ.get("LODGE_SPEC_SEED", 1)) + int(os.environ.get("LODGE_SPEC_RUNS", 1))):
    case(f"the reader agrees with Lodge (seed {seed})", whole_story, seed, "off")
    case(f"with checksums of data (seed {seed})", whole_story, seed + 1000, "on")
case("damage is refused by both", refused)
raise SystemExit(failed != 0)

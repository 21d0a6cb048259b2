#!/usr/bin/env python3
# time-limit: 300
"""lodge disk beside qemu-img: what one makes the other reads, for every verb; and what the verbs answer to mistakes."""
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))
from machine import LODGE, loop_device, sh, wait_for

MIB = 1 << 20
failed = 0


def disk(*args, code=0):
    return sh(LODGE, "disk", *args, code=code)


def check(name):
    global failed

    def run(f):
        global failed
        with tempfile.TemporaryDirectory(prefix="lodge-images-") as d:
            os.chdir(d)
            try:
                f()
                print(f"PASS: {name}")
            except AssertionError as e:
                failed += 1
                print(f"FAIL: {name}: {e}")
            os.chdir("/")
        return f
    return run


def listens(path):
    """Whether somebody does, at a socket: it is there a moment before."""
    with socket.socket(socket.AF_UNIX) as s:
        return not s.connect_ex(path)


def has(text, *words):
    for w in words:
        assert w in text, f"'{w}' is not in: {text}"


def sparse_raw(path, size, seed):
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        for _ in range(12):
            f.seek(rng.randrange(size // 4096) * 4096)
            f.write(rng.randbytes(min(rng.choice((512, 4096, 70000)), size - f.tell())))
        f.truncate(size)


def same(a, fa, b, fb):
    has(sh("qemu-img", "compare", "-f", fa, "-F", fb, a, b), "Images are identical")
    has(disk("compare", f"{a}:{fa}", f"{b}:{fb}"), "the same contents")


@check("raw: create, sizes, holes")
def _():
    disk("create", "a:raw", "--size", "64M")
    assert os.stat("a").st_size == 64 * MIB and os.stat("a").st_blocks == 0
    has(disk("create", "a:raw", "--size", "64M", code=1), "is there already")
    os.mkdir("folder")
    for fmt in ("raw", "qcow2"):
        said = disk("create", f"folder:{fmt}", "--size", "64M", "--force", code=2)
        assert said.count("disk folder") == 1, said
    os.rmdir("folder")
    disk("create", "a:raw", "--size", "32M", "--force")
    has(disk("create", "b", "--size", "1M", code=2), "names no format", "never guessed")
    has(disk("create", "b:vhd", "--size", "1M", code=2), "there is no format 'vhd'")
    has(disk("info", "none:raw", code=3), "there is no such file")
    disk("resize", "a:raw", "+1M")
    assert json.loads(disk("info", "a:raw", "--json"))["size"] == 33 * MIB
    has(disk("resize", "a:raw", "8M", code=2), "--shrink")
    disk("resize", "a:raw", "8M", "--shrink")
    assert os.stat("a").st_size == 8 * MIB


@check("convert: raw and qcow2 both ways, compressed, by both programs")
def _():
    sparse_raw("r", 40 * MIB, 1)
    for n, opts in enumerate(((), ("-o", "cluster-size=4K"), ("-o", "extended-l2=on,cluster-size=64K"), ("--compress",),
                              ("--compress", "-o", "compression-type=zstd"), ("--no-sparse",))):
        out = f"q{n}"
        disk("convert", "r:raw", f"{out}:qcow2", *opts)
        has(sh("qemu-img", "check", "-f", "qcow2", out), "No errors")
        same("r", "raw", out, "qcow2")
        disk("convert", f"{out}:qcow2", f"back{n}:raw")
        assert open("r", "rb").read() == open(f"back{n}", "rb").read()
        assert os.stat(f"back{n}").st_blocks <= os.stat("r").st_blocks + 64, "holes were lost"
    counted = json.loads(disk("convert", "r:raw", "counted:qcow2", "--compress", "--json").splitlines()[-1])
    assert counted["copied"] + counted["skipped"] == os.path.getsize("r"), counted
    disk("convert", "r:raw", "dense:qcow2", "--compress", "--no-sparse")
    same("r", "raw", "dense", "qcow2")
    assert all(x["data"] for x in json.loads(disk("map", "dense:qcow2", "--json"))), "zeroes were left out"
    sh("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "r", "theirs")
    disk("convert", "theirs:qcow2", "ours:raw")
    assert open("r", "rb").read() == open("ours", "rb").read()


@check("resize --shrink: the file ends where qemu-img ends it")
def _():
    for options in ("cluster_size=64K",), ("cluster_size=4K",), ("cluster_size=64K,data_file=data",), ("cluster_size=64K,data_file=data,data_file_raw=on",), ("compat=0.10",):
        ends = []
        for whose in "ours", "theirs":
            sh("rm", "-f", "q", "data")
            sh("qemu-img", "create", "-q", "-f", "qcow2", "-o", *options, "q", "96M")
            for at in range(0, 96, 16):
                sh("qemu-io", "-f", "qcow2", "-c", f"write -P {at + 1} {at}M 16M", "q")
            if whose == "ours":
                disk("resize", "q:qcow2", "20M", "--shrink")
            else:
                sh("qemu-img", "resize", "-q", "--shrink", "q", "20M")
            has(sh("qemu-img", "check", "-f", "qcow2", "q"), "No errors")
            sh("qemu-io", "-f", "qcow2", "-r", "-c", "read -P 1 0 16M", "-c", "read -P 17 16M 4M", "q")
            ends.append([os.path.getsize(f) for f in ("q", "data") if os.path.exists(f)])
        # A table that is longer than it has to be may lie at the end.
        assert ends[0][0] <= ends[1][0] + 4 * 65536 and ends[0][1:] <= ends[1][1:], (options, ends)
    disk("resize", "q:qcow2", "96M")
    sh("qemu-io", "-f", "qcow2", "-r", "-c", "read -P 0 20M 76M", "q")


@check("compare finds the byte")
def _():
    sparse_raw("r", 8 * MIB, 2)
    disk("convert", "r:raw", "q:qcow2")
    with open("r", "r+b") as f:
        f.seek(5 * MIB + 77)
        old = f.read(1)
        f.seek(5 * MIB + 77)
        f.write(bytes([old[0] ^ 1]))
    has(disk("compare", "r:raw", "q:qcow2", code=1), str(5 * MIB + 77))


@check("chains: create, map, commit, rebase")
def _():
    sparse_raw("r", 16 * MIB, 3)
    disk("convert", "r:raw", "base:qcow2")
    disk("create", "top:qcow2", "--backing", "base:qcow2")
    info = json.loads(sh("qemu-img", "info", "--output=json", "top"))
    assert info["backing-filename"] == "base" and info["backing-filename-format"] == "qcow2", info
    assert info["virtual-size"] == 16 * MIB
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 200k", "-c", "write -z 3M 128k", "top")
    theirs = json.loads(sh("qemu-img", "map", "--output=json", "-f", "qcow2", "top"))
    ours = json.loads(disk("map", "top:qcow2", "--json"))
    for name, key in (("data", "data"), ("depth", "depth")):
        def spread(m):
            out = []
            for x in m:
                v = x[key] if x["data"] or key == "data" else None
                if out and out[-1][1] == v:
                    continue
                out.append((x["start"], v))
            return out
        assert spread(theirs) == spread(ours), f"{name}: {spread(theirs)} {spread(ours)}"
    disk("convert", "top:qcow2", "flat:raw")
    # Rebase on nothing keeps the contents, so does rebase on another file.
    sh("cp", "top", "alone")
    disk("rebase", "alone:qcow2", "--alone")
    assert "backing-filename" not in json.loads(sh("qemu-img", "info", "--output=json", "alone"))
    same("alone", "qcow2", "flat", "raw")
    disk("create", "other:raw", "--size", "16M")
    sh("cp", "top", "moved")
    disk("rebase", "moved:qcow2", "--backing", "other:raw")
    same("moved", "qcow2", "flat", "raw")
    has(sh("qemu-img", "check", "-f", "qcow2", "moved"), "No errors")
    # Only what differs from another disk; theirs shows the same.
    disk("convert", "flat:raw", "thin:qcow2", "--backing", "base:qcow2")
    same("thin", "qcow2", "flat", "raw")
    has(sh("qemu-img", "check", "-f", "qcow2", "thin"), "No errors")
    thin = json.loads(sh("qemu-img", "map", "--output=json", "-f", "qcow2", "thin"))
    assert 200 << 10 <= sum(x["length"] for x in thin if x["depth"] == 0) <= 1 * MIB, thin
    disk("commit", "--keep", "top:qcow2")
    same("base", "qcow2", "flat", "raw")
    assert any(x["depth"] == 0 for x in json.loads(sh("qemu-img", "map", "--output=json", "-f", "qcow2", "top")))
    disk("commit", "top:qcow2")
    same("base", "qcow2", "flat", "raw")
    same("top", "qcow2", "flat", "raw")
    assert not any(x["depth"] == 0 and x["present"] for x in json.loads(sh("qemu-img", "map", "--output=json", "-f", "qcow2", "top")))
    for image in ("base", "top"):
        has(sh("qemu-img", "check", "-f", "qcow2", image), "No errors")
    has(disk("rebase", "top:qcow2", code=2), "--alone")


@check("another backing file, or none: what nobody has is not looked at, however large")
def _():
    sparse_raw("small", 4 * MIB, 41)
    disk("create", "old:raw", "-s", "8T")
    disk("create", "new:raw", "-s", "9T")
    with open("old", "r+b") as f:
        f.write(b"o" * 512)
        f.seek(7 << 40)
        f.write(b"o" * 512)
    with open("new", "r+b") as f:
        f.seek(5 << 40)
        f.write(b"n" * 512)
    disk("create", "top:qcow2", "-s", "10T", "--backing", "old:raw")
    disk("create", "flat:raw", "-s", "10T")
    for at in 0, 7 << 40:
        with open("flat", "r+b") as f:
            f.seek(at)
            f.write(b"o" * 512)
    for options in ("--backing", "new:raw"), ("--alone",), ("--backing", "small:raw"):
        began = time.monotonic()
        disk("rebase", "top:qcow2", *options)
        has(disk("compare", "top:qcow2", "flat:raw"), "the same contents")
        assert time.monotonic() - began < 60, "10 TiB were looked at"
    has(sh("qemu-img", "check", "-f", "qcow2", "top"), "No errors")


@check("snapshots: ours are theirs")
def _():
    disk("create", "q:qcow2", "--size", "8M")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "q")
    disk("convert", "q:qcow2", "one:raw")
    disk("snapshot", "q:qcow2", "--create", "first")
    has(sh("qemu-img", "snapshot", "-l", "q"), "first")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 2 512k 1M", "q")
    sh("qemu-img", "snapshot", "-c", "second", "q")
    has(disk("snapshot", "q:qcow2"), "first", "second")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 3 0 4M", "q")
    disk("snapshot", "q:qcow2", "--apply", "first")
    same("q", "qcow2", "one", "raw")
    disk("snapshot", "q:qcow2", "--delete", "second")
    has(sh("qemu-img", "check", "-f", "qcow2", "q"), "No errors")
    has(disk("snapshot", "q:qcow2", "--apply", "third", code=3), "third")


@check("records of changes can be read")
def _():
    sh(LODGE, "store", "create", "s:lodgefs", "--size", "80M")
    disk("create", "s/d:lodgefs", "--size", "8M")
    disk("create", "q:qcow2", "--size", "8M")
    disk("bitmap", "q:qcow2", "--add", "all", "--granularity", "4K")
    has(disk("bitmap", "q:qcow2"), "NAME ", "GRANULARITY", "all ")
    assert json.loads(disk("map", "q:qcow2", "--bitmap", "all", "--json"))["changed"] == []
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 1 1M 5k", "-c", "write -P 1 8388096 512", "q")
    assert json.loads(disk("map", "q:qcow2", "--bitmap", "all", "--json"))["changed"] == [{"start": MIB, "length": 8192}, {"start": 8 * MIB - 4096, "length": 4096}]
    has(disk("map", "q:qcow2", "--bitmap", "all"), "0x100000           0x2000\n")
    disk("bitmap", "s/d:lodgefs", "--add", "all")
    disk("snapshot", "s/d:lodgefs", "--create", "before")
    has(disk("snapshot", "s/d:lodgefs"), "ID ", "NAME ", "before")
    assert json.loads(disk("map", "s/d:lodgefs", "--bitmap", "all", "--json")) == {"bitmap": "all", "changed": []}
    has(disk("map", "q:qcow2", "--bitmap", "nope", code=3), "nope")
    has(disk("map", "q:qcow2", "--bitmap", "all", "--changed-since", "1", code=2), "take one")
    has(disk("map", "s/d:lodgefs", "--bitmap", "nope", code=3), "nope")


@check("convert: larger, slower; compare: as long")
def _():
    sparse_raw("r", 6 * MIB, 9)
    disk("convert", "r:raw", "q:qcow2", "--size", "64M")
    disk("convert", "r:raw", "l:raw", "--size", "7M")
    disk("create", "top:qcow2", "--backing", "q:qcow2")
    disk("convert", "l:raw", "thin:qcow2", "--backing", "q:qcow2", "--size", "65M")
    assert [json.loads(sh("qemu-img", "info", "--output=json", n))["virtual-size"] >> 20 for n in ("q", "l", "thin")] == [64, 7, 65]
    for name, fmt in ("q", "qcow2"), ("l", "raw"), ("thin", "qcow2"):
        has(sh("qemu-img", "compare", "-f", "raw", "-F", fmt, "r", name), "Images are identical")
        has(disk("compare", "r:raw", f"{name}:{fmt}"), "one is longer, by zeroes")
        has(disk("compare", "--strict", f"{name}:{fmt}", "r:raw", code=1), f"differ at byte {6 * MIB}")
    disk("compare", "--strict", "q:qcow2", "top:qcow2")
    has(disk("convert", "r:raw", "new:raw", "--size", "5M", code=2), "--size is less")
    has(disk("convert", "r:raw", "new:qcow2", "-b", "q:qcow2", "--rate", "1M", code=2), "none of")
    assert not os.path.exists("new")
    with open("full", "wb") as f:
        f.write(b"x" * 6 * MIB)
    for more in (), ("--compress",):
        began = time.monotonic()
        disk("convert", "full:raw", f"slow{len(more)}:qcow2", "--rate", "4M", *more)
        assert time.monotonic() - began > 0.9, "6 MiB at 4 MiB a second, of which a piece or two come at once"
        same("full", "raw", f"slow{len(more)}", "qcow2")
    # Nobody reads how far it is: the copy is whole all the same.
    p = subprocess.Popen([LODGE, "disk", "convert", "full:raw", "unread:qcow2", "--rate", "4M", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    p.stdout.close()
    said = p.stderr.read()
    assert p.wait(60) == 1 and said == "lodge: standard output cannot be written\n", (p.returncode, said)
    same("full", "raw", "unread", "qcow2")


@check("check and repair")
def _():
    disk("create", "q:qcow2", "--size", "8M")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", "q")
    has(disk("check", "q:qcow2"), "nothing is wrong")
    with open("q", "r+b") as f:  # a data cluster that is counted twice
        f.seek(0x30)
        table = int.from_bytes(f.read(8), "big")
        f.seek(table)
        block = int.from_bytes(f.read(8), "big")
        f.seek(block + 2 * 6)
        f.write(b"\0\2")
    text = disk("check", "q:qcow2", "--json")
    found = json.loads(text)
    assert found["leaks"] == 1 and found["errors"] == 0, text
    has(disk("check", "q:qcow2"), "leak: cluster 6: its count is 2, references to it: 1\n", "q:qcow2: 0 errors, 1 leak of 64 KiB: `lodge disk repair` mends them\n")
    text = disk("repair", "q:qcow2")
    has(text, "q:qcow2: repaired 0 errors and 1 leak\nq:qcow2: nothing is wrong any more\n", "1 MiB of 8 MiB is allocated (12.5 %); the file is in use up to ")
    has(sh("qemu-img", "check", "-f", "qcow2", "q"), "No errors")
    has(disk("check", "none:raw", code=3), "no such file")
    with open("q", "r+b") as f:  # marked as damaged, as QEMU and Lodge do when they meet an entry that cannot be
        f.seek(79)
        f.write(b"\2")
    said = disk("resize", "q:qcow2", "+1M", code=1)
    has(said, "marked as damaged", "`lodge disk repair q:qcow2`")
    disk("convert", "q:qcow2", "saved:raw")
    sh(LODGE, *said.split("`lodge ")[1].split("`")[0].split())  # what it says helps
    disk("resize", "q:qcow2", "+1M")
    has(sh("qemu-img", "check", "-f", "qcow2", "q"), "No errors")


@check("names in images: with colons, with \"file:\", of other protocols, with bytes that are no text")
def _():
    sparse_raw("b:c.raw", 2 * MIB, 31)
    sparse_raw("plain", 2 * MIB, 32)
    odd = os.fsdecode(b"no\xfftext")
    sparse_raw(odd, 2 * MIB, 33)
    disk("create", "top:qcow2", "--backing", "b:c.raw:raw")
    disk("create", "again:qcow2", "--backing", "plain:raw")
    disk("rebase", "again:qcow2", "--backing", "b:c.raw:raw")
    disk("create", "apart:qcow2", "-s", "2M", "-o", "data-file=d:e")
    disk("convert", "plain:raw", "kept:qcow2", "-o", "data-file=d:f")
    for name, like in ("top", "b:c.raw"), ("again", "plain"), ("kept", "plain"):
        has(sh("qemu-img", "compare", "-f", "qcow2", "-F", "raw", name, "./" + like), "Images are identical")  # QEMU, too, takes it for a file
        has(disk("compare", f"{name}:qcow2", f"{like}:raw"), "the same contents")
    sh("qemu-img", "check", "-q", "-f", "qcow2", "apart")
    os.mkdir("below")
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", "file:plain", "-F", "raw", "below/q")
    has(disk("compare", "below/q:qcow2", "plain:raw"), "the same contents")
    for path in "nbd://localhost/x", "nbd:unix:/sock", 'json:{"driver":"raw","file":{"driver":"file","filename":"plain"}}':
        sh("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", path, "-F", "raw", "far", "2M")
        has(disk("map", "far:qcow2", code=1), f"backing file '{path}'", "protocol")
        assert json.loads(disk("info", "far:qcow2", "--json"))["backing_file"] == path
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", odd, "-F", "raw", "strange")
    has(disk("compare", "strange:qcow2", f"{odd}:raw"), "the same contents")
    assert json.loads(disk("info", "strange:qcow2", "--json"))["backing_file"] == "no?text"
    sh(LODGE, "store", "create", f"{odd}s:lodgefs", "-s", "64M")
    disk("create", f"{odd}s/d:lodgefs", "-s", "1M")
    assert json.loads(disk("info", f"{odd}s/d:lodgefs", "--json"))["store"] == "no?texts"


@check("findings are one line of text, whatever names an image has")
def _():
    name = "a\x1b[2Jb"
    disk("create", "q:qcow2", "-s", "8M")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 64k", "q")
    sh("qemu-img", "snapshot", "-c", name, "q")
    with open("q", "r+b") as f:  # its first L1 entry leads behind the end
        f.seek(64)
        f.seek(int.from_bytes(f.read(8), "big"))
        f.seek(int.from_bytes(f.read(8), "big"))
        f.write(bytes.fromhex("0000ffffff000000"))
    said = disk("check", "q:qcow2", code=1)
    has(said, "L1 entry 0 of a?[2Jb points nowhere")
    assert "\x1b" not in said, said
    found = json.loads(disk("check", "q:qcow2", "--json", code=1))
    assert len(found["found"]) == found["errors"] + found["leaks"], found


@check("mistakes: what to do is said, the exit code is right, and nothing is left behind")
def _():
    def wrong(code, words, *args):
        has(sh(LODGE, *args, code=code), *words)

    size = ("--size", "64M")
    for args, words in ((("store", "create", "s:lodgefs"), ["how large", "--size"]),
                        (("store", "create", "s:lodgefs", "--size", "1M"), ["too small"]),
                        (("store", "create", "s:lodgefs", *size, "-o", "colour=red"), ["colour", "lodge disk formats"]),
                        (("store", "create", "s:lodgefs", *size, "-o", "sums=maybe"), ["sums"]),
                        (("store", "create", "s:lodgefs", "--size", "50T", "-o", "journal=1M"), ["journal of 1M is too small", "grow to 50T", "take -o journal=16M\n"]),
                        (("store", "create", "s:lodgefs", "--size", "2T", "-o", "journal=1M,max-size=50T"), ["take -o journal=16M, or -o max-size=2961G\n"]),
                        (("store", "create", "s:lodgefs", *size, "-o", "max-size=63M"), ["max-size=63M is less than its size, 64M"]),
                        (("store", "create", "s:lodgefs", "--size", "5000T"), ["at most 3999T"]),
                        (("store", "create", "s:qcow2", *size), ["lodgefs"]),
                        (("store", "create", "s", *size), ["FILE:FORMAT"]),
                        (("disk", "create", "d:raw"), ["how large"]),
                        (("disk", "create", "d:qcow2", *size, "-o", "cluster-size=3K"), ["power of two"]),
                        (("disk", "create", "d:qcow2", *size, "-o", "colour=red"), ["colour"]),
                        (("disk", "create", "d:vmdk", *size), ["qcow2"])):
        wrong(2, words, *args)
    wrong(3, ["no such folder"], "store", "create", "nowhere/s:lodgefs", *size)
    wrong(3, ["lodge store create"], "store", "ls", "s:lodgefs")
    assert not os.listdir("."), os.listdir(".")
    sh(LODGE, "store", "create", "s:lodgefs", *size, "--force")  # nothing is there to be replaced
    wrong(1, ["--force"], "store", "create", "s:lodgefs", *size)
    wrong(3, ["no disk 'a'", "lodge store ls"], "disk", "info", "s/a:lodgefs")
    wrong(2, ["STORE/NAME"], "disk", "info", "s:lodgefs")
    disk("create", "s/a:lodgefs", "--size", "8M")
    disk("create", "-o", "clone=a", "s/b:lodgefs")  # is as large as what it is cloned from
    has(disk("info", "s/b:lodgefs"), "8 MiB")
    wrong(3, ["no snapshot 'x'"], "disk", "create", "-o", "clone=a@x", "s/c:lodgefs")
    wrong(2, ["0 bytes"], "disk", "create", "-o", "compose=a/0/0", "s/c:lodgefs")
    wrong(2, ["--shrink"], "disk", "resize", "s/a:lodgefs", "4M")
    sh(LODGE, "disk", "convert", "s/a:lodgefs", "new:raw", "--force")
    has(sh(LODGE, "store", "--help"), "store take")
    has(sh(LODGE, "disk", "--help"), "disk convert")


@check("stores of any size are made without a word about their tables")
def _():
    for size, options, journal, most in (("63M", (), 2, 1 << 20), ("8T", (), 64, 128 << 20), ("50T", (), 256, 800 << 20), ("50T", ("-o", "journal=16M"), 16, 64479744),
                                         ("1G", ("-o", "max-size=200T"), 64, 200 << 20)):
        sh(LODGE, "store", "create", "s:lodgefs", "--size", size, *options, "--force")
        info = json.loads(sh(LODGE, "store", "info", "s:lodgefs", "--json"))
        assert info["journal"] == journal * MIB and info["max_size"] == most * MIB, (size, options, info)
        disk("create", "s/d:lodgefs", "-s", "8M")
        sh(LODGE, "store", "rm", "s:lodgefs", "d")  # which may change all of the bitmap


@check("what fails leaves nothing behind, and what is there as it was")
def _():
    def here():  # a store counts who opened it
        return {n: open(n, "rb").read() if n != "s" and os.path.isfile(n) else b"" for n in os.listdir(".")}

    def fails(code, words, *args, limit=None):
        before = here()
        p = subprocess.run([LODGE, "disk", *args], capture_output=True, text=True, timeout=60,
                           preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))))
        assert p.returncode == code and p.stderr.count("\n") == 1, (args, p.returncode, p.stderr)
        has(p.stderr, *words)
        assert here() == before, (args, os.listdir("."))
        return p.stderr

    sparse_raw("r", 8 * MIB, 7)
    disk("create", "q:qcow2", "--backing", "r:raw")
    disk("create", "top:qcow2", "--backing", "q:qcow2")
    size = ("--size", "8M")
    fails(1, ["is there already"], "create", "q:qcow2", *size, "-o", "data-file=new")
    for force in ((), ("--force",)):
        fails(2, ["its own data file"], "create", "new:qcow2", *size, "-o", "data-file=new", *force)
        fails(2, ["its own data file"], "create", "q:qcow2", *size, "-o", "data-file=./q", *force)
        fails(2, ["its own backing file"], "create", "q:qcow2", "-b", "./q:qcow2", *force)
        fails(2, ["q is made of it"], "create", "r:qcow2", "-b", "q:qcow2", *force)
    for alone in ((), ("--unsafe",)):
        fails(2, ["its own backing file"], "rebase", "q:qcow2", "--backing", "./q:qcow2", *alone)
    fails(4, ["named twice"], "convert", "r:raw", "./r:raw", "--force")
    fails(4, ["named twice"], "convert", "top:qcow2", "r:raw", "--force")
    fails(4, ["below the other"], "rebase", "q:qcow2", "--backing", "top:qcow2")
    fails(1, ["external data file"], "convert", "r:raw", "new:qcow2", "--compress", "-o", "data-file=new.data")
    fails(1, ["File too large"], "convert", "r:raw", "new:qcow2", "-o", "data-file=new.data", limit=8 * MIB - 512)
    sh("cp", "r", "real")
    os.symlink("real", "link")
    p = subprocess.run([LODGE, "disk", "convert", "q:qcow2", "link:qcow2", "--force"], capture_output=True, text=True, timeout=60,
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB)))
    has(p.stderr, "a part of the copy is left on link: ", "File too large")  # what the link leads to is not ours to remove
    os.remove("link")
    os.remove("real")
    for how in "metadata", "falloc", "full":
        fails(1, ["preallocated: File too large"], "create", "new:qcow2", *size, "-o", f"preallocation={how}", limit=MIB)
    for how in "falloc", "full":
        fails(1, ["File too large"], "create", "new:raw", *size, "-o", f"preallocation={how}", limit=MIB)
    # What is in the way.
    os.symlink("nowhere", "link")
    os.mkdir("folder")
    os.mkfifo("pipe")
    for force in ((), ("--force",)):
        fails(1, ["link that leads to no file"], "create", "link:qcow2", *size, *force)
    for name, what in ("folder", "directory"), ("pipe", "neither a file"):
        said = fails(1, [what], "create", f"{name}:qcow2", *size)
        assert "--force" not in said, said
    os.mkdir("shut", 0o555)
    os.chmod("r", 0o444)
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    has(sh(*powerless, LODGE, "disk", "create", "shut/new:raw", *size, code=1), "shut/new cannot be made: Permission denied")
    has(sh(*powerless, LODGE, "disk", "resize", "r:raw", "+1M", code=1), "r may only be read: allow writing (chmod u+w)")
    os.chmod("r", 0o644)
    # Words.
    fails(2, ["no disk has so many bytes"], "create", "new:raw", "--size", "8388608T")
    fails(2, ["raw format has no backing files"], "create", "new:raw", "--backing", "nosuch:raw")
    fails(2, ["clone=DISK"], "create", "s/new:lodgefs", "--backing", "r:raw")
    fails(2, ["did you mean 'cluster-size'?"], "create", "new:qcow2", *size, "-o", "clustersize=4K")
    fails(2, ["there is: off, metadata"], "create", "new:qcow2", *size, "-o", "preallocation=all")
    fails(2, ["write FILE:FORMAT"], "info", "")
    said = fails(3, ["lodge disk create none:FORMAT --size 8G"], "info", "none:qcow2")
    disk("create", "snapped:qcow2", *size)
    disk("snapshot", "snapped:qcow2", "-c", "one")
    # A backing file that was moved: an empty one in its place would be the wrong one.
    disk("create", "base:raw", *size)
    disk("create", "over:qcow2", "--backing", "base:raw")
    disk("create", "top2:qcow2", "--backing", "over:qcow2")
    os.rename("base", "moved")
    for verb in ("info", "--chain"), ("map",), ("resize", "+1M"):
        said = fails(3, ["disk over: its backing file base is not there"], verb[0], "over:qcow2", *verb[1:])
        assert "create" not in said and "disk over: its" in fails(3, ["base is not there"], verb[0], "top2:qcow2", *verb[1:]), said
    sh(LODGE, *said.split("`lodge ")[1].split("`")[0].replace("FILE", "moved").split())  # what it says helps
    disk("info", "--chain", "top2:qcow2")
    disk("create", "data:qcow2", *size, "-o", "data-file=data.raw")
    os.remove("data.raw")
    said = fails(3, ["disk data: its data file data.raw is not there"], "info", "data:qcow2")
    assert "create" not in said, said
    fails(2, ["--create today"], "snapshot", "over:qcow2", "today")
    fails(1, ["name or id"], "snapshot", "snapped:qcow2", "-c", "1")
    disk("create", "qemu:qcow2", *size, "-o", "cluster_size=4K,lazy_refcounts=on")
    has(disk("info", "qemu:qcow2"), "4 KiB")
    disk("create", "comma:qcow2", *size, "-o", "data-file=with,,comma,,cluster-size=4K", "--options", "cluster-size=64K,")
    assert os.path.exists("with,comma,cluster-size=4K")
    has(sh("qemu-img", "info", "comma"), "data file: with,comma,cluster-size=4K", "cluster_size: 65536")
    sh(LODGE, "store", "create", "s:lodgefs", "--size", "64M")
    disk("create", "s/a:lodgefs", *size)
    fails(1, ["--force replaces"], "create", "s/a:lodgefs", *size)
    with open("large", "wb") as f:
        f.write(b"x" * 40 * MIB)
    fails(1, ["the store is full", "lodge store df"], "convert", "large:raw", "s/large:lodgefs")
    fails(1, ["copying disk large to new: File too large"], "convert", "large:raw", "new:qcow2", limit=16 * MIB)
    fails(1, ["`lodge store check s:lodgefs`"], "check", "s/a:lodgefs")
    fails(1, ["`lodge store check s:lodgefs --repair`"], "repair", "s/a:lodgefs")


@check("preallocation: what it says is there, and qemu-img finds it so")
def _():
    size = 24 * MIB

    def space(path):
        return os.stat(path).st_blocks * 512

    def contents(path, fmt):
        """Which of QEMU's `map` says so: data, zero, nothing."""
        m = json.loads(sh("qemu-img", "map", "--output=json", "-f", fmt, path))
        return sum(x["length"] for x in m if x["data"]), sum(x["length"] for x in m if "offset" in x)

    for how, least, most in ("off", 0, MIB), ("metadata", 0, MIB), ("falloc", size, size + 2 * MIB), ("full", size, size + 2 * MIB):
        for options in ("",), ("cluster-size=4K",), ("extended-l2=on,cluster-size=16K",):
            q = f"{how}{len(options[0])}.qcow2"
            disk("create", f"{q}:qcow2", "-s", "24M", "-o", f"preallocation={how}", "-o", options[0])
            has(sh("qemu-img", "check", "-f", "qcow2", q), "No errors")
            assert least <= space(q) <= most, (q, space(q))
            data, placed = contents(q, "qcow2")
            assert placed == (0 if how == "off" else size), (q, placed)
            assert how != "full" or data == size, (q, data)
            sh("qemu-io", "-f", "qcow2", "-c", "read -P 0 0 24M", "-c", "write -P 5 1M 3M", q)
            has(sh("qemu-img", "check", "-f", "qcow2", q), "No errors")
    for how, least, most in ("off", 0, 0), ("falloc", size, size + MIB), ("full", size, size + MIB):
        r = f"{how}.raw"
        disk("create", f"{r}:raw", "-s", "24M", "-o", f"preallocation={how}")
        assert os.stat(r).st_size == size and least <= space(r) <= most, (r, space(r))
        assert (contents(r, "raw")[0] == size) == (how == "full"), r
    # A copy keeps it where the source has nothing.
    sparse_raw("r", size, 11)
    for target, fmt, values in ("c.raw", "raw", ("falloc", "full")), ("c.qcow2", "qcow2", ("metadata", "falloc", "full")):
        for how in values:
            disk("convert", "r:raw", f"{target}:{fmt}", "-o", f"preallocation={how}", "--force")
            same("r", "raw", target, fmt)
            assert (space(target) >= size) == (how != "metadata"), (target, how, space(target))
    has(disk("convert", "r:raw", "new:qcow2", "--compress", "-o", "preallocation=full", code=2), "--compress or preallocation=full, not both")
    has(disk("create", "new:raw", "-s", "1M", "-o", "preallocation=metadata", code=2), "raw format has no tables; there is: off, falloc, full")
    has(disk("create", "new:qcow2", "-s", "1M", "-o", "cluster-size=4K", "-o", "cluster_size=8K", code=2), "'cluster-size' is there twice")
    assert not os.path.exists("new")


@check("measure: never too little, what fits is what it said, and near to qemu-img's")
def _():
    size = 96 * MIB
    sparse_raw("r", size, 12)
    with open("r", "r+b") as f:
        f.seek(40 * MIB)
        f.write(os.urandom(9 * MIB))
    disk("convert", "r:raw", "q:qcow2")
    disk("snapshot", "q:qcow2", "-c", "then")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 3 60M 20M", "q")

    def measure(*args):
        return json.loads(disk("measure", "--json", *args))

    assert measure("r:raw", "--to", "raw") == {"format": "raw", "size": size, "required": size, "fully_allocated": size}
    for options in "", "cluster_size=4K", "cluster_size=512B", "cluster_size=2M", "extended_l2=on,cluster_size=32K", "refcount_bits=64", "refcount_bits=1,cluster_size=1K", "compat=0.10":
        o = ("-o", options) if options else ()
        for source in ("r:raw",), ("q:qcow2",), ("q:qcow2", "--snapshot", "then"):
            m = measure(*source, "--to", "qcow2", *o)
            name, fmt = source[0].split(":")
            disk("convert", *source, "c:qcow2", *o, "--force")
            # What fills a cluster of the source in part is less in smaller ones.
            assert 0 <= m["required"] - os.stat("c").st_size <= (2 * 65536 if name == "r" else MIB), (source, options, m, os.stat("c").st_size)
            theirs = json.loads(sh("qemu-img", "measure", "--output=json", "-O", "qcow2", *o, "-f", fmt, *(("-l", "then") if len(source) > 1 else ()), name))
            near = 0.01 * size + 6 * (2 * MIB if "2M" in options else 65536)
            assert m["required"] <= theirs["required"] + near and abs(m["fully_allocated"] - theirs["fully-allocated"]) < near, (source, options, m, theirs)
        m = measure("-s", "96M", "--to", "qcow2", "-o", ",".join(filter(None, (options, "preallocation=falloc"))))
        disk("create", "c:qcow2", "-s", "96M", *o, "-o", "preallocation=falloc", "--force")
        assert m["required"] == m["fully_allocated"] == os.stat("c").st_size, (options, m, os.stat("c").st_size)
        m = measure("-s", "96M", "--to", "qcow2", *o)
        disk("create", "c:qcow2", "-s", "96M", *o, "--force")
        assert m["required"] == os.stat("c").st_size, (options, m, os.stat("c").st_size)
    for granularity in "4K", "1M":
        disk("bitmap", "q:qcow2", "--add", f"of-{granularity}", "--granularity", granularity)
    for options in (), ("-o", "cluster_size=4K"):
        theirs = json.loads(sh("qemu-img", "measure", "--output=json", "-O", "qcow2", *options, "-f", "qcow2", "q"))
        assert measure("q:qcow2", "--to", "qcow2", *options)["bitmaps"] == theirs["bitmaps"], theirs
    # Stores: it goes into one of that size, and not into one that is much smaller.
    for source in ("r:raw",), ("q:qcow2",), ("q:qcow2", "--snapshot", "then"):
        m = measure(*source, "--to", "lodgefs")
        sh(LODGE, "store", "create", "s:lodgefs", "-s", f"{m['store_required']}B", "--force")
        disk("convert", *source, "s/d:lodgefs")
        df = json.loads(sh(LODGE, "store", "df", "s:lodgefs", "--json"))
        assert df["used"] + df["metadata"] == m["required"] and df["free"] <= 3 * MIB, (m, df)
        small = m["store_required"] - 4 * MIB
        sh(LODGE, "store", "create", "s:lodgefs", "-s", f"{small}B", "--force")
        has(disk("convert", *source, "s/d:lodgefs", code=1), "the store is full", "lodge disk measure")
    with open("full", "wb") as f:
        f.write(os.urandom(size))
    m = measure("-s", "96M", "--to", "lodgefs", "-o", "track=on")
    sh(LODGE, "store", "create", "s:lodgefs", "-s", f"{m['store_fully_allocated']}B", "--force")
    disk("convert", "full:raw", "s/d:lodgefs", "-o", "track=on")
    has(disk("measure", "r:raw", "-t", "qcow2"), "required               ", "fully_allocated        96.3 MiB (")
    for words, *args in (["--to FORMAT: which one"], "r:raw"), (["no format 'vmdk'"], "r:raw", "--to", "vmdk"), (["--size", "FILE:FORMAT"], "--to", "raw"), (["less"], "r:raw", "--to", "raw", "-s", "1M"), \
            (["of which disk"], "--to", "raw", "--snapshot", "x", "-s", "1M"), (["did you mean 'cluster-size'"], "-s", "1G", "--to", "qcow2", "-o", "clustersize=4K"), \
            (["larger ones (-o cluster-size)"], "-s", "4T", "--to", "qcow2", "-o", "cluster-size=512B"), (["what is shared takes nothing"], "-s", "1G", "--to", "lodgefs", "-o", "clone=x"):
        has(disk("measure", *args, code=2), *words)
    has(disk("measure", "q:qcow2", "--snapshot", "nope", "--to", "raw", code=3), "no snapshot nope")


@check("block devices: as large as measure says; what stood there does not shine through")
def _():
    if os.geteuid():
        print("SKIP: block devices: losetup needs root")
        return
    sparse_raw("r", 60 * MIB, 15)

    def on_device(size, work):
        with open("back", "wb") as f:
            f.write(b"old " * (size // 4))
        with loop_device("back") as dev:
            work(dev)
        os.remove("back")

    def copied(fmt, name, *options):
        def work(dev):
            disk("convert", "r:raw", f"{dev}{name}:{fmt}", "--force", *options)
            has(disk("compare", "r:raw", f"{dev}{name}:{fmt}"), "the same contents")
            if fmt == "qcow2":
                has(sh("qemu-img", "check", "-f", "qcow2", dev), "No errors")
        return work

    for options in ("cluster-size=64K",), ("cluster-size=4K",), ("cluster-size=2M",):
        on_device(json.loads(disk("measure", "r:raw", "-t", "qcow2", "--json", "-o", *options))["required"], copied("qcow2", "", "-o", *options))
    on_device(60 * MIB, copied("raw", ""))
    on_device(60 * MIB, lambda dev: has(disk("create", f"{dev}:raw", "-s", "60M", "--force", "-o", "preallocation=full", code=2), "is a block device"))

    def store(dev):
        sh(LODGE, "store", "create", f"{dev}:lodgefs", "--force")
        copied("lodgefs", "/d")(dev)
    on_device(json.loads(disk("measure", "r:raw", "-t", "lodgefs", "--json"))["store_required"], store)


@check("a block device that may only be read")
def _():
    if os.geteuid():
        print("SKIP: block devices: losetup needs root")
        return
    sparse_raw("r", 4 * MIB, 51)
    disk("convert", "r:raw", "q:qcow2")
    sh(LODGE, "store", "create", "s:lodgefs", "-s", "64M")
    os.truncate("s", 64 * MIB)  # a device has all blocks
    for name, fmt in ("r", "raw"), ("q", "qcow2"), ("s", "lodgefs"):
        with loop_device(name, "-r") as dev:
            if fmt == "lodgefs":
                has(sh(LODGE, "store", "df", f"{dev}:lodgefs"), "0 disks")
                has(disk("create", f"{dev}/d:lodgefs", "-s", "1M", code=1), "a device that may only be read")
                continue
            has(disk("compare", f"{dev}:{fmt}", "r:raw"), "the same contents")
            has(disk("convert", "r:raw", f"{dev}:{fmt}", "--force", code=1), f"{dev} is a device that may only be read")
            if fmt == "qcow2":
                has(disk("snapshot", f"{dev}:qcow2", "--create", "s", code=1), "a device that may only be read")


@check("a block device for the data alone: zeroes first where it is to be the disk by itself, no disk larger than it")
def _():
    if os.geteuid():
        print("SKIP: block devices: losetup needs root")
        return
    with open("back", "wb") as f:
        f.write(b"old " * (6 * MIB))
    with loop_device("back") as dev:
        for raw in "on", "off":
            options = ("-o", f"data-file={dev},data-file-raw={raw}", "--force")
            has(disk("create", "q:qcow2", "-s", "25M", *options, code=1), "has 25165824 bytes")
            disk("create", "q:qcow2", "-s", "8M", *options)
            sh("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", "q")
            disk("resize", "q:qcow2", "16M")
            has(disk("resize", "q:qcow2", "25M", code=1), "has 25165824 bytes")
            assert json.loads(disk("info", "q:qcow2", "--json"))["size"] == 16 * MIB
            sh("qemu-img", "check", "-q", "-f", "qcow2", "q")
            disk("convert", "q:qcow2", f"flat{raw}:raw")
            with open(f"flat{raw}", "rb") as f:
                assert f.read() == bytes(MIB) + b"\7" * 65536 + bytes(15 * MIB - 65536), "what stood on the device shines through"
            if raw == "on":  # what is behind the disk is left
                with open(dev, "rb") as f, open("flaton", "rb") as g:
                    assert f.read(16 * MIB) == g.read() and f.read(4) == b"old ", "the device is the disk"


@check("a host that is full: it is said that it is, and what is left behind")
def _():
    if os.geteuid():
        print("SKIP: a host that is full: mounting needs root")
        return
    with open("large", "wb") as f:
        f.write(os.urandom(40 * MIB))
    os.mkdir("small")
    sh("mount", "-t", "tmpfs", "-o", "size=24m", "none", "small")
    try:
        for fmt in "raw", "qcow2":
            for options in (), ("-o", "preallocation=falloc"):
                said = disk("convert", "large:raw", f"small/a:{fmt}", *options, code=1)
                assert "No space left" in said and said.count("\n") == 1 and not os.listdir("small"), said
        # The kernel takes the last ring down in the background, and the file that it had goes only then.
        wait_for(lambda: os.statvfs("small").f_bfree * os.statvfs("small").f_bsize > 20 * MIB)
        sh(LODGE, "store", "create", "small/s:lodgefs", "-s", "1G", "-o", "journal=2M")
        said = disk("convert", "large:raw", "small/s/d:lodgefs", code=1)
        left = json.loads(sh(LODGE, "store", "ls", "small/s:lodgefs", "--json"))
        assert "No space left" in said and "store is full" not in said and ("is left there" in said) == bool(left), (said, left)
    finally:
        wait_for(lambda: not subprocess.run(["umount", "small"], stderr=subprocess.DEVNULL).returncode)  # that one, too


@check("convert --snapshot is qemu-img convert -l")
def _():
    for name, options in ("plain", ""), ("small", "cluster_size=4K"), ("sub", "extended_l2=on,cluster_size=32K"), ("v2", "compat=0.10"), ("top", "cluster_size=64K"):
        base = ()
        if name == "top":
            sparse_raw("below", 20 * MIB, 14)
            base = ("-b", "below", "-F", "raw")
        sh("qemu-img", "create", "-q", "-f", "qcow2", *(("-o", options) if options else ()), *base, name, "20M")
        steps = ("write -P 1 0 3M", "write -P 2 2M 6M", "write -z 1M 2M", "discard 5M 3M", "write -P 4 17M 1M")
        for i, step in enumerate(steps):
            sh("qemu-io", "-f", "qcow2", "-c", step, name)
            sh("qemu-img", "snapshot", "-c", f"s{i}", name)
            if i == 2 and name != "v2":
                sh("qemu-img", "resize", "-q", "-f", "qcow2", name, "26M")
        ids = {s["name"]: s["id"] for s in json.loads(disk("snapshot", f"{name}:qcow2", "--json"))}
        for i in range(len(steps)):
            sh("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-l", f"s{i}", name, "theirs")
            for said in f"s{i}", ids[f"s{i}"]:
                disk("convert", f"{name}:qcow2", "ours:raw", "--snapshot", said, "--force")
                ours, theirs = open("ours", "rb").read(), open("theirs", "rb").read()
                # qemu-img's copy has the size that the disk has now.
                assert len(ours) == (20 if i < 3 or name == "v2" else 26) * MIB, (name, i, len(ours))
                assert ours + bytes(len(theirs) - len(ours)) == theirs, (name, i, said)
            disk("convert", f"{name}:qcow2", "packed:qcow2", "--snapshot", f"s{i}", "--compress", "--force")
            has(sh("qemu-img", "check", "-f", "qcow2", "packed"), "No errors")
            has(sh("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "packed", "theirs"), "identical")
        has(disk("convert", f"{name}:qcow2", "ours:raw", "--snapshot", "s9", code=3), f"disk {name}: there is no snapshot s9")
        assert len(json.loads(sh("qemu-img", "info", "--output=json", name))["snapshots"]) == len(steps)
    # Other verbs read it by a key behind the format.
    disk("convert", "plain:qcow2", "ours:raw", "--snapshot", "s1", "--force")
    has(disk("compare", "plain:qcow2,snapshot=s1", "ours:raw", "--strict"), "the same contents")
    disk("compare", "plain:qcow2,snapshot=s0", "ours:raw", code=1)
    assert json.loads(disk("map", "plain:qcow2,snapshot=s1", "--json")) != json.loads(disk("map", "plain:qcow2", "--json"))
    has(disk("resize", "plain:qcow2,snapshot=s1", "+1M", code=1), "a snapshot is only read")
    has(disk("info", "plain:qcow2,colour=red", code=2), "qcow2 has no option 'colour'")
    has(disk("info", "plain:qcow2,snapshot", code=2), "'snapshot' is not KEY=VALUE")
    has(disk("info", "plain:qcow3,snapshot=x", code=2), "there is no format 'qcow3,snapshot=x'")
    has(disk("convert", "plain:qcow2,snapshot=s1", "x:raw", "--snapshot", "s1", code=2), "'snapshot' is there twice")
    disk("create", "split:qcow2", "-s", "4M", "-o", "data-file=split:a")
    os.rename("split:a", "split:raw,b")
    has(disk("info", "split:qcow2,data-file=split:raw,,b"), "data_file ")
    # In a store: by name, and by the id that the list shows.
    sh(LODGE, "store", "create", "s:lodgefs", "-s", "128M")
    disk("convert", "plain:qcow2", "s/d:lodgefs", "--snapshot", "s0")
    disk("snapshot", "s/d:lodgefs", "-c", "one")
    disk("snapshot", "s/d:lodgefs", "-c", "two")
    ids = {s["name"]: s["id"] for s in json.loads(disk("snapshot", "s/d:lodgefs", "--json"))}
    disk("convert", "s/d:lodgefs", "ours:raw", "--snapshot", ids["one"], "--force")
    sh("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-l", "s0", "plain", "theirs")
    assert open("ours", "rb").read() == open("theirs", "rb").read(20 * MIB)
    has(disk("info", "s/d@one:lodgefs", code=3), "no disk 'd@one'", "s/DISK:lodgefs,snapshot=NAME")
    has(disk("compare", "s/d:lodgefs,snapshot=one", "ours:raw"), "the same contents")
    disk("snapshot", "s/d:lodgefs", "-d", ids["two"])
    assert [s["name"] for s in json.loads(disk("snapshot", "s/d:lodgefs", "--json"))] == ["one"]
    has(disk("snapshot", "s/d:lodgefs", "-d", "77", code=3), "no snapshot '77'")


@check("bitmaps: merged, and copied, as qemu-img does it")
def _():
    def changed(name, bitmap, fmt="qcow2"):
        return json.loads(disk("map", f"{name}:{fmt}", "--bitmap", bitmap, "--json"))["changed"]

    def theirs(name):
        i = json.loads(sh("qemu-img", "info", "--output=json", name))["format-specific"]["data"].get("bitmaps", [])
        return sorted((b["name"], b["granularity"], *sorted(b["flags"])) for b in i)

    disk("create", "q:qcow2", "-s", "20M")
    disk("bitmap", "q:qcow2", "--add", "fine", "--granularity", "4K")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 1 1M 5k", "q")
    disk("bitmap", "q:qcow2", "--disable", "fine")
    disk("bitmap", "q:qcow2", "--add", "coarse", "--granularity", "1M")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 1 7M 64k", "q")
    sh("cp", "q", "their")
    disk("bitmap", "q:qcow2", "--add", "both")
    sh("qemu-img", "bitmap", "--add", "their", "both")
    for source in "fine", "coarse":
        disk("bitmap", "q:qcow2", "--merge", "both", "--from", source)
        sh("qemu-img", "bitmap", "--merge", source, "their", "both")
    assert changed("q", "both") == changed("their", "both") == [{"start": MIB, "length": 65536}, {"start": 7 * MIB, "length": MIB}], changed("q", "both")
    assert theirs("q") == theirs("their"), theirs("q")
    has(sh("qemu-img", "check", "-f", "qcow2", "q"), "No errors")
    # What another disk has.
    for name in "other", "their2":
        disk("create", f"{name}:qcow2", "-s", "20M")
        disk("bitmap", f"{name}:qcow2", "--add", "x", "--granularity", "64K")
    disk("bitmap", "other:qcow2", "--merge", "x", "--from", "fine", "--of", "q:qcow2")
    sh("qemu-img", "bitmap", "--merge", "fine", "-b", "q", "-F", "qcow2", "their2", "x")
    assert changed("other", "x") == changed("their2", "x") == [{"start": MIB, "length": 65536}], changed("other", "x")
    # Copies.
    disk("convert", "q:qcow2", "ours:qcow2", "--bitmaps")
    sh("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "--bitmaps", "q", "copy")
    assert theirs("ours") == theirs("copy") and len(theirs("ours")) == 3, (theirs("ours"), theirs("copy"))
    for b in "fine", "coarse", "both":
        assert changed("ours", b) == changed("copy", b) == changed("q", b), b
    same("q", "qcow2", "ours", "qcow2")
    has(sh("qemu-img", "check", "-f", "qcow2", "ours"), "No errors")
    disk("convert", "q:qcow2", "long:qcow2", "--bitmaps", "--size", "40M", "-o", "cluster_size=4K")
    assert changed("long", "both") == changed("q", "both")
    has(disk("bitmap", "q:qcow2", "--merge", "both", code=2), "--from BITMAP")
    has(disk("bitmap", "q:qcow2", "--merge", "none", "--from", "both", code=3), "no bitmap none")
    has(disk("bitmap", "q:qcow2", "--merge", "both", "--from", "none", code=3), "no bitmap none")
    has(disk("bitmap", "q:qcow2", "--granularity", "4K", code=2), "goes with --add")
    has(disk("bitmap", "q:qcow2", "--remove", "both", "--of", "other:qcow2", code=2), "--of goes with --merge")
    has(disk("convert", "q:qcow2", "new:raw", "--bitmaps", code=1), "the format raw cannot take bitmaps")
    has(disk("convert", "q:qcow2", "new:qcow2", "--bitmaps", "--snapshot", "x", code=3), "no snapshot x")
    has(disk("convert", "q:qcow2", "new:qcow2", "--skip-broken-bitmaps", code=2), "goes with --bitmaps")
    has(disk("convert", "q:qcow2", "new:qcow2", "--bitmaps", "-o", "compat=0.10", code=1), "version 2 has no bitmaps")
    # One that was not closed.
    with open("q", "rb") as f:
        image = bytearray(f.read())
    at = image.rindex(b"fine") - 24 + 12
    assert image[at:at + 4] == b"\0\0\0\0", image[at:at + 4]
    image[at + 3] = 1  # in use
    with open("broken", "wb") as f:
        f.write(image)
    has(disk("bitmap", "broken:qcow2"), "broken")
    has(disk("convert", "broken:qcow2", "new:qcow2", "--bitmaps", code=1), "bitmap fine is not complete", "--skip-broken-bitmaps")
    has(disk("bitmap", "broken:qcow2", "--merge", "both", "--from", "fine", code=1), "fine is not complete")
    assert not os.path.exists("new")
    disk("convert", "broken:qcow2", "new:qcow2", "--bitmaps", "--skip-broken-bitmaps")
    assert [b[0] for b in theirs("new")] == ["both", "coarse"]
    # Of a store: generations.
    sh(LODGE, "store", "create", "s:lodgefs", "-s", "64M")
    disk("convert", "q:qcow2", "s/d:lodgefs")
    disk("snapshot", "s/d:lodgefs", "--create", "before")
    disk("bitmap", "s/d:lodgefs", "--add", "old")
    disk("snapshot", "s/d:lodgefs", "--apply", "before")
    disk("bitmap", "s/d:lodgefs", "--add", "new")
    assert changed("s/d", "old", "lodgefs") and not changed("s/d", "new", "lodgefs")
    disk("convert", "s/d:lodgefs", "from-store:qcow2", "--bitmaps")
    assert changed("from-store", "old") == changed("s/d", "old", "lodgefs") and not changed("from-store", "new")
    disk("bitmap", "s/d:lodgefs", "--merge", "new", "--from", "old")
    assert changed("s/d", "old", "lodgefs") == changed("s/d", "new", "lodgefs")
    has(disk("bitmap", "s/d:lodgefs", "--merge", "new", "--from", "both", "--of", "q:qcow2", code=1), "the format lodgefs has no")


@check("an image of 0 bytes, as qemu-img makes it: it has snapshots, and grows")
def _():
    sh("qemu-img", "create", "-q", "-f", "qcow2", "q", "0")
    disk("snapshot", "q:qcow2", "--create", "s")
    has(disk("bitmap", "q:qcow2", "--add", "b", code=2), "0 bytes")
    disk("resize", "q:qcow2", "+1M")
    disk("bitmap", "q:qcow2", "--add", "b")
    has(disk("snapshot", "q:qcow2", "--apply", "s", code=1), "0 bytes", "--remove")
    disk("bitmap", "q:qcow2", "--remove", "b")
    disk("snapshot", "q:qcow2", "--apply", "s")
    assert json.loads(disk("info", "q:qcow2", "--json"))["size"] == 0
    disk("resize", "q:qcow2", "+64K")
    disk("snapshot", "q:qcow2", "--delete", "s")
    has(sh("qemu-img", "check", "-f", "qcow2", "q"), "No errors")


@check("two openers; an NBD server as a witness")
def _():
    sparse_raw("r", 8 * MIB, 5)
    disk("convert", "r:raw", "q:qcow2")
    nbd = subprocess.Popen(["qemu-nbd", "-f", "qcow2", "-k", os.path.abspath("s"), "--persistent", "q"])
    try:
        # It takes connections before it has opened the image, and answers behind that.
        assert wait_for(lambda: listens("s")), "qemu-nbd does not listen"
        has(sh("qemu-img", "compare", "-f", "raw", "-F", "raw", "r", "nbd+unix:///?socket=s"), "identical")
        has(disk("resize", "q:qcow2", "+1M", code=4), "in use")
    finally:
        nbd.terminate()
        nbd.wait()
    disk("resize", "q:qcow2", "+1M")


sys.exit(failed != 0)

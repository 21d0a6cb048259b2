#!/usr/bin/env python3
"""Reads a lodgefs store: written from docs/lodgefs.md alone, so that it shows whether that page is enough to write another implementation.

    lodgefs.py STORE                       what is in it
    lodgefs.py STORE DISK[@SNAPSHOT]       its bytes to standard output

Nothing is written. Whatever contradicts the page raises Wrong.
"""
import struct
import sys

SECTOR, PAGE, SUB, BLOCK = 512, 4096, 4096, 1 << 20
LEAF, NODE, CHANGES, RECORDS, BITS, SUM_BLOCKS = 56, 504, 63, 7, 32256, 3
POINTERS, DIRECTORY, BITMAP, TRACK, SUMS = 1, 2, 3, 4, 5
FREE, DISK, SNAPSHOT, CBT, RECORDING = range(5)


class Wrong(Exception):
    pass


def _table(bits):
    out = []
    for n in range(1 << bits):
        for _ in range(bits):
            n = n >> 1 ^ (0x82f63b78 if n & 1 else 0)
        out.append(n)
    return out


ONE, TWO = _table(8), _table(16)


def crc32c(data):
    c = 0xffffffff
    for w in struct.unpack_from(f"<{len(data) // 2}H", data):
        c = c >> 16 ^ TWO[(c ^ w) & 65535]
    if len(data) % 2:
        c = c >> 8 ^ ONE[(c ^ data[-1]) & 255]
    return c ^ 0xffffffff


assert crc32c(b"123456789") == 0xe3069283


def without(data, at):
    """With the checksum at `at` taken as 0."""
    return data[:at] + b"\0\0\0\0" + data[at + 4:]


def need(good, *what):
    if not good:
        raise Wrong(" ".join(str(w) for w in what))


class Record:
    """Of the directory."""

    def __init__(self, b):
        self.id, self.type, self.height, nranges, self.flags = struct.unpack_from("<QBBBxI", b, 0)
        (self.size, self.root, self.owner, self.parent, self.generation, self.made, self.granularity) = struct.unpack_from("<7Q", b, 16)
        self.ranges = [struct.unpack_from("<II", b, 72 + 8 * i) for i in range(nranges)]
        name = b[168:424]
        need(0 in name, "a name without an end")
        self.name = name[:name.index(0)].decode("utf-8", "surrogateescape")


class Store:
    def __init__(self, path, boot=None):
        """boot: of the host that reads, as text; None: this one's. The data of records is compared when the holder's was another."""
        self.f = open(path, "rb")
        self.changed = {}  # page: its bytes, where the journal has them
        self.cache = {}
        self.dropped = self.replayed = 0
        self._superblock()
        if boot is None:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
                boot = f.read().strip()
        self._lease(boot)
        self._replay()
        self._directory()

    def at(self, off, n):
        self.f.seek(off)
        b = self.f.read(n)
        need(len(b) == n, "the store ends before", off + n)
        return b

    def _superblock(self):
        best = None
        for i in range(2):
            b = self.at(i * PAGE, PAGE)
            if b[:8] != b"LodgeFS\1" or crc32c(without(b, 8)) != struct.unpack_from("<I", b, 8)[0]:
                continue
            change = struct.unpack_from("<Q", b, 24)[0]
            if best is None or change > best[0]:
                best = change, b
        need(best, "no good superblock")
        b = best[1]
        version, self.features = struct.unpack_from("<IQ", b, 12)
        need(version == 1, "version", version)
        need(not self.features & ~3, "features", self.features)
        self.salt = struct.unpack_from("<Q", b, 48)[0]
        (self.journal_at, self.journal_bytes, self.dir_at, self.dir_pages, self.bitmap_at, self.bitmap_pages, self.data_at, self.blocks,
         self.max_blocks, self.run, self.tail, self.number, _, self.sums_at, self.sum_pages) = struct.unpack_from("<15Q", b, 56)
        need(self.journal_at == 16384 and self.dir_at == self.journal_at + self.journal_bytes, "regions")
        end = self.dir_at + self.dir_pages * PAGE
        need(self.bitmap_at == end, "regions")
        end += self.bitmap_pages * PAGE
        if self.features & 2:
            need(self.sums_at == end and self.sum_pages * SUM_BLOCKS >= self.max_blocks, "regions")
            end += self.sum_pages * PAGE
        else:
            need(not self.sums_at and not self.sum_pages, "regions")
        need(self.data_at % BLOCK == 0 and end <= self.data_at < end + BLOCK, "regions")
        need(0 < self.blocks <= self.max_blocks <= self.bitmap_pages * BITS, "blocks")

    def _lease(self, boot):
        b = self.at(8192, 512)
        need(struct.unpack_from("<I", b, 0)[0] == 0x736c664c and crc32c(without(b, 4)) == struct.unpack_from("<I", b, 4)[0], "the lease")
        self.fence, self.held = struct.unpack_from("<QQ", b, 8)
        theirs = b[120:160].split(b"\0")[0].decode("ascii", "replace")
        self.unbroken = theirs != "" and theirs == boot and self.run in struct.unpack_from("<QQ", b, 160)

    # ---- journal ----

    def _record(self, at, number):
        """(kind, durable, page changes, checks, bytes) or None."""
        h = self.at(self.journal_at + at, 64)
        magic, crc, salt, run, n, durable, _, size, pages, checks, kind = struct.unpack("<IIQQQQQIIII", h)
        if magic != 0x6e72664c or salt != self.salt or run != self.run or n != number or size % 512 or not size:
            return None
        if at + size > self.journal_bytes:
            return None
        b = self.at(self.journal_at + at, size)
        if crc32c(without(b, 4)) != crc:
            return None
        where, changes, vouched = 64, [], []
        for _ in range(pages):
            page, off, n = struct.unpack_from("<QHH", b, where)
            changes.append((page, off, b[where + 16:where + 16 + n]))
            where += 16 + (n + 7 & ~7)
        for _ in range(checks):
            vouched.append(struct.unpack_from("<QII", b, where))
            where += 16
        need(where <= size, "record", number)
        return kind, durable, changes, vouched, size

    def _replay(self):
        at, number, seen, records = self.tail, self.number, 0, []
        while seen < self.journal_bytes:
            r = self._record(at, number)
            if r is None:
                break
            if r[0] == 3:
                seen += self.journal_bytes - at
                at = 0
                continue
            records.append((number, r))
            seen += r[4]
            at = (at + r[4]) % self.journal_bytes
            number += 1
        durable = max((r[1] for _, r in records), default=0)
        for i, (number, (_, _, changes, vouched, _)) in enumerate(records):
            if number > durable and not self.unbroken and not all(crc32c(self.at(a, n)) == c for a, n, c in vouched):
                self.dropped = len(records) - i
                break
            for page, off, data in changes:
                if page not in self.changed:
                    need(off == 0 and len(data) == PAGE, "page", page, "is changed, and the journal does not have it")
                    self.changed[page] = bytearray(PAGE)
                self.changed[page][off:off + len(data)] = data
            self.replayed += 1

    # ---- pages ----

    def page(self, n, kind, level=0):
        if (n, kind, level) in self.cache:
            return self.cache[n, kind, level]
        b = bytes(self.changed[n]) if n in self.changed else self.at(n * PAGE, PAGE)
        if kind == SUMS and not any(b):
            return b
        magic, crc, own, salt, _, t, lv = struct.unpack_from("<IIQQQBB", b, 0)
        need(magic == 0x6770664c and own == n and salt == self.salt, "page", n, "is none of this store's")
        # What the journal brings is vouched for by the record; its checksum is made when it goes to its place.
        need(n in self.changed or crc32c(without(b, 4)) == crc, "page", n, "has a wrong checksum")
        need(t == kind and lv == level, "page", n, "is of another kind")
        self.cache[n, kind, level] = b
        return b

    def _directory(self):
        self.records = []
        for p in range(self.dir_pages):
            b = self.page(self.dir_at // PAGE + p, DIRECTORY)
            for i in range(RECORDS):
                r = Record(b[64 + 576 * i:64 + 576 * (i + 1)])
                if r.type != FREE:
                    need(r.type <= RECORDING and r.id and r.name and "/" not in r.name, "record", r.id)
                    self.records.append(r)
        names = [(r.type, r.owner, r.name) for r in self.records]
        need(len(set(names)) == len(names), "two records have one name")
        need(len({r.id for r in self.records}) == len(self.records), "two records have one id")
        disks = {r.id for r in self.records if r.type == DISK}
        for r in self.records:
            need(r.type == DISK or r.owner in disks, r.name, "belongs to no disk")

    def find(self, name):
        disk, _, snapshot = name.partition("@")
        for d in self.records:
            if d.type == DISK and d.name == disk:
                if not snapshot:
                    return d
                for s in self.records:
                    if s.type == SNAPSHOT and s.owner == d.id and s.name == snapshot:
                        return s
        raise Wrong(f"there is no {name}")

    # ---- contents ----

    @staticmethod
    def _span(height, leaf):
        return leaf * NODE ** height

    def _leaf(self, r, mib, kind, leaf):
        """The page with the entry of that MiB and its number in there, or None."""
        page, level = r.root, r.height
        need(mib < self._span(level, leaf), "MiB", mib, "is beyond the tree")
        while page:
            b = self.page(page, kind, level)
            if not level:
                return b, mib
            level -= 1
            page = struct.unpack_from("<Q", b, 64 + 8 * (mib // self._span(level, leaf)))[0]
            mib %= self._span(level, leaf)
        return None

    def entry(self, r, mib):
        """Places of the 256 sub-blocks of that MiB; None: zeroes."""
        found = self._leaf(r, mib, POINTERS, LEAF)
        if not found:
            return [None] * 256
        b, i = found
        own, base = struct.unpack_from("<II", b, 64 + 72 * i)
        bits = [int.from_bytes(b[64 + 72 * i + at:64 + 72 * i + at + 32], "little") for at in (8, 40)]
        need(own <= self.blocks and base <= self.blocks and (own or not bits[0]) and (base or not bits[1]), "an entry")
        out = []
        for s in range(256):
            block = own if bits[0] >> s & 1 else base if bits[1] >> s & 1 else 0
            out.append(self.data_at + (block - 1) * BLOCK + s * SUB if block else None)
        return out

    def sum_of(self, place):
        block, s = divmod((place - self.data_at) // SUB, 256)
        b = self.page(self.sums_at // PAGE + block // SUM_BLOCKS, SUMS)
        return struct.unpack_from("<I", b, 64 + 1024 * (block % SUM_BLOCKS) + 4 * s)[0]

    def contents(self, r, verify=True):
        """Yields the bytes, at most a MiB at a time; None for a MiB of zeroes."""
        for mib in range((r.size + BLOCK - 1) // BLOCK):
            n = min(BLOCK, r.size - mib * BLOCK)
            places = self.entry(r, mib)
            if not any(places):
                yield n, None
                continue
            out = bytearray(BLOCK)
            for s, place in enumerate(places):
                if place is None:
                    continue
                b = self.at(place, SUB)
                want = self.sum_of(place) if verify and self.sum_pages else 0
                need(not want or want == (crc32c(b) or 0xffffffff), "data at", place, "does not fit its checksum")
                out[s * SUB:(s + 1) * SUB] = b
            yield n, bytes(out[:n])

    def changed_since(self, disk, generation):
        """Numbers of the chunks of 64 KiB that have changed since, in order."""
        t = next((r for r in self.records if r.type == RECORDING and r.owner == disk.id), None)
        need(t and t.name == "changes" and t.granularity == 65536, "its changes are not recorded")
        need(t.generation <= generation <= disk.generation, "that generation is not known")
        out = []
        for chunk in range((disk.size + 65535) // 65536):
            found = self._leaf(t, chunk // 16, TRACK, CHANGES)
            g = struct.unpack_from("<I", found[0], 64 + 64 * found[1] + 4 * (chunk % 16))[0] if found else 0
            if g >= generation or t.parent >= generation:
                out.append(chunk)
        return out

    def check(self):
        """The invariants that a reader of one disk does not meet: bits of the bitmap, blocks that hold both."""
        data, pages, seen = set(), set(), set()

        def walk(page, kind, level):
            if (page, kind, level) in seen:
                return
            seen.add((page, kind, level))
            need(self.data_at <= page * PAGE < self.data_at + self.blocks * BLOCK, "page", page, "is no block's")
            pages.add((page * PAGE - self.data_at) // BLOCK)
            b = self.page(page, kind, level)
            if level:
                for child in struct.unpack_from(f"<{NODE}Q", b, 64):
                    if child:
                        walk(child, kind, level - 1)
            elif kind == POINTERS:
                for i in range(LEAF):
                    data.update(x - 1 for x in struct.unpack_from("<II", b, 64 + 72 * i) if x)

        for r in self.records:
            if r.root:
                walk(r.root, TRACK if r.type == RECORDING else POINTERS, r.height)
            need(r.type == CBT or self._span(r.height, CHANGES if r.type == RECORDING else LEAF) * BLOCK >= r.size, r.name, "is too flat")
        need(not data & pages, "blocks hold data and pages", data & pages)
        for n in range(self.blocks):
            b = self.page(self.bitmap_at // PAGE + n // BITS, BITMAP)
            bit = b[64 + n % BITS // 8] >> (n % BITS % 8) & 1
            need(bool(bit) == (n in data or n in pages), "block", n, "has the wrong bit")


def main(argv):
    if len(argv) not in (2, 3):
        sys.exit(__doc__)
    s = Store(argv[1])
    if len(argv) == 3:
        for n, b in s.contents(s.find(argv[2])):
            sys.stdout.buffer.write(b or bytes(n))
        return
    print(f"run {s.run}, fence {s.fence}, {s.blocks} blocks, {s.replayed} records replayed, {s.dropped} dropped")
    for r in s.records:
        print(f"{r.id} {('', 'disk', 'snapshot', 'bitmap', 'changes')[r.type]} {r.name} of {r.owner}: {r.size} bytes, generation {r.generation}")
    s.check()


if __name__ == "__main__":
    try:
        main(sys.argv)
    except Wrong as e:
        sys.exit(f"lodgefs.py: {e}")

#!/usr/bin/env python3
"""Makes random programs for the differential test: one ELF file each, the same for the same seed.

A program is the monitor (guest/rv64/diff.c), a table of chunks, page tables and code. See README.md.
"""
import argparse
import os
import random
import struct
import sys

sys.dont_write_bytecode = True
import insns as I

# LAYOUT: as guest/rv64/diff.h has it
BASE = 0x80000000
HEAD = 0x80100000
POOL = 0x80101000
CHUNKS = 0x80110000
CHUNKS_MAX = 3600
TABLES = 0x80200000
PRISTINE = 0x80240000
SCRATCH = 0x80300000
SCRATCH_BYTES = 0x10000
EXEC = 0x80310000           # 16 pages of ecall: where jumps into special pages land
HANDLER = 0x80320000
CODE = 0x80400000
CODE_END = 0x81000000
MAGIC = 0x6666696465676f6c
TABLES_TOO, FOLD = 1, 2

# What programs see through the special page tables
SPECIAL = 0x100000000       # 1 GiB under the special level-1 table
GIGA = 0x140000000          # a few 1 GiB leaves
HOLE = 0x90000000           # no memory here on a board with 128 MiB
RAM_END = 0x88000000

V, R, W, X, U, G, A, D = (1 << n for n in range(8))
NAPOT = 1 << 63


def ppn(pa):
    return pa >> 12 << 10


BASES = (2, 8, 9, 18, 19, 20)   # what memory is reached by; x21 jump target; x22 loop counter; x1 link
FREE = tuple(n for n in range(32) if n not in BASES and n not in (1, 21, 22))


def special_floats():
    out = []
    for e in (0, 1, 1022, 1023, 1024, 1075, 1076, 1085, 1086, 1087, 2045, 2046, 2047, 53, 970, 896, 897, 1150, 1151, 1054, 1055):
        for m in (0, 1, 1 << 51, (1 << 52) - 1, 1 << 28, (1 << 29) - 1, 3 << 28):
            out.append(e << 52 | m)
    return out


def special_singles():
    out = []
    for e in (0, 1, 126, 127, 128, 150, 151, 157, 158, 159, 189, 190, 191, 253, 254, 255, 24, 64):
        for m in (0, 1, 1 << 22, (1 << 23) - 1):
            out.append(e << 23 | m)
    return out


def value_pool(rng):
    """256 values: integers near edges, doubles, singles (the monitor boxes some of them, and some badly)."""
    ints = [0, 1, 2, (1 << 64) - 1, (1 << 64) - 2, 1 << 63, (1 << 63) - 1, (1 << 63) + 1, 1 << 31, (1 << 31) - 1,
            0xffffffff, 1 << 32, 0xffffffff80000000, 0xffffffff7fffffff, 0x5555555555555555, 0xaaaaaaaaaaaaaaaa, 63, 64, 32,
            31, 0x8000, 0x7fff, 0x80, 0x7f, 0xff, 0xffff, 1 << 53, (1 << 53) + 1, (1 << 24) + 1, 0x7ffffffffffffc00]
    out = list(ints)
    for d in special_floats():
        out.append(d | rng.getrandbits(1) << 63)
    for s in special_singles():
        s |= rng.getrandbits(1) << 31
        out.append(rng.choice((0xffffffff00000000 | s, s << 32 | s, s, 0xffffffff00000000 | s)))
    rng.shuffle(out)
    return (out + [rng.getrandbits(64) for _ in range(256)])[:256]


class Tables:
    """Page tables in [TABLES, PRISTINE). Page 0: special level 1; page 1: special level 0."""

    def __init__(self, rng):
        self.rng = rng
        self.mem = {}
        self.next = TABLES + 0x2000
        self.data = []      # special addresses that end, if anywhere, in the scratch pages
        self.execs = []     # ... in the pages of ecall
        self.holes = set()  # those of them that end where no memory is
        self.special()
        self.roots = {}
        for user in (0, 1):
            self.root(user)

    def page(self):
        pa, self.next = self.next, self.next + 0x1000
        assert self.next <= PRISTINE
        return pa

    def put(self, table, index, pte):
        self.mem[table + 8 * index] = pte & (1 << 64) - 1

    def flags(self):
        """A leaf's bits: any, with a lean towards those that work."""
        rng = self.rng
        f = rng.getrandbits(10)
        if rng.random() < 0.7:
            f |= V | A
        if rng.random() < 0.5:
            f |= V | R | A | D
        if f & 0xe == 0:
            f |= rng.choice((R, W, X, R | X))       # a leaf; W alone is reserved
        if rng.random() < 0.15:
            f |= rng.randrange(3) << 61              # PBMT; 3 is in KNOWN.md
        if rng.random() < 0.03:
            f |= 1 << rng.randrange(54, 61)
        return f

    def special(self):
        rng = self.rng
        l1, l0 = TABLES, TABLES + 0x1000
        for half, target, found in ((0, SCRATCH, self.data), (256, EXEC, self.execs)):
            n = half
            while n < half + 255:
                if n % 16 == 0 and rng.random() < 0.25 and n < half + 240:
                    # One good 64 KiB range: sixteen equal entries, so that it does not matter which one is cached.
                    pte = self.flags() & ~(0x3ff << 52) | V | R | A | D | NAPOT | ppn(target + 0x8000)
                    for k in range(16):
                        self.put(l0, n + k, pte)
                        found.append(SPECIAL + (n + k) * 0x1000)
                    n += 16
                    continue
                pa = target + rng.randrange(16) * 0x1000
                f = self.flags()
                k = rng.random()
                if k < 0.06:
                    pa = rng.choice((HOLE, 0x1000000000, 0xfffffffffff000, RAM_END))
                    self.holes.add(SPECIAL + n * 0x1000 >> 12)
                elif k < 0.12:
                    f |= NAPOT | A | D                # with a size that is reserved
                    if pa >> 12 & 15 == 8:
                        pa -= 0x1000
                elif k < 0.15:
                    f &= ~0xe                         # a pointer where only leaves may be
                elif k < 0.18:
                    f &= ~V
                self.put(l0, n, f | ppn(pa))
                found.append(SPECIAL + n * 0x1000)
                n += 1
        # Level 1. Entry 0 is the way to level 0; the others are 2 MiB leaves over the 2 MiB that hold the scratch and
        # ecall pages, and pointers of every bad kind.
        self.put(l1, 0, ppn(l0) | V)
        for n in range(1, 200):
            k = rng.random()
            if k < 0.6:
                pte = self.flags() | ppn(TABLES)
                if k < 0.1:
                    pte |= rng.choice((1 << 10, 1 << 18, 0x1ff << 10))       # misaligned
                elif k < 0.14:
                    pte |= NAPOT | A | D
                at = SPECIAL + n * 0x200000
                self.data += [at + SCRATCH - TABLES + q * 0x1000 for q in (0, 5, 14)]   # not the last: ecall pages follow
                self.execs.append(at + EXEC - TABLES)
                self.put(l1, n, pte)
                continue
            pte = ppn(l0) | V
            if k < 0.75:
                pte |= rng.choice((A, D, U, A | D | U, 1 << 61, 2 << 61, NAPOT, 1 << 54, 1 << 60))
            elif k < 0.8:
                pte |= G | rng.randrange(4) << 8     # allowed in a pointer
            elif k < 0.9:                            # (a pointer to no memory: KNOWN.md)
                pte &= ~V
            elif k < 0.93:
                pte = ppn(HOLE) | self.flags()
                self.holes.update(range(SPECIAL + n * 0x200000 >> 12, SPECIAL + (n + 1) * 0x200000 >> 12))
            self.put(l1, n, pte)
            at = SPECIAL + n * 0x200000
            self.data += [at + q * 0x1000 for q in rng.sample(range(255), 3)]
            self.execs.append(at + (256 + rng.randrange(255)) * 0x1000)

    def root(self, user):
        """One address space of each depth, in which code, scratch and handler are where they are physically."""
        rng = self.rng
        u = U if user else 0
        l2, l1, l0 = self.page(), self.page(), self.page()
        self.put(l2, 2, ppn(l1) | V)
        for n in range((CODE - BASE) // 0x200000, (CODE_END - BASE) // 0x200000):
            self.put(l1, n, ppn(BASE + n * 0x200000) | V | R | X | A | D | u)
        self.put(l1, (TABLES - BASE) // 0x200000, ppn(l0) | V)
        for n in range(16):
            self.put(l0, (SCRATCH - TABLES >> 12) + n, ppn(SCRATCH + n * 0x1000) | V | R | W | A | D | u)
            self.put(l0, (EXEC - TABLES >> 12) + n, ppn(EXEC + n * 0x1000) | V | R | X | A | D | u)
        self.put(l0, HANDLER - TABLES >> 12, ppn(HANDLER) | V | R | X | A | D)
        self.put(l2, SPECIAL >> 30, ppn(TABLES) | V)
        giga = []
        for n in range(4):
            pte = ppn(BASE) | self.flags() | A | D
            if n == 3:
                pte |= rng.choice((1 << 10, 1 << 19, 1 << 27))
            self.put(l2, (GIGA >> 30) + n, pte)
            giga.append(GIGA + n * (1 << 30) + SCRATCH - BASE)
        l3 = self.page()
        self.put(l3, 0, ppn(l2) | V)
        tera = []
        for n in range(1, 5):
            pte = self.flags() | A | D
            if n == 4:
                pte |= rng.choice((1 << 10, 1 << 28, 1 << 36))
            self.put(l3, n, pte)
            tera.append((n << 39) + SCRATCH)
        self.put(l3, 511, ppn(l2) | V)
        tera.append(0xffffff8000000000 + SCRATCH)
        self.roots[user, 8] = (8 << 60 | l2 >> 12, giga)
        self.roots[user, 9] = (9 << 60 | l3 >> 12, giga + tera)


# number: bits that the test may set (the rest of a WARL register is the machine's choice). Level: 1 S, 3 M.
CSRS_U = {0x001: 31, 0x002: 7, 0x003: 255}
CSRS_S = {0x140: -1, 0x141: -1, 0x142: 0x800000000000000f, 0x143: -1, 0x104: 0x222, 0x144: 2, 0x100: 0xc0122, 0x106: 7,
          0x10a: 0xf1}
CSRS_M = {0x341: -1, 0x342: 0x800000000000000f, 0x343: -1, 0x304: 0xaaa, 0x344: 0x222, 0x306: 7, 0x320: 5, 0x300: 0x7e19aa,
          0x30a: 0x40000000000000f1 | 1 << 61 | 1 << 62}
RESTORED_S = {0x105: 0x7ffffffffc, 0x180: 0}
RESTORED_M = {0x302: 0xb3ff, 0x303: 0x222, 0x305: 0x7ffffffffc, 0x105: 0x7ffffffffc}
READ_ONLY = (0x3a0, 0x3a2, 0x3b0, 0x3b1, 0x3b7, 0x303, 0x302)
COUNTERS = (0xc00, 0xc01, 0xc02, 0xb00, 0xb02)
NOBODY = (0x5c0, 0x5ff, 0x7c0, 0x800, 0x8ff, 0x9c0, 0x9ff, 0xbc0, 0xbff, 0xcc0, 0xcff, 0xdc0, 0xfc0, 0xfff, 0x0ff, 0x004,
          0x3a1, 0x3a3, 0x7ff, 0x6c0, 0xac0)


class Chunk:
    def __init__(self, gen, at, size):
        self.gen, self.rng, self.entry = gen, gen.rng, at
        self.code = bytearray()
        self.size = size
        self.pending = []       # forward jumps: [position, kind, items to go]
        self.count = 0
        self.loop = None
        self.configure()

    # -- configuration
    def configure(self):
        rng, t = self.rng, self.gen.tables
        self.mode = rng.choice((3, 3, 1, 1, 1, 0, 0, 0))
        self.paging = rng.choice((0, 8, 8, 9)) if self.mode != 3 else rng.choice((0, 0, 8, 9))
        user = int(self.mode == 0) if self.mode != 3 else rng.getrandbits(1)
        self.satp, self.places = 0, []
        if self.paging:
            self.satp, more = t.roots[user, self.paging]
            self.satp |= rng.choice((0, 0, 1, 0xffff)) << 44
            self.places = t.data * 2 + more * 20
        self.mstatus = 0x6000 | rng.choice((0, 0x40000)) | rng.choice((0, 0x80000)) | rng.getrandbits(1) << 7
        if rng.random() < 0.1:
            self.mstatus |= rng.getrandbits(3) << 20
        self.fs_off = rng.random() < 0.03
        if self.fs_off:
            self.mstatus &= ~0x6000
        self.menvcfg = rng.getrandbits(1) << 61 | rng.getrandbits(1) << 62 | rng.choice((0xf1, 0xf1, 0xd1, 0, 0x40, 0x80, 0x30, 0x10))
        self.senvcfg = rng.choice((0xf1, 0xf1, 0xd1, 0, 0x40, 0x80, 0x30, 0x10))
        self.counteren = rng.getrandbits(6)
        self.medeleg = 0
        if self.mode != 3 and rng.random() < 0.2:
            self.medeleg = rng.getrandbits(16) & 0xa1fc   # neither fetch faults nor ecall from S
        self.fcsr = rng.choice((0, 0, rng.randrange(8) << 5 | rng.getrandbits(5)))
        self.pmp()
        self.special = bool(self.paging) and rng.random() < 0.6
        self.random_words = self.mode == 0 and self.paging == 8 and not self.edges and rng.random() < 0.25
        # Any register as an address, where no device can be reached.
        self.wild = self.paging == 8 and self.mode != 3
        self.mprv = self.mode == 3 and rng.random() < 0.6
        self.xrets = rng.random() < 0.6
        self.flags = (TABLES_TOO if self.special else 0) | (FOLD if rng.random() < 0.1 else 0)
        self.base = [self.place() for _ in BASES] + [0]

    def pmp(self):
        rng = self.rng
        self.pmpcfg, self.pmpaddr, self.edges = 0, [0, 0, 0], []
        if self.mode == 3 and rng.random() < 0.7 or rng.random() < 0.75:
            return
        for n in range(3):
            kind = rng.choice((0, 1, 2, 3, 3))
            perm = rng.choice((0, 1, 3, 4, 5, 7, 7))
            at = rng.choice((SCRATCH, SCRATCH, SCRATCH, SCRATCH + 0x8000)) + rng.randrange(0x8000) // 8 * 8
            if kind == 3:
                # Naturally aligned 16 bytes to 8 KiB; sometimes over the code, which then must stay runnable or not.
                size = 16 << rng.randrange(10)
                if rng.random() < 0.1:
                    at, size = self.entry, 64 << rng.randrange(6)
                at &= ~(size - 1)
                self.pmpaddr[n] = at >> 2 | (size >> 3) - 1
                if at < CODE:
                    self.edges += [at, at + size]      # else: nobody stores to code
            else:
                self.pmpaddr[n] = at >> 2
                self.edges.append(at)
                if kind == 1 and n == 0 or kind == 1 and rng.random() < 0.8:
                    kind = 2    # TOR from 0 shuts off the page tables too: seldom wanted
            self.pmpcfg |= (perm | kind << 3) << 8 * n

    def place(self):
        """An address for a base register."""
        rng = self.rng
        k = rng.random()
        if self.edges and k < 0.4:
            return rng.choice(self.edges) + rng.choice((-16, -8, 0, 8))
        if self.places and self.special_ok() and k < 0.55:
            return rng.choice(self.places) + rng.choice((0x800, 0x100, 0xff8, 0xff0, 8)) + self.skew()
        if k < 0.58 and not self.edges:
            return rng.choice((HOLE, 0x1000000000, RAM_END + 0x100, RAM_END + 0x1000, 0x7fffffffff000000, 0x4000000000,
                               0xffffffffffffff00, 0xffffffc000000000, 1 << 47, 1 << 55, 0x4100000000000000)) + self.skew()
        if k < 0.75 and not self.edges:
            return SCRATCH + rng.randrange(1, 15) * 0x1000 + rng.choice((-1, -2, -3, -4, -6, -7, 0))
        return SCRATCH + 0x1000 + rng.randrange(0xe000) // 8 * 8 + (0 if self.edges else self.skew())

    def special_ok(self):
        return getattr(self, 'special', False)

    def skew(self):
        rng = self.rng
        return rng.randrange(8) if rng.random() < 0.15 else 0

    # -- registers
    def rd(self):
        return self.rng.choice(FREE)

    def rs(self):
        n = self.rng.randrange(32)
        return n if n != 21 else 0

    def fr(self):
        return self.rng.randrange(32)

    def rm(self):
        return self.rng.choice((0, 1, 2, 3, 4, 7, 7, 7, 0, 1, 2, 3, 4, 7, 7, 7, 0, 0, 5, 6))

    def base_reg(self):
        return self.rng.choice(BASES)

    def imm(self, size):
        """An offset from a base register: near, mostly aligned."""
        rng = self.rng
        if self.edges:
            return rng.randrange(-4, 5) * max(size, 8 if size > 8 else size)
        k = rng.random()
        if k < 0.85:
            return rng.randrange(-8, 8) * size
        return rng.randrange(-64, 64)

    # -- output
    def w32(self, word):
        self.code += struct.pack('<I', word)

    def w16(self, half):
        self.code += struct.pack('<H', half & 0xffff)

    def words(self, list_):
        for w in list_:
            self.w32(w)

    def pc(self):
        return self.entry + len(self.code)

    def patch(self, pos, kind):
        off = len(self.code) - pos
        old, = struct.unpack_from('<I', self.code, pos) if kind in 'BJ' else struct.unpack_from('<H', self.code, pos)
        if kind == 'B':
            struct.pack_into('<I', self.code, pos, old | I.b(0, 0, 0, off) & 0xfe000f80)
        elif kind == 'J':
            struct.pack_into('<I', self.code, pos, old | I.j(0, off) & 0xfffff000)
        elif kind == 'j':
            o = off
            imm = ((o >> 11 & 1) << 12 | (o >> 4 & 1) << 11 | (o >> 8 & 3) << 9 | (o >> 10 & 1) << 8 | (o >> 6 & 1) << 7 |
                   (o >> 7 & 1) << 6 | (o >> 1 & 7) << 3 | (o >> 5 & 1) << 2)
            struct.pack_into('<H', self.code, pos, old | imm)
        elif kind == 'b':
            o = off if off < 256 else 2        # too far: to the next instruction
            imm = ((o >> 8 & 1) << 12 | (o >> 3 & 3) << 10 | (o >> 6 & 3) << 5 | (o >> 1 & 3) << 3 | (o >> 5 & 1) << 2)
            struct.pack_into('<H', self.code, pos, old | imm)

    def tick(self):
        """One item is complete: forward jumps that count items come nearer."""
        left = []
        for p in self.pending:
            p[2] -= 1
            if p[2] <= 0:
                self.patch(p[0], p[1])
            else:
                left.append(p)
        self.pending = left

    # -- items
    def alu(self):
        rng = self.rng
        k = rng.random()
        if k < 0.5:
            self.w32(I.r(*rng.choice(self.gen.op_r), self.rd(), self.rs(), self.rs()))
        elif k < 0.7:
            op, f3 = rng.choice(self.gen.op_i)
            self.w32(I.i(op, f3, self.rd(), self.rs(), rng.getrandbits(12)))
        elif k < 0.85:
            op, f3, up, bits = rng.choice(self.gen.op_shift)
            self.w32(I.i(op, f3, self.rd(), self.rs(), up | rng.getrandbits(bits)))
        elif k < 0.95:
            self.w32(rng.choice(self.gen.op_unary) | self.rd() << 7 | self.rs() << 15)
        else:
            self.w32(I.u(rng.choice((0x37, 0x17)), self.rd(), rng.getrandbits(20)))

    def compressed(self):
        for _ in range(self.rng.randrange(1, 4)):
            self.w16(I.c_insn(self.rng, self.rd, lambda: self.rs() or 7, lambda: self.rng.choice((8, 9)),
                              not self.edges))

    def fp(self):
        rng = self.rng
        if rng.random() < 0.2:
            self.w32(rng.choice(I.FMA) | self.fr() << 7 | self.rm() << 12 | self.fr() << 15 | self.fr() << 20 |
                     rng.getrandbits(1) << 25 | self.fr() << 27)
            return
        f5, fmt, rs2, f3, d, s1 = rng.choice(I.FP)
        self.w32(I.fp(f5, fmt, self.fr() if d == 'f' else self.rd(), self.rm() if f3 is None else f3,
                      self.fr() if s1 == 'f' else self.rs(), self.fr() if rs2 is None else rs2))

    def fcsr_op(self):
        rng = self.rng
        number = rng.choice((1, 2, 3))
        if rng.random() < 0.5:
            self.w32(I.csr(rng.choice((5, 6, 7)), self.rd(), number, rng.getrandbits(5)))
        else:
            self.w32(I.csr(rng.choice((1, 2, 3)), self.rd(), number, self.rs()))
        if rng.random() < 0.8:
            self.w32(I.csr(5, 0, 2, rng.randrange(5)))     # mostly leave a good rounding mode

    def load(self):
        rng = self.rng
        if rng.random() < 0.2:
            f3, size = rng.choice(((2, 4), (3, 8)))
            self.w32(I.i(0x07, f3, self.fr(), self.base_reg(), self.imm(size)))
            return
        f3, size = rng.choice(self.gen.loads)
        base = self.rs() if self.wild and rng.random() < 0.05 else self.base_reg()
        self.w32(I.i(0x03, f3, self.rd(), base, self.imm(size)))

    def store(self):
        rng = self.rng
        if rng.random() < 0.2:
            f3, size = rng.choice(((2, 4), (3, 8)))
            self.w32(I.s(0x27, f3, self.base_reg(), self.fr(), self.imm(size)))
            return
        f3, size = rng.choice(self.gen.stores)
        base = self.rs() if self.wild and rng.random() < 0.03 else self.base_reg()
        self.w32(I.s(0x23, f3, base, self.rs(), self.imm(size)))

    def amo(self):
        rng = self.rng
        f3 = rng.choice((2, 3))
        f5 = rng.choice(self.gen.amos)
        self.w32(I.r(0x2f, f3, f5 << 2 | rng.getrandbits(2), self.rd(), self.aligned_reg(f3), self.rs()))

    def aligned_reg(self, f3):
        """Atomics have no offset: make an address, seldom a misaligned one and then in a plain place."""
        rng = self.rng
        if rng.random() < 0.1 and not self.edges:
            self.words(I.li64(5, SCRATCH + 0x1000 + rng.randrange(0xe000)))
            return 5
        self.w32(I.i(0x13, 7, 5, self.base_reg(), -4 if f3 == 2 else -8))
        return 5

    def lrsc(self):
        rng = self.rng
        f3 = rng.choice((2, 3))
        at = SCRATCH + 0x1000 + rng.randrange(0xe000) // 8 * 8
        if self.edges or self.paging and (self.xrets or self.mprv):
            return self.amo()      # an LR that faults leaves an SC that must fail, and may fault first: KNOWN.md
        self.words(I.li64(5, at))
        k = rng.random()
        if k < 0.7:
            self.w32(I.r(0x2f, f3, 2 << 2 | rng.getrandbits(2), 6, 5, 0))
            for _ in range(rng.randrange(3)):
                self.w32(I.r(*rng.choice(self.gen.op_r), self.rng.choice((7, 10, 11)), self.rs(), self.rs()))
            self.w32(I.r(0x2f, f3, 3 << 2 | rng.getrandbits(2), self.rng.choice((0, 6, 10)), 5, self.rs()))
        elif k < 0.85:
            # A reservation elsewhere, in another page
            self.w32(I.r(0x2f, f3, 2 << 2, 6, 5, 0))
            self.words(I.li64(7, SCRATCH + (at + 0x1000 - SCRATCH) % 0xf000 // 8 * 8))
            self.w32(I.r(0x2f, f3, 3 << 2 | rng.getrandbits(2), self.rng.choice((0, 6, 10)), 7, self.rs()))
        # And one without: the reservation was used up above, or there was none.
        if k > 0.6:
            self.w32(I.r(0x2f, f3, 3 << 2, self.rng.choice((0, 6, 10)), 5, self.rs()))
        return None

    def cbo(self):
        """To a place that has memory, if it can be reached at all: QEMU does not see that there is none (KNOWN.md)."""
        rng, t = self.rng, self.gen.tables
        at = SCRATCH + 0x1000 + rng.randrange(0xe000)
        if self.edges:
            return                                     # a block that a PMP entry covers in part: KNOWN.md
        if self.special and self.mode != 3 and rng.random() < 0.5:
            at = rng.choice(t.data) + rng.randrange(0xfc0)
            if at >> 12 in t.holes:
                return
        self.words(I.li64(5, at))
        self.w32(I.cbo(rng.choice((0, 1, 2, 4, 4, 4)), 5))

    def rebase(self):
        k = self.rng.randrange(len(BASES))
        self.words(I.li64(BASES[k], self.place()))

    def jump(self):
        rng = self.rng
        k = rng.random()
        if k < 0.5:
            self.pending.append([len(self.code), 'B', rng.randrange(1, 6)])
            self.w32(I.b(rng.choice(self.gen.branches), self.rs(), self.rs(), 0))
        elif k < 0.6:
            self.pending.append([len(self.code), 'J', rng.randrange(1, 6)])
            self.w32(I.j(rng.choice((0, 1, self.rd())), 0))
        elif k < 0.7:
            self.pending.append([len(self.code), 'j', rng.randrange(1, 5)])
            self.w16(0xa001)
        elif k < 0.85:
            self.pending.append([len(self.code), 'b', rng.randrange(1, 3)])
            self.w16(rng.choice((0xc001, 0xe001)) | rng.randrange(8) << 7)
        else:
            # auipc + jalr over a few bytes
            n = rng.randrange(0, 4)
            link = rng.choice((0, 1, 23))
            self.w32(I.u(0x17, 21, 0))
            if rng.random() < 0.5:
                self.w32(I.i(0x67, 0, link, 21, 8 + 4 * n + rng.getrandbits(1)))
            else:
                self.w32(I.i(0x13, 0, 21, 21, 10 + 4 * n))
                self.w16(rng.choice((0x8002, 0x9002)) | 21 << 7)
            for _ in range(n):
                self.w32(I.r(*rng.choice(self.gen.op_r), self.rd(), self.rs(), self.rs()))

    def far_jump(self):
        """Out of the chunk: ecall pages through special entries, holes, odd addresses. x1 brings it back."""
        rng = self.rng
        if self.mode == 3 or not self.paging:
            to = rng.choice((EXEC + rng.randrange(0x8000) * 2, HOLE, 0x1000000000, RAM_END))
        elif self.special and rng.random() < 0.8:
            to = rng.choice(self.gen.tables.execs) + rng.choice((0, 0x10, 0xffc, 0xffe))
        else:
            to = rng.choice((EXEC + 0xffe, EXEC + 16 * 0x1000 - 2, HOLE, 0x7fffffffffff0000, 0x4000000000, 0xffffffc000000000))
        self.words(I.li64(21, to))
        self.w32(I.i(0x67, 0, 1, 21, rng.choice((0, 0, 1))))

    def loop_start(self):
        self.w32(I.i(0x13, 0, 22, 0, self.rng.randrange(1, 8)))
        self.loop = [len(self.code), self.rng.randrange(2, 7)]

    def loop_end(self):
        self.w32(I.i(0x13, 7, 22, 22, 7))
        self.w32(I.i(0x13, 0, 22, 22, -1))
        self.w32(I.b(4, 0, 22, self.loop[0] - len(self.code)))
        self.loop = None

    def csr(self):
        rng = self.rng
        k = rng.random()
        if k < 0.12:
            self.w32(I.csr(rng.choice((1, 2, 3, 5, 6, 7)), self.rd(), rng.choice(NOBODY), rng.getrandbits(5)))
            return
        if k < 0.24:
            self.w32(I.csr(2, 0, rng.choice(COUNTERS), 0))
            if rng.random() < 0.3:
                self.w32(I.csr(rng.choice((1, 5)), 0, rng.choice((0xc00, 0xc01, 0xc02)), 0))
            return
        if k < 0.34:
            self.w32(I.csr(2, self.rd(), rng.choice(READ_ONLY), 0))
            return
        if k < 0.42:
            table = RESTORED_M if self.mode == 3 and rng.random() < 0.7 else RESTORED_S
            number = rng.choice(sorted(table))
            if number == 0x105 and self.medeleg or number == 0x302 and self.mode != 3:
                return
            self.words(I.li64(5, rng.getrandbits(64) & table[number]))
            # Read twice: should the first one trap, because a return has left the mode, the second one is back in it.
            self.words([I.csr(2, 6, number, 0), I.csr(2, 6, number, 0)])
            self.words([I.csr(1, 6, number, 5), I.csr(1, 7, number, 6), I.csr(2, 6, number, 0)])
            return
        tables = (CSRS_U, CSRS_S, CSRS_M) if self.mode == 3 else (CSRS_U, CSRS_S, CSRS_S, CSRS_M)
        table = rng.choice(tables)
        number = rng.choice(sorted(table))
        f3 = rng.choice((1, 2, 3))
        if table is CSRS_U and rng.random() < 0.5:
            return self.fcsr_op()
        value = rng.getrandbits(64) & table[number] & (1 << 64) - 1
        if number in (0x10a, 0x30a) and value & 0x30 == 0x20:
            value ^= 0x20                              # CBIE 2 is reserved
        if number in (0x10a, 0x30a):
            f3 = 1
        if number == 0x300:
            return self.mstatus_op() if self.mprv or self.mode != 3 else None
        if number in (0x341, 0x141):
            value &= ~1
        self.words(I.li64(5, value))
        self.w32(I.csr(f3, self.rd(), number, 5))
        self.w32(I.csr(2, self.rd(), number, 0))
        return None

    def mstatus_op(self):
        """Random fields of mstatus; MPP only with values that exist. Read back without FS, VS and SD."""
        rng = self.rng
        keep = 0x7e19aa
        value = rng.getrandbits(64) & keep & ~0x1800 | rng.choice((0, 0x800, 0x1800))
        if rng.random() < 0.5:
            value |= 0x20000
        self.words(I.li64(5, keep))
        self.w32(I.csr(3, 6, 0x300, 5))
        self.words(I.li64(7, value))
        self.w32(I.csr(2, 7, 0x300, 7))
        self.words([I.r(0x33, 7, 0, 6, 6, 5), I.r(0x33, 7, 0, 7, 7, 5), I.csr(2, 10, 0x300, 0), I.r(0x33, 7, 0, 10, 10, 5)])
        for _ in range(rng.randrange(4)):
            rng.choice((self.load, self.store, self.amo))()

    def system(self):
        rng = self.rng
        k = rng.randrange(11)
        if k == 0:
            self.w32(I.ECALL)
        elif k == 1:
            if rng.random() < 0.5:
                self.w32(I.EBREAK)
            else:
                self.w16(0x9002)
        elif k == 2 and self.xrets:
            self.xret()
        elif k == 3:
            self.w32(I.sfence_vma(rng.choice((0, self.base_reg())), rng.choice((0, self.rs()))))
        elif k == 4:
            some = [I.sinval_vma(self.base_reg(), 0), I.sinval_vma(0, self.rs())]
            if self.mode and not self.xrets:           # QEMU runs them in U-mode too: KNOWN.md
                some += [I.SFENCE_W_INVAL, I.SFENCE_INVAL_IR]
            self.w32(rng.choice(some))
        elif k == 5:
            self.w32(rng.choice((I.PAUSE, I.WRS_STO, I.FENCE_I, 0x0ff0000f, 0x8330000f, 0x0000000f | rng.getrandbits(12) << 20)))
        elif k == 6 and self.mode != 3 and not self.edges:
            self.w32(I.MRET)
        elif k == 7 and self.mode == 1 and self.mstatus & 1 << 21:
            self.w32(I.WFI)
        elif k == 8:
            self.w32(rng.choice((0, 0xffffffff, 0x0000707f, 0x30500073, 0x10400073, 0x7b200073, 0x60000073, 0x22000073 | 1 << 7,
                                 0x00007013 | 0x3b, 0x0000403b | rng.getrandbits(7) << 25 & 0xf0000000 | 0xf0000000, 0x0000302f | 5 << 27,
                                 0x0000402f, 0x00007003, 0x00004023, 0x02007053 | 6 << 27, 0x04000053, 0x06000053, 0x0000306f & ~0x6f | 0x0f)))
        else:
            self.far_jump()

    def xret(self):
        """Into S or U at the next item, with x1 there too, should it not be allowed to run."""
        rng = self.rng
        if self.mode == 0:
            self.w32(rng.choice((I.SRET, I.MRET)))
            return
        number, word = (0x341, I.MRET) if self.mode == 3 and rng.random() < 0.7 else (0x141, I.SRET)
        if number == 0x341:
            self.words(I.li64(5, 0x1800))
            self.w32(I.csr(3, 0, 0x300, 5))
            self.words(I.li64(5, rng.choice((0, 0x800, 0x1800))))
            self.w32(I.csr(2, 0, 0x300, 5))
        else:
            self.words(I.li64(5, 0x100))
            self.w32(I.csr(rng.choice((2, 3)), 0, 0x100, 5))
        self.words([I.u(0x17, 21, 0), I.i(0x13, 0, 21, 21, 20), I.i(0x13, 0, 1, 21, 0), I.csr(1, 0, number, 21), word])

    def self_modify(self):
        """A store over an instruction that follows, with fence.i between. Only where code is writable."""
        rng = self.rng
        if self.mode == 0 or self.paging or self.pmpcfg:
            return self.alu()
        word = I.r(*rng.choice(self.gen.op_r), self.rd(), self.rs(), self.rs())
        self.words(I.li64(5, word))
        self.words([I.u(0x17, 21, 0), I.s(0x23, 2, 21, 5, 12), I.FENCE_I])
        self.w32(I.i(0x13, 0, self.rd(), self.rs(), 1))
        return None

    def random_word(self):
        """Any 32 bits, except what could run for ever or is not told by the specification."""
        rng = self.rng
        while True:
            w = rng.getrandbits(32)
            if rng.random() < 0.5:
                w = w & ~0x7f | rng.choice((0x03, 0x07, 0x0f, 0x13, 0x17, 0x1b, 0x23, 0x27, 0x2f, 0x33, 0x37, 0x3b, 0x43, 0x47, 0x4b,
                                            0x4f, 0x53, 0x63, 0x6f, 0x73))
            if w & 3 == 3:
                if self.word_ok(w):
                    self.w32(w)
                    return
            elif self.half_ok(w & 0xffff) and self.half_ok(w >> 16) and w >> 16 & 3 != 3:
                self.w32(w)
                return

    def word_ok(self, w):
        op, f3, rd = w & 0x7f, w >> 12 & 7, w >> 7 & 31
        room = self.size * 4 - len(self.code)
        if op == 0x63 or op == 0x6f:
            if op == 0x63:
                off = (w >> 8 & 15) << 1 | (w >> 25 & 63) << 5 | (w >> 7 & 1) << 11 | (w >> 31) << 12
                top = 1 << 12
            else:
                off = (w >> 21 & 1023) << 1 | (w >> 20 & 1) << 11 | (w >> 12 & 255) << 12 | (w >> 31) << 20
                top = 1 << 20
            return off < top and off % 4 == 0 and 0 < off <= room
        if op == 0x67 and f3 == 0:
            return False
        if op == 0x73 and f3 & 3:
            # Counters have a value of their own on each machine; timers and the like too.
            number = w >> 20
            return not (0xb00 <= number <= 0xcff) and number != 0x015
        if op == 0x73:
            return w not in (I.WFI, 0x00d00073, I.MRET, I.SRET)
        if op == 0x2f:
            return w >> 27 not in (2, 3) and w >> 27 in self.gen.amos
        if op == 0x0f and f3 == 2:
            return False
        # Room for extensions of later: these opcodes are illegal on both sides today.
        return op not in (0x0b, 0x2b, 0x5b, 0x7b, 0x57, 0x77, 0x7f) and rd >= 0

    @staticmethod
    def half_ok(h):
        quadrant, f3 = h & 3, h >> 13
        if quadrant == 1 and f3 in (5, 6, 7):
            return False
        return not (quadrant == 2 and f3 == 4 and h >> 2 & 31 == 0)

    def build(self):
        rng = self.rng
        if self.random_words:
            for _ in range(self.size):
                self.random_word()
            self.count = self.size
        else:
            items = self.gen.menu(self)
            limit = self.size * 3
            while len(self.code) < limit:
                if self.loop:
                    self.loop[1] -= 1
                    if self.loop[1] <= 0:
                        self.loop_end()
                elif rng.random() < 0.02:
                    self.loop_start()
                rng.choice(items)()
                self.tick()
            if self.loop:
                self.loop_end()
            for p in self.pending:
                p[2] = 1
            self.tick()
        self.end = self.pc()
        self.w32(I.ECALL)
        self.w32(I.ECALL)
        while len(self.code) % 8:
            self.code.append(0)

    def record(self):
        return struct.pack('<24Q', *[v & (1 << 64) - 1 for v in (
            self.entry, self.end, self.mode, self.satp, self.mstatus, self.menvcfg, self.senvcfg, self.medeleg,
            self.counteren, self.pmpcfg, *self.pmpaddr, self.flags, self.fcsr, *self.base, 0, 0)])


class Gen:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.seed = seed
        self.op_r = list(I.OP_R.values())
        self.op_i = list(I.OP_I.values())
        self.op_shift = list(I.OP_SHIFT.values())
        self.op_unary = list(I.OP_UNARY.values())
        self.loads = list(I.LOADS.values())
        self.stores = list(I.STORES.values())
        self.branches = list(I.BRANCHES.values())
        self.amos = list(I.AMOS.values())
        self.tables = Tables(self.rng)
        self.pool = value_pool(self.rng)

    @staticmethod
    def menu(c):
        """Items and how often; each chunk leans towards something."""
        parts = ([c.alu] * 24 + [c.compressed] * 10 + [c.fp] * 16 + [c.load] * 10 + [c.store] * 8 + [c.amo] * 3 +
                 [c.lrsc] * 2 + [c.cbo] * 1 + [c.rebase] * 3 + [c.jump] * 6 + [c.fcsr_op] * 2 + [c.csr] * 2 +
                 [c.system] * 1 + [c.self_modify])
        lean = c.rng.randrange(8)
        if lean == 0:
            parts += [c.fp] * 60 + [c.fcsr_op] * 4
        elif lean == 1:
            parts += [c.load, c.store, c.rebase] * 15 + [c.amo, c.far_jump] * 4
        elif lean == 2:
            parts += [c.csr] * 12 + [c.system] * 8
        elif lean == 3:
            parts += [c.alu] * 60
        if c.special:
            parts += [c.load, c.store, c.rebase] * 8 + [c.far_jump] * 3
        return parts

    def program(self, insns, size=180):
        chunks, at = [], CODE
        todo = insns
        while todo > 0 and len(chunks) < CHUNKS_MAX and at < CODE_END - size * 16:
            c = Chunk(self, at, size)
            c.build()
            chunks.append(c)
            at += len(c.code)
            todo -= size
        return chunks


def read_monitor(path):
    """The loaded bytes of the monitor's ELF file, from BASE on."""
    with open(path, 'rb') as f:
        elf = f.read()
    if elf[:4] != b'\x7fELF':
        raise SystemExit('%s is no ELF file' % path)
    phoff, = struct.unpack_from('<Q', elf, 32)
    phentsize, phnum = struct.unpack_from('<HH', elf, 54)
    image = bytearray()
    for n in range(phnum):
        kind, _flags, off, _va, pa, filesz, _memsz = struct.unpack_from('<IIQQQQQ', elf, phoff + n * phentsize)
        if kind != 1:
            continue
        if len(image) < pa - BASE + filesz:
            image.extend(bytes(pa - BASE + filesz - len(image)))
        image[pa - BASE:pa - BASE + filesz] = elf[off:off + filesz]
    return image


def make(monitor, seed, insns, passes=1, dump=(0, 0), every=50, quirks=0):
    """The ELF file of one program and a table of (entry, end) of its chunks."""
    g = Gen(seed)
    chunks = g.program(insns)
    last = chunks[-1]
    image = bytearray(last.entry + len(last.code) - BASE)
    image[0:len(monitor)] = monitor

    def put(at, data):
        image[at - BASE:at - BASE + len(data)] = data
    put(HEAD, struct.pack('<9Q', MAGIC, len(chunks), SCRATCH_BYTES, dump[0], dump[1], every, passes, seed & (1 << 64) - 1, quirks))
    put(POOL, struct.pack('<256Q', *g.pool))
    for n, c in enumerate(chunks):
        put(CHUNKS + n * 192, c.record())
        put(c.entry, c.code)
    for at, pte in g.tables.mem.items():
        put(at, struct.pack('<Q', pte))
    put(PRISTINE, bytes(image[TABLES - BASE:TABLES - BASE + 0x2000]))
    put(SCRATCH, random.Random(seed ^ 0x5eed).randbytes(SCRATCH_BYTES))
    ecalls = struct.pack('<I', I.ECALL) * 1023 + struct.pack('<HH', 0x0013, 0x0073)
    for n in range(16):
        put(EXEC + n * 0x1000, ecalls)
    put(HANDLER, struct.pack('<II', I.ECALL, I.ECALL))
    size = len(image)
    head = b'\x7fELF' + bytes((2, 1, 1)) + bytes(9) + struct.pack('<HHIQQQIHHHHHH', 2, 243, 1, BASE, 64, 0, 5, 64, 56, 1, 0, 0, 0)
    head += struct.pack('<IIQQQQQQ', 1, 7, 4096, BASE, BASE, size, size + 0x200000, 4096)
    return head + bytes(4096 - len(head)) + bytes(image), chunks


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--monitor', required=True)
    ap.add_argument('--seed', type=int, default=1)
    ap.add_argument('--insns', type=int, default=100000)
    ap.add_argument('--passes', type=int, default=1)
    ap.add_argument('out')
    args = ap.parse_args()
    elf, chunks = make(read_monitor(args.monitor), args.seed, args.insns, args.passes)
    with open(args.out, 'wb') as f:
        f.write(elf)
    print('%d chunks, %d bytes' % (len(chunks), os.path.getsize(args.out)))


if __name__ == '__main__':
    main()

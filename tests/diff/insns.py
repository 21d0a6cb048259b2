"""Encodings, from the specification and nothing else: a second opinion beside the engine's own table.

Source: RISC-V Instruction Set Manual, volume I (20240411), "RV32/64G Instruction Set Listings" and the chapters of each
extension; volume II for the privileged ones.
"""


def r(op, f3, f7, rd, rs1, rs2):
    return op | rd << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | f7 << 25


def i(op, f3, rd, rs1, imm):
    return op | rd << 7 | f3 << 12 | rs1 << 15 | (imm & 0xfff) << 20


def s(op, f3, rs1, rs2, imm):
    return op | (imm & 31) << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | (imm >> 5 & 127) << 25


def b(f3, rs1, rs2, off):
    return (0x63 | f3 << 12 | rs1 << 15 | rs2 << 20 | (off >> 11 & 1) << 7 | (off >> 1 & 15) << 8 |
            (off >> 5 & 63) << 25 | (off >> 12 & 1) << 31)


def j(rd, off):
    return (0x6f | rd << 7 | (off >> 12 & 255) << 12 | (off >> 11 & 1) << 20 | (off >> 1 & 1023) << 21 |
            (off >> 20 & 1) << 31)


def u(op, rd, imm20):
    return op | rd << 7 | (imm20 & 0xfffff) << 12


# name: (opcode, funct3, funct7)
OP_R = {
    'add': (0x33, 0, 0), 'sub': (0x33, 0, 0x20), 'sll': (0x33, 1, 0), 'slt': (0x33, 2, 0), 'sltu': (0x33, 3, 0),
    'xor': (0x33, 4, 0), 'srl': (0x33, 5, 0), 'sra': (0x33, 5, 0x20), 'or': (0x33, 6, 0), 'and': (0x33, 7, 0),
    'addw': (0x3b, 0, 0), 'subw': (0x3b, 0, 0x20), 'sllw': (0x3b, 1, 0), 'srlw': (0x3b, 5, 0), 'sraw': (0x3b, 5, 0x20),
    'mul': (0x33, 0, 1), 'mulh': (0x33, 1, 1), 'mulhsu': (0x33, 2, 1), 'mulhu': (0x33, 3, 1),
    'div': (0x33, 4, 1), 'divu': (0x33, 5, 1), 'rem': (0x33, 6, 1), 'remu': (0x33, 7, 1),
    'mulw': (0x3b, 0, 1), 'divw': (0x3b, 4, 1), 'divuw': (0x3b, 5, 1), 'remw': (0x3b, 6, 1), 'remuw': (0x3b, 7, 1),
    # Zba
    'add.uw': (0x3b, 0, 4), 'sh1add': (0x33, 2, 0x10), 'sh2add': (0x33, 4, 0x10), 'sh3add': (0x33, 6, 0x10),
    'sh1add.uw': (0x3b, 2, 0x10), 'sh2add.uw': (0x3b, 4, 0x10), 'sh3add.uw': (0x3b, 6, 0x10),
    # Zbb
    'andn': (0x33, 7, 0x20), 'orn': (0x33, 6, 0x20), 'xnor': (0x33, 4, 0x20),
    'max': (0x33, 6, 5), 'maxu': (0x33, 7, 5), 'min': (0x33, 4, 5), 'minu': (0x33, 5, 5),
    'rol': (0x33, 1, 0x30), 'rolw': (0x3b, 1, 0x30), 'ror': (0x33, 5, 0x30), 'rorw': (0x3b, 5, 0x30),
    # Zbs
    'bclr': (0x33, 1, 0x24), 'bext': (0x33, 5, 0x24), 'binv': (0x33, 1, 0x34), 'bset': (0x33, 1, 0x14),
    # Zicond
    'czero.eqz': (0x33, 5, 7), 'czero.nez': (0x33, 7, 7),
}

# name: (opcode, funct3) with a 12-bit immediate
OP_I = {
    'addi': (0x13, 0), 'slti': (0x13, 2), 'sltiu': (0x13, 3), 'xori': (0x13, 4), 'ori': (0x13, 6), 'andi': (0x13, 7),
    'addiw': (0x1b, 0),
}

# name: (opcode, funct3, upper bits in place, bits of shift amount)
OP_SHIFT = {
    'slli': (0x13, 1, 0, 6), 'srli': (0x13, 5, 0, 6), 'srai': (0x13, 5, 0x400, 6),
    'slliw': (0x1b, 1, 0, 5), 'srliw': (0x1b, 5, 0, 5), 'sraiw': (0x1b, 5, 0x400, 5),
    'rori': (0x13, 5, 0x600, 6), 'roriw': (0x1b, 5, 0x600, 5), 'slli.uw': (0x1b, 1, 0x80, 6),
    'bclri': (0x13, 1, 0x480, 6), 'bexti': (0x13, 5, 0x480, 6), 'binvi': (0x13, 1, 0x680, 6), 'bseti': (0x13, 1, 0x280, 6),
}

# name: the word without rd and rs1
OP_UNARY = {
    'clz': 0x60001013, 'clzw': 0x6000101b, 'ctz': 0x60101013, 'ctzw': 0x6010101b, 'cpop': 0x60201013,
    'cpopw': 0x6020101b, 'sext.b': 0x60401013, 'sext.h': 0x60501013, 'zext.h': 0x0800403b,
    'orc.b': 0x28705013, 'rev8': 0x6b805013,
}

LOADS = {'lb': (0, 1), 'lh': (1, 2), 'lw': (2, 4), 'ld': (3, 8), 'lbu': (4, 1), 'lhu': (5, 2), 'lwu': (6, 4)}
STORES = {'sb': (0, 1), 'sh': (1, 2), 'sw': (2, 4), 'sd': (3, 8)}
BRANCHES = {'beq': 0, 'bne': 1, 'blt': 4, 'bge': 5, 'bltu': 6, 'bgeu': 7}
AMOS = {'amoswap': 1, 'amoadd': 0, 'amoxor': 4, 'amoand': 12, 'amoor': 8, 'amomin': 16, 'amomax': 20, 'amominu': 24,
        'amomaxu': 28}


def fp(f5, fmt, rd, f3, rs1, rs2):
    return 0x53 | rd << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | fmt << 25 | f5 << 27


# (funct5, fmt, rs2 or None, funct3 or None = rounding mode, what rd is, what rs1 is)
FP = []
for _fmt in (0, 1):
    for _f5 in (0, 1, 2, 3):                                   # fadd fsub fmul fdiv
        FP += [(_f5, _fmt, None, None, 'f', 'f')] * 3
    FP += [(0x0b, _fmt, 0, None, 'f', 'f')] * 3                # fsqrt
    for _f3 in (0, 1, 2):                                      # fsgnj
        FP.append((0x04, _fmt, None, _f3, 'f', 'f'))
    for _f3 in (0, 1):                                         # fmin fmax
        FP.append((0x05, _fmt, None, _f3, 'f', 'f'))
    for _f3 in (0, 1, 2):                                      # fle flt feq
        FP.append((0x14, _fmt, None, _f3, 'x', 'f'))
    for _n in (0, 1, 2, 3):                                    # fcvt.{w,wu,l,lu}.fmt and back
        FP.append((0x18, _fmt, _n, None, 'x', 'f'))
        FP.append((0x1a, _fmt, _n, None, 'f', 'x'))
    FP.append((0x08, _fmt, 1 - _fmt, None, 'f', 'f'))          # fcvt.s.d fcvt.d.s
    FP.append((0x1c, _fmt, 0, 0, 'x', 'f'))                    # fmv.x
    FP.append((0x1c, _fmt, 0, 1, 'x', 'f'))                    # fclass
    FP.append((0x1e, _fmt, 0, 0, 'f', 'x'))                    # fmv.*.x
FMA = (0x43, 0x47, 0x4b, 0x4f)

# System instructions without operands
ECALL, EBREAK = 0x00000073, 0x00100073
SRET, MRET, WFI = 0x10200073, 0x30200073, 0x10500073
WRS_STO, PAUSE, FENCE_I = 0x01d00073, 0x0100000f, 0x0000100f
SFENCE_W_INVAL, SFENCE_INVAL_IR = 0x18000073, 0x18100073


def sfence_vma(rs1, rs2):
    return r(0x73, 0, 9, 0, rs1, rs2)


def sinval_vma(rs1, rs2):
    return r(0x73, 0, 11, 0, rs1, rs2)


def csr(f3, rd, number, src):
    """f3: 1 rw 2 rs 3 rc 5 rwi 6 rsi 7 rci."""
    return i(0x73, f3, rd, src, number)


def cbo(kind, rs1):
    """kind: 0 inval 1 clean 2 flush 4 zero."""
    return i(0x0f, 2, 0, rs1, kind)


def li64(rd, v):
    """The words that load any constant: as an assembler would do it."""
    v &= (1 << 64) - 1
    if v >> 63:
        v -= 1 << 64
    if -2048 <= v < 2048:
        return [i(0x13, 0, rd, 0, v)]
    low = (v & 0xfff) - ((v & 0x800) << 1)
    if -(1 << 31) <= v < 1 << 31:
        out = [u(0x37, rd, (v - low) >> 12)]
        return out + [i(0x1b, 0, rd, rd, low)] if low else out
    rest, shift = (v - low) >> 12, 12
    while not rest & 1:
        rest, shift = rest >> 1, shift + 1
    out = li64(rd, rest)
    out.append(i(0x13, 1, rd, rd, shift))
    return out + [i(0x13, 0, rd, rd, low)] if low else out


def c_insn(rng, dest, source, base_c, sp_ok):
    """One random 16-bit instruction without control flow. dest, source: register choosers; base_c: x8 or x9."""
    def cdest():
        return rng.randrange(2, 8)            # x10..x15

    def anyc():
        return rng.randrange(0, 8)
    k = rng.randrange(22 if sp_ok else 16)
    imm = rng.getrandbits(6)
    if k == 0:                                # c.addi4spn; immediate 0 is reserved
        return 0x0000 | cdest() << 2 | (rng.getrandbits(8) or rng.getrandbits(1)) << 5
    if k == 1:                                # c.addi and c.nop
        return 0x0001 | dest() << 7 | (imm & 31) << 2 | (imm >> 5) << 12
    if k == 2:                                # c.addiw; rd 0 is reserved
        return 0x2001 | dest() << 7 | (imm & 31) << 2 | (imm >> 5) << 12
    if k == 3:                                # c.li
        return 0x4001 | dest() << 7 | (imm & 31) << 2 | (imm >> 5) << 12
    if k == 4:                                # c.lui; immediate 0 is reserved
        d = dest()
        return 0x6001 | d << 7 | (imm & 31) << 2 | (imm >> 5) << 12
    if k == 5:                                # c.srli c.srai c.andi
        return 0x8001 | rng.randrange(3) << 10 | cdest() << 7 | (imm & 31) << 2 | (imm >> 5) << 12
    if k in (6, 7):                           # c.sub xor or and subw addw, two reserved
        return 0x8c01 | rng.getrandbits(1) << 12 | cdest() << 7 | rng.getrandbits(2) << 5 | anyc() << 2
    if k == 8:                                # c.slli
        return 0x0002 | dest() << 7 | (imm & 31) << 2 | (imm >> 5) << 12
    if k == 9:                                # c.mv
        return 0x8002 | dest() << 7 | (source() or 5) << 2
    if k == 10:                               # c.add
        return 0x9002 | dest() << 7 | (source() or 6) << 2
    if k in (11, 12):                         # c.fld c.lw c.ld
        f3 = rng.choice((1, 2, 3))
        return f3 << 13 | rng.getrandbits(3) << 10 | base_c() - 8 << 7 | rng.getrandbits(2) << 5 | (
            anyc() if f3 == 1 else cdest()) << 2
    if k in (13, 14):                         # c.fsd c.sw c.sd
        f3 = rng.choice((5, 6, 7))
        return f3 << 13 | rng.getrandbits(3) << 10 | base_c() - 8 << 7 | rng.getrandbits(2) << 5 | anyc() << 2
    if k == 15:                               # reserved: quadrant 0 funct3 100, and all zeroes
        return rng.choice((0x8000 | rng.getrandbits(13) & 0x1ffc, 0, 0x6001 | dest() << 7, 0x6101,
                           0x9c41 | rng.getrandbits(5) << 2 & 0x3dc, 0x8002, 0x2001, 0x4002, 0x6002))
    if k in (16, 17, 18):                     # c.fldsp c.lwsp c.ldsp; rd 0 is reserved for the integer ones
        f3 = rng.choice((1, 2, 3))
        d = rng.randrange(32) if f3 == 1 else dest()
        return 2 | f3 << 13 | d << 7 | (imm & 31) << 2 | (imm >> 5) << 12
    f3 = rng.choice((5, 6, 7))                # c.fsdsp c.swsp c.sdsp
    return 2 | f3 << 13 | imm << 7 | rng.randrange(32) << 2

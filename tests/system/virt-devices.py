#!/usr/bin/env python3
"""The registers of the `virt` board beside those of QEMU's, driven by one script of loads and stores.

Each part runs a seeded random sequence over registers whose behaviour the specification fixes; what QEMU and Lodge answer must be
the same. Where QEMU is known to differ, the sequence avoids the place and DIFFERENCES says why.
"""
import os
import random
import shutil
import subprocess
import sys

DIFFERENCES = """
- APLIC target: QEMU keeps reserved bits of the target register; written values have them clear.
- APLIC: QEMU leaves target, enable and pending bits of a source alone when it becomes inactive; the
  specification (AIA 4.5.2, 4.5.16) has them read as zero. They are cleared by hand before.
- APLIC: a source that is taken back from the child keeps its sourcecfg there in QEMU; the specification
  (4.5.2) has it read as zero.
- APLIC sourcecfg: QEMU keeps the reserved source modes 2 and 3 (and takes them for inactive); here they become 0 (WARL).
- ACLINT: mtimecmp starts as 0 in QEMU, at the end of time here; the specification leaves it open.
- UART: transmission takes time in QEMU; the sequence transmits in loopback only, with room in the FIFO.
"""

APLIC_M, APLIC_S = 0xc000000, 0xd000000
UART, RTC, ACLINT = 0x10000000, 0x101000, 0x2000000
ROUNDS = int(os.environ.get('ROUNDS', '3000'))


class Side:
    def __init__(self, argv):
        self.p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True, bufsize=1)

    def ask(self, line):
        self.p.stdin.write(line + '\n')
        self.p.stdin.flush()
        while True:
            answer = self.p.stdout.readline()
            if not answer:
                return 'gone'
            if answer.startswith(('OK', 'FAIL', 'ERR')):
                return answer.strip()

    def close(self):
        self.p.stdin.close()
        self.p.kill()
        self.p.wait()


class Pair:
    def __init__(self, ours, theirs):
        self.sides = [ours, theirs]
        self.log = []
        self.reads = 0

    def both(self, line):
        self.log.append(line)
        return [s.ask(line) for s in self.sides]

    def write(self, addr, val, width='l'):
        for answer in self.both('write%s 0x%x 0x%x' % (width, addr, val)):
            if answer != 'OK':
                raise AssertionError('%s: %s' % (self.log[-1], answer))

    def read(self, addr, width='l', mask=~0):
        a, b = self.both('read%s 0x%x' % (width, addr))
        self.reads += 1
        if a[:2] != 'OK' or b[:2] != 'OK' or (int(a[3:], 16) ^ int(b[3:], 16)) & mask:
            raise AssertionError('%s: Lodge %s, QEMU %s, after:\n  %s' %
                                 (self.log[-1], a, b, '\n  '.join(self.log[-25:-1])))
        return int(a[3:], 16)


def aplic(p, rnd, base):
    sources = [1, 7, 10, 11, 31, 32, 33, 63, 64, 95]  # none is up: no device makes one so
    for i in range(1, 97):
        p.write(base + 4 * i, 0)
        p.write(base + 0x1ddc, i)
        p.write(base + 0x1fdc, i)
    # Off while the sequence runs: a message that is sent clears the pending bit at a moment that only the sender knows.
    p.write(base, 0)
    off = set(sources)
    for _ in range(ROUNDS):
        s = rnd.choice(sources)
        word = rnd.randrange(3)
        what = rnd.randrange(10)
        if what == 0:
            p.write(base + 0x1ddc, s)
            p.write(base + 0x1fdc, s)
            p.write(base + 0x3000 + 4 * s, 0)
            mode = rnd.choice([0, 1, 4, 6])  # inverted wires would be up at once
            p.write(base + 4 * s, mode)
            if mode in (1, 4, 6):
                off.discard(s)
                p.write(base + 0x3000 + 4 * s, 1)
            else:
                off.add(s)
        elif what == 1:
            p.write(base + rnd.choice([0x1cdc, 0x2000]), s)
        elif what == 2:
            p.write(base + 0x1ddc, s)
        elif what == 3:
            p.write(base + 0x1edc, s)
        elif what == 4:
            p.write(base + 0x1fdc, s)
        elif what == 5:
            p.write(base + rnd.choice([0x1c00, 0x1d00, 0x1e00, 0x1f00]) + 4 * word, rnd.getrandbits(32))
        elif what == 6 and s not in off:
            p.write(base + 0x3000 + 4 * s, rnd.randrange(4) << 18 | rnd.randrange(1, 256))
        p.read(base + 4 * s)
        p.read(base + rnd.choice([0x1c00, 0x1d00, 0x1e00]) + 4 * word)
        p.read(base + 0x3000 + 4 * s)
        p.read(base + rnd.choice([0, 0x1cdc, 0x1ddc, 0x1edc, 0x1fdc, 0x1f00, 0x3ffc & ~3]))


def aplic_domains(p, rnd):
    aplic(p, rnd, APLIC_M)
    for i in range(1, 97):
        p.write(APLIC_M + 0x3000 + 4 * i, 0)
        p.write(APLIC_M + 4 * i, 0x400)
        p.read(APLIC_M + 4 * i)
    aplic(p, rnd, APLIC_S)
    for i in range(1, 97):
        p.write(APLIC_S + 4 * i, 0)
        p.write(APLIC_M + 4 * i, 0)
        p.read(APLIC_S + 4 * i)
    for off in (0x1bc0, 0x1bc4, 0x1bc8, 0x1bcc):
        p.write(APLIC_M + off, 0x12345678 & 0x1f77ffff if off != 0x1bcc else 0x00200123)
        p.read(APLIC_M + off)
        p.read(APLIC_S + off)
    p.write(APLIC_M + 0x1bc4, 0x80002000)
    for off in (0x1bc0, 0x1bc8):
        p.write(APLIC_M + off, 0)
        p.read(APLIC_M + off)


def uart(p, rnd):
    fifo = 0
    p.write(UART + 2, 0, 'b')
    p.write(UART + 4, 0, 'b')
    p.read(UART + 5, 'b')
    p.read(UART + 6, 'b')
    for _ in range(ROUNDS):
        what = rnd.randrange(9)
        if what == 0:
            p.write(UART + 1, rnd.getrandbits(8), 'b')
        elif what == 1:
            p.write(UART + 3, rnd.getrandbits(8) & 0xbf, 'b')  # no break
        elif what == 2:
            p.write(UART + 7, rnd.getrandbits(8), 'b')
        elif what == 3:  # modem outputs in loopback
            p.write(UART + 4, 0x10 | rnd.getrandbits(4), 'b')
        elif what == 4:
            p.write(UART + 3, 0x83, 'b')
            p.write(UART, rnd.getrandbits(8), 'b')
            p.write(UART + 1, rnd.getrandbits(8), 'b')
            p.read(UART, 'b')
            p.read(UART + 1, 'b')
            p.write(UART + 3, 0x03, 'b')
        p.read(UART + rnd.choice([1, 3, 4, 7]), 'b')
        p.read(UART + 6, 'b', 0xf0)
        p.read(UART + 5, 'b', 0x9f)


def rtc(p, rnd):
    p.read(RTC + 0x18)
    for _ in range(ROUNDS // 4):
        what = rnd.randrange(4)
        far = 0x20000000 + rnd.getrandbits(20)  # about the year 2043
        if what == 0:
            p.write(RTC + 0x0c, far)
            p.write(RTC + 0x08, rnd.getrandbits(32))
        elif what == 1:
            p.write(RTC + 0x14, 1)
        elif what == 2:
            p.write(RTC + 0x10, rnd.getrandbits(1))
        elif what == 3:
            p.write(RTC + 0x1c, 1)
        p.read(RTC + 0x18)
        p.read(RTC + 0x10)


def aclint(p, rnd):
    for h in range(4):
        p.write(ACLINT + 0x4000 + 8 * h, rnd.getrandbits(64), 'q')
    for _ in range(ROUNDS // 4):
        h = rnd.randrange(4)
        what = rnd.randrange(3)
        if what == 0:
            p.write(ACLINT + 4 * h, rnd.getrandbits(32))
        elif what == 1:
            p.write(ACLINT + 0x4000 + 8 * h, rnd.getrandbits(64), 'q')
        else:
            p.write(ACLINT + 0x4000 + 8 * h + rnd.choice([0, 4]), rnd.getrandbits(32))
        p.read(ACLINT + 4 * h)
        p.read(ACLINT + 0x4000 + 8 * h)
        p.read(ACLINT + 0x4004 + 8 * h)


def main():
    qemu = shutil.which('qemu-system-riscv64')
    if not qemu:
        print('SKIP: no qemu-system-riscv64 to compare with')
        return 77
    build = os.environ.get('LODGE_BUILD', 'build')
    failed = 0
    for part in (aplic_domains, uart, rtc, aclint):
        ours = Side([os.path.join(build, 'tests/tools/virt-mmio')])
        theirs = Side([qemu, '-M', 'virt,aia=aplic-imsic', '-smp', '4', '-display', 'none', '-S', '-qtest-log', 'none',
                       '-qtest', 'stdio', '-serial', 'null', '-monitor', 'none', '-bios', 'none'])
        pair = Pair(ours, theirs)
        try:
            part(pair, random.Random(1))
            print('PASS: %s: %d loads after %d accesses equal to QEMU' %
                  (part.__name__, pair.reads, len(pair.log)))
        except AssertionError as e:
            print('FAIL: %s: %s' % (part.__name__, e))
            failed = 1
        finally:
            ours.close()
            theirs.close()
    return failed


if __name__ == '__main__':
    sys.exit(main())

#!/usr/bin/env python3
"""Runs random programs on Lodge and on QEMU's `virt` board and compares the whole state at every trap.

    run.py --lodge 'build/src/vm/lodge-vm ... {elf}' [--seed S] [--insns N] [--programs P] [--passes K]
           [--jobs J] [--keep DIR]
    run.py --self       QEMU against QEMU with one instruction per block: a test of the generator

Instructions executed are about insns * passes * programs. Ends with 1 at the first difference, which it shows with the event,
the instruction and what differs in it; --keep DIR leaves the program and both outputs there. See README.md.
"""
import argparse
import concurrent.futures
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
import gen

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What Lodge has, and no more: each name is one of QEMU's extensions of `rv64` that differ from that.
CPU = ('rv64,v=false,h=false,zbc=false,zfa=false,zicbop=false,zihintntl=false,svvptc=false,zicond=true,svinval=true,'
       'svnapot=true,svpbmt=true,svadu=true,sstc=true,zawrs=true,zicbom=true,zicboz=true')
# Two harts, though one sleeps: with one QEMU makes atomics of a load and a store, and names the wrong fault (KNOWN.md).
QEMU = ('qemu-system-riscv64 -M virt,aia=aplic-imsic -m 128M -smp 2 -cpu ' + CPU +
        ' -bios none -kernel {elf} -display none -monitor none -serial stdio -no-reboot')
QEMU_SLOW = QEMU + ' -accel tcg,one-insn-per-tb=on'
QEMU_QUIRKS = 1     # diff.h: QUIRK_*
LODGE = '{build}/src/vm/lodge-vm --memory 128M --smp 1 --log-level error --firmware {elf}'


RUNNING = set()     # pids of machines, each a process group
STOP, FOLDERS = [], []


def stop(*_):
    """Told to end: the machines go first, so that none is left behind."""
    STOP.append(1)
    for pid in list(RUNNING):
        try:
            os.killpg(pid, signal.SIGKILL)
        except OSError:
            pass
    for folder in FOLDERS:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(143)


def execute(command, elf, limit):
    """(lines, None) or (lines, what went wrong)."""
    argv = shlex.split(command.format(elf=elf, build=os.environ.get('LODGE_BUILD', TOP + '/build')))
    # A session of its own, so that a machine that hangs goes with what it has started.
    if STOP:
        return [], 'stopped'
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    RUNNING.add(p.pid)
    try:
        out, _ = p.communicate(timeout=limit)
        why = None if p.returncode == 0 else 'exit code %d' % p.returncode
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, _ = p.communicate()
        why = 'still running after %d s' % limit
    finally:
        RUNNING.discard(p.pid)
    lines = out.decode('utf-8', 'replace').replace('\r', '').split('\n')
    if why is None and 'SUCCESS' not in lines:
        why = 'no SUCCESS'
    return lines, why


def hashes(lines):
    return [(int(l.split()[1]), l.split()[2]) for l in lines if re.match(r'HASH \d+ 0x[0-9a-f]+$', l)]


def disassemble(word, at):
    tool = shutil.which('riscv64-linux-gnu-objdump') or shutil.which('riscv64-unknown-elf-objdump')
    if not tool:
        return ''
    with tempfile.NamedTemporaryFile(suffix='.bin') as f:
        f.write(word.to_bytes(4 if word & 3 == 3 else 2, 'little'))
        f.flush()
        out = subprocess.run([tool, '-D', '-b', 'binary', '-m', 'riscv:rv64', '-M', 'no-aliases,numeric', '--adjust-vma=%#x' % at, f.name],
                             stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r'^\s*[0-9a-f]+:\s+([0-9a-f]+)\s+(.*)$', out, re.M)
    return re.sub(r'\s+', ' ', found.group(2)) if found else ''


def words_of(line):
    """`event pc 0x.. insn 0x..` and `x00=0x.. x01=0x..` as a table."""
    table = dict(re.findall(r'(\w+)=(0x[0-9a-f]+)', line))
    table.update(re.findall(r'(\w+) (0x[0-9a-f]+)', line))
    return table


def listing(image, start, stop):
    rows = []
    while start < stop:
        at = start - gen.BASE + 4096
        half = int.from_bytes(image[at:at + 2], 'little')
        size = 4 if half & 3 == 3 else 2
        word = int.from_bytes(image[at:at + size], 'little')
        rows.append('    %x: %0*x  %s' % (start, size * 2, word, disassemble(word, start)))
        start += size
    return rows


def walk(image, va):
    """Entries of the special tables that an address goes by."""
    def entry(table, index):
        at = table + 8 * index - gen.BASE + 4096
        return int.from_bytes(image[at:at + 8], 'little')
    if va >> 30 != gen.SPECIAL >> 30:
        return ''
    one = entry(gen.TABLES, va >> 21 & 511)
    text = 'level 1 entry %#x' % one
    if one & 0xf == 1:
        text += ', level 0 entry %#x' % entry(gen.TABLES + 4096, va >> 12 & 511)
    return text


class Program:
    def __init__(self, args, n):
        self.args, self.n = args, n
        self.seed = args.seed * 1000003 + n

    def build(self, path, dump=(0, 0)):
        """PATH for machine A and PATH.b, which differs in one word that names B's known defects."""
        data, chunks = gen.make(self.args.image, self.seed, self.args.insns, self.args.passes, dump)
        for name, quirks in ((path, QEMU_QUIRKS if self.args.self else 0), (path + '.b', QEMU_QUIRKS)):
            with open(name, 'wb') as f:
                f.write(data)
                f.seek(gen.HEAD - gen.BASE + 4096 + 8 * 8)
                f.write(quirks.to_bytes(8, 'little'))
        return data, chunks

    def run(self, folder):
        """None when both agree, else a report."""
        path = os.path.join(folder, 'p%d.elf' % self.n)
        _data, chunks = self.build(path)
        limit = self.args.limit
        with concurrent.futures.ThreadPoolExecutor(2) as two:
            a = two.submit(execute, self.args.a, path, limit)
            b = two.submit(execute, self.args.b, path + '.b', limit)
            (la, wa), (lb, wb) = a.result(), b.result()
        events = [l for l in lb if l.startswith('events ')]
        if la == lb and not wa and not wb or (hashes(la) == hashes(lb) and hashes(la) and not wa and not wb):
            os.unlink(path)
            os.unlink(path + '.b')
            return None, events
        return self.explain(path, chunks, la, wa, lb, wb), events

    def explain(self, path, chunks, la, wa, lb, wb):
        out = ['seed %d program %d: the two machines differ' % (self.args.seed, self.n)]
        if wa and wb and hashes(la) == hashes(lb):
            out[0] = 'seed %d program %d: neither machine comes to its end: a program that runs for ever' % (self.args.seed, self.n)
        for name, why, lines in (('A', wa, la), ('B', wb, lb)):
            if why:
                out.append('  %s: %s; last lines: %s' % (name, why, ' | '.join(lines[-4:])))
        ha, hb = hashes(la), hashes(lb)
        first, last = 0, None
        for x, y in zip(ha, hb):
            if x != y:
                last = x[0] + 1
                break
            first = x[0] + 1
        if last is None:
            last = first + 50
        data, _ = self.build(path, (first, last))
        limit = self.args.limit * 2
        la, _ = execute(self.args.a, path, limit)
        lb, _ = execute(self.args.b, path + '.b', limit)
        if self.args.keep:
            os.makedirs(self.args.keep, exist_ok=True)
            shutil.copy(path, self.args.keep)
            for name, lines in (('A', la), ('B', lb)):
                with open(os.path.join(self.args.keep, 'p%d.%s.txt' % (self.n, name)), 'w') as f:
                    f.write('\n'.join(lines))
        la = [l for l in la if re.match(r'chunk|event|x\d|f\d|pte|line|HASH', l)]
        lb = [l for l in lb if re.match(r'chunk|event|x\d|f\d|pte|line|HASH', l)]
        for at, (x, y) in enumerate(zip(la, lb)):
            if x != y:
                return '\n'.join(out + self.context(data, chunks, la, lb, at))
        if len(la) != len(lb):
            return '\n'.join(out + self.context(data, chunks, la, lb, min(len(la), len(lb)) - 1))
        return '\n'.join(out + ['  the second run did not differ: not deterministic'])

    def context(self, data, chunks, la, lb, at):
        out = []
        back = at
        while back > 0 and not la[back].startswith('chunk'):
            back -= 1
        out.append('  ' + la[back])
        number = int(la[back].split()[1]) if la[back].startswith('chunk') else 0
        events = [n for n in range(back, at + 1) if la[n].startswith('event')]
        start = chunks[number % len(chunks)].entry
        if events:
            now = events[-1]
            before = events[-2] if len(events) > 1 else None
            if before is not None:
                pc = int(words_of(la[before])['pc'], 16)
                if start <= pc < chunks[number % len(chunks)].end:
                    start = pc
                out.append('  before: ' + la[before][:150])
            out.append('  A: ' + la[now])
            out.append('  B: ' + lb[now])
            for x, y in zip(la[now:now + 17], lb[now:now + 17]):
                if x.startswith(('chunk', 'HASH')) or x.startswith('event') and x != la[now]:
                    break
                wx, wy = words_of(x), words_of(y)
                for name in wx:
                    if wx[name] != wy.get(name):
                        old = ''
                        if before is not None:
                            for row in la[before:before + 17]:
                                old = words_of(row).get(name, old)
                        out.append('    %-7s A %s  B %s  (before: %s)' % (name, wx[name], wy.get(name), old or '?'))
            for name in ('tval', 'stval'):
                for row in (la[now], lb[now]):
                    found = walk(data, int(words_of(row)[name], 16))
                    if found:
                        out.append('  %s %s: %s' % (name, words_of(row)[name], found))
            pc = int(words_of(lb[now])['pc'], 16)
            stop = pc + 4 if start <= pc < start + 0x400 else start + 64
            out += ['  instructions since the event before:'] + listing(data, start, stop)[-40:]
        if not la[at].startswith(('event', 'x', 'f')):
            out += ['  A: ' + la[at], '  B: ' + lb[at]]
        return out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--monitor', default=None, help='diff.elf (default: in the build folder)')
    ap.add_argument('--lodge', default=LODGE, metavar='CMD', help='command of machine A; {elf} is the program')
    ap.add_argument('--reference', default=QEMU, metavar='CMD', help='command of machine B')
    ap.add_argument('--self', action='store_true', help='A is QEMU with one instruction per block')
    ap.add_argument('--seed', type=int, default=1)
    ap.add_argument('--insns', type=int, default=100000, help='instructions in one program (at most about 600000)')
    ap.add_argument('--passes', type=int, default=1, help='runs of each program within itself, each with other registers')
    ap.add_argument('--programs', type=int, default=10)
    ap.add_argument('--first', type=int, default=0, help='number of the first program')
    ap.add_argument('--jobs', type=int, default=1)
    ap.add_argument('--limit', type=int, default=None, help='seconds for one run (default: by size)')
    ap.add_argument('--go-on', type=int, default=0, metavar='N', help='stop only after N more differences')
    ap.add_argument('--keep', metavar='DIR')
    args = ap.parse_args()
    build = os.environ.get('LODGE_BUILD', os.path.join(TOP, 'build'))
    monitor = args.monitor or os.path.join(build, 'guest', 'diff.elf')
    if not os.path.exists(monitor):
        sys.exit('%s is missing: build it (riscv64-linux-gnu-gcc), or name one with --monitor' % monitor)
    args.image = gen.read_monitor(monitor)
    args.a = QEMU_SLOW if args.self else args.lodge
    args.b = args.reference
    args.limit = args.limit or 60 + args.insns * args.passes // 20000
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    bad, events, done = 0, 0, 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='lodge-diff-') as folder, \
            concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        FOLDERS.append(folder)
        todo = iter(range(args.first, args.first + args.programs))
        running = {pool.submit(Program(args, n).run, folder): n for _, n in zip(range(args.jobs), todo)}
        while running:
            ready, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for r in ready:
                del running[r]
                report, seen = r.result()
                done += 1
                events += sum(int(l.split()[1]) for l in seen)
                if report:
                    bad += 1
                    print(report, flush=True)
                n = next(todo, None) if bad <= args.go_on else None
                if n is not None:
                    running[pool.submit(Program(args, n).run, folder)] = n
    total = done * args.insns * args.passes
    print('%d programs, about %d instructions, %d traps, %d differ, %.0f s' % (done, total, events, bad, time.monotonic() - start))
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())

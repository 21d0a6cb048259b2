"""bench/disk --rows guest: fio in a Debian guest, on Lodge and on QEMU with aio=io_uring.

Both VMMs boot debian:mini (1 vCPU) and mount a Debian that has fio, pulled once (bench/real.py), read-only; two more disks are virtio
ones with cache=none: one that has everything allocated, and an empty one, which is made anew for each repeat. fio: libaio, direct=1, the same seeds for
both; on the empty disk each row has places of its own, so that it finds nothing there (a few in a hundred random ones excepted). What
an fio of one operation takes is taken off the CPU seconds, which are those of the whole VMM. The last column is what the host does with a raw image and the
same pattern when there is no machine at all (tests/tools/disk_bench, as many operations, direct; an empty image where the row allocates), and how much of
that Lodge and QEMU came to: no VMM can be faster than the host for long.
"""
import fcntl
import json
import os
import re
import statistics
import subprocess
import time
import zlib

import console
import real

SIZE = '4G'
MOUNT = 'modprobe ext4; mkdir -p /d && mount -t ext4 -o ro,noload /dev/vda /d && mount -t tmpfs tmp /d/tmp && mount -t proc proc /d/proc && ' \
        'mount --bind /dev /d/dev'
# Disk (full: vdb, empty: vdc), operation as fio calls it, bytes, depth, how many, fdatasync after so many.
ROWS = [('full', 'randread', '4k', 1, 2000, 0), ('full', 'read', '4k', 1, 2000, 0), ('full', 'randread', '4k', 64, 20000, 0),
        ('full', 'read', '4k', 64, 20000, 0), ('full', 'randread', '64k', 16, 4000, 0), ('full', 'read', '64k', 16, 4000, 0),
        ('full', 'randread', '1m', 4, 600, 0), ('full', 'read', '1m', 4, 600, 0),
        ('full', 'randwrite', '4k', 1, 2000, 0), ('full', 'write', '4k', 1, 2000, 0), ('full', 'randwrite', '4k', 64, 20000, 0),
        ('full', 'write', '4k', 64, 20000, 0), ('full', 'randwrite', '64k', 16, 4000, 0), ('full', 'write', '64k', 16, 4000, 0),
        ('full', 'randwrite', '1m', 4, 600, 0), ('full', 'write', '1m', 4, 600, 0),
        ('full', 'randwrite', '4k', 1, 300, 1), ('full', 'randwrite', '4k', 64, 4000, 64),
        ('empty', 'randwrite', '4k', 1, 200, 1), ('empty', 'randwrite', '4k', 1, 1000, 0), ('empty', 'randwrite', '4k', 64, 2000, 64),
        ('empty', 'randwrite', '4k', 64, 8000, 0), ('empty', 'write', '64k', 16, 2000, 0), ('empty', 'write', '1m', 4, 300, 0)]
# Where rows on the empty disk begin: what is written in order at its start, random places behind that.
EMPTY = {'64k': '0', '1m': '128m', '4k': '512m'}
IDLE = ('full', 'read', '4k', 1, 1, 0)


def label(row):
    disk, op, size, depth, _, sync = row
    return f"guest {'over' if disk == 'full' else 'alloc'} {op} {size} x{depth}{f' sync/{sync}' if sync else ''}"


def fio(vm, row):
    disk, op, size, depth, count, sync = row
    cpu = []
    # One seed means one sequence of places: that of another row would be allocated already.
    where = '--filename=/dev/vdb --randseed=7' if disk == 'full' else f'--filename=/dev/vdc --randseed={zlib.crc32(label(row).encode())} --offset={EMPTY[size]}'
    text, status = vm.run(
        f"chroot /d fio --name=r {where} --rw={op} --bs={size} --iodepth={depth} --ioengine=libaio --direct=1 "
        f"--number_ios={count} --fdatasync={sync} --output-format=terse --terse-version=3", 600, cpu)
    m = re.search(r'^3;fio-.*$', text, re.M)
    if status or not m:
        raise SystemExit(f'bench: {vm.arm.name}: {label(row)}: {text[-600:]}')
    fields = m.group(0).split(';')
    kib, iops = (fields[5], fields[7]) if 'read' in op else (fields[46], fields[48])
    return {'iops': float(iops), 'ops': int(kib) * 1024 // (int(size[:-1]) * (2**20 if size[-1] == 'm' else 1024)), 'cpu': cpu[0]}


def wait_unlocked(paths, seconds=60):
    """The kernel takes down the ring of a process that has ended in the background; its locks last until then."""
    end = time.monotonic() + seconds
    for path in paths:
        with open(path, 'r+b') as f:
            while True:
                try:
                    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise SystemExit(f'bench: {path}: still locked after {seconds} s')
                    time.sleep(0.02)


def sh(*argv):
    p = subprocess.run(argv, capture_output=True, text=True)
    if p.returncode:
        raise SystemExit(f"bench: {' '.join(argv)}: {p.stderr or p.stdout}")
    return p.stdout


class Disks:
    """Each side's full and empty disk. A raw or qcow2 image that is full is one file for both, used in turn."""

    def __init__(self, build, fmt, d):
        self.build, self.fmt, self.peer, self.d = build, fmt, 'qcow2' if fmt == 'lodgefs' else fmt, d
        self.mine = {a: f'{d}/{a}.store/disk' if fmt == 'lodgefs' else f'{d}/lodge-{a}.{fmt}' for a in ('full', 'empty')}
        self.theirs = {a: f'{d}/qemu-{a}.{self.peer}' for a in ('full', 'empty')}
        if fmt != 'lodgefs':
            self.mine['full'] = self.theirs['full']
        self.make('full')
        sh('qemu-img', 'bench', '-f', self.peer, '-t', 'writeback', '-i', 'io_uring', '-c', '4096', '-d', '8', '-s', '1M', '-w', '--pattern', '90',
           self.theirs['full'])
        self.host = self.theirs['full'] if fmt == 'raw' else f'{d}/host.raw'
        if fmt == 'lodgefs':
            self.fill(f"{self.mine['full']}:{fmt}")
        if fmt != 'raw':
            sh('qemu-img', 'create', '-q', '-f', 'raw', self.host, SIZE)
            self.fill(f'{self.host}:raw')

    def fill(self, name):
        sh(f'{self.build}/tests/tools/disk_bench', name, 'write', 'size=1m', 'count=4096', 'depth=8', 'flush=1024')

    def files(self):
        """Of the host: what a machine has open."""
        return {os.path.dirname(f) if '.store/' in f else f for f in [*self.mine.values(), *self.theirs.values()]}

    def bare(self, row):
        """Operations a second without any machine."""
        disk, op, size, depth, count, sync = row
        where = ['random=7'] if op.startswith('rand') else []
        path = self.host if disk == 'full' else f'{self.d}/host-empty.raw'
        if disk == 'empty':
            if os.path.exists(path):
                os.unlink(path)
            sh('qemu-img', 'create', '-q', '-f', 'raw', path, SIZE)
        out = sh(f'{self.build}/tests/tools/disk_bench', f'{path}:raw', op.removeprefix('rand'), f'size={size}', f'depth={depth}', f'count={count}',
                 f'flush={sync}', 'cache=none', *where)
        return json.loads(out)['iops']

    def make(self, a):
        for f in {os.path.dirname(self.mine[a]) if self.fmt == 'lodgefs' else self.mine[a], self.theirs[a]}:
            if os.path.exists(f):
                os.unlink(f)
        if self.fmt == 'lodgefs':
            sh(f'{self.build}/src/cli/lodge', 'store', 'create', f'{os.path.dirname(self.mine[a])}:lodgefs', '--size', '6G')
        if self.mine[a] != self.theirs[a]:
            sh(f'{self.build}/src/cli/lodge', 'disk', 'create', f'{self.mine[a]}:{self.fmt}', '--size', SIZE)
        sh('qemu-img', 'create', '-q', '-f', self.peer, self.theirs[a], SIZE)

    def arms(self, debian):
        flags = ['--disk', f'{debian}:raw,readonly']
        drives = ['-drive', f'file={debian},format=raw,if=none,id=debian,readonly=on', '-device', 'virtio-blk-pci,drive=debian']
        for a in ('full', 'empty'):
            flags += ['--disk', f'{self.mine[a]}:{self.fmt},cache=none']
            drives += ['-drive', f'file={self.theirs[a]},format={self.peer},if=none,id={a},cache=none,aio=io_uring', '-device', f'virtio-blk-pci,drive={a}']
        return [console.Lodge(f'lodge {self.fmt}', f'{self.build}/src/vm/lodge-vm', *flags),
                console.Qemu(f'qemu {self.peer}', 'qemu-system-riscv64', *drives)]


def run(build, fmt, d, o):
    show = json.loads(sh(f'{build}/src/cli/lodge', 'image', 'show', 'debian:mini', '--json'))
    where = show.get('dir') or show.get('directory') or show.get('path')
    job = {'kernel': os.path.join(where, show['kernel']), 'initrd': os.path.join(where, show['initrd']), 'append': show['append'],
           'memory': 512, 'smp': 1}
    disks = Disks(build, fmt, d)
    arms = disks.arms(real.disk_image(build, real.FIO))
    rows = [r[:4] + (max(r[4] // (4 if o.quick else 1), r[3]), r[5]) for r in ROWS if o.only in label(r)]
    got = {(row, a): [] for row in rows for a in (*(a.name for a in arms), 'host')}
    for i in range(o.repeats):
        disks.make('empty')
        for a in arms if i % 2 == 0 else reversed(arms):
            wait_unlocked(disks.files())
            with console.Console(a, job) as vm:
                text, status = vm.run(MOUNT, 300)
                if status:
                    raise SystemExit(f'bench: {a.name}: no Debian in the guest\n{text[-600:]}')
                fio(vm, IDLE)
                idle = fio(vm, IDLE)['cpu']
                for row in rows:
                    f = fio(vm, row)
                    got[row, a.name].append({'iops': f['iops'], 'cpu_us': max(f['cpu'] - idle, 0) * 1e6 / max(f['ops'], 1)})
                    if o.verbose:
                        print(f"  {i + 1} {a.name:<14} {label(row):<36} {f['iops']:8.0f}/s {got[row, a.name][-1]['cpu_us']:8.1f} us", flush=True)
        wait_unlocked(disks.files())
        for row in rows:
            got[row, 'host'].append(disks.bare(row))
    return [table(row, fmt, arms, got) for row in rows]


def table(row, fmt, arms, got):
    ours, peer = (got[row, a.name] for a in arms)
    ratios = sorted(x['iops'] / max(y['iops'], 1e-3) for x, y in zip(ours, peer))
    cells = [f"{a.name} {statistics.median(v['iops'] for v in got[row, a.name]):8.0f}/s {statistics.median(v['cpu_us'] for v in got[row, a.name]):7.1f} us"
             for a in arms]
    work = statistics.median(x['cpu_us'] / max(y['cpu_us'], 1e-3) for x, y in zip(ours, peer))
    host = statistics.median(got[row, 'host'])
    share = [f"{statistics.median(v['iops'] / h for v, h in zip(got[row, a.name], got[row, 'host'])):.0%}" for a in arms]
    print(f"{label(row):38s} {' | '.join(cells)} | x{statistics.median(ratios):.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f}) CPU x{work:.2f} | "
          f"host {host:.0f}/s: {share[0]}, {share[1]}",
          flush=True)
    return {'row': 'guest', 'format': fmt, 'label': label(row), 'ratio': statistics.median(ratios), 'ratios': ratios, 'cpu_ratio': work, 'host': got[row, 'host'],
            'arms': {a.name: got[row, a.name] for a in arms}}

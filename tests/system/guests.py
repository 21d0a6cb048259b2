#!/usr/bin/env python3
# time-limit: 420
"""Bare guests of guest/rv64 on Lodge: each prints SUCCESS and ends with code 0, with so many vCPUs: translated, translated with the smallest
code cache, and interpreted. The same on QEMU, where the guest does not test what QEMU is known to do otherwise."""
import os
import shutil
import struct
import subprocess
import sys
import time

BUILD = os.environ['LODGE_BUILD']
TMP = os.environ.get('LODGE_TMP', '.')
VM = os.path.join(BUILD, 'src', 'vm', 'lodge-vm')
DISK = os.path.join(TMP, 'sectors.raw')

# Guest, vCPU counts, exit code, flags of lodge-vm, and those of QEMU (None: not there, and why).
DISK_FLAGS = ['--disk', DISK + ':raw,readonly']
QEMU_PCI = ['-device', 'virtio-rng-pci', '-drive', 'file=%s,format=raw,if=none,id=d,readonly=on' % DISK,
            '-device', 'virtio-blk-pci,drive=d']
GUESTS = [
    ('exit', (1, 4), 42, [], []),
    ('irqs', (1, 2, 4), 0, [], []),
    ('traps', (1, 2, 4), 0, [], None),           # tests/diff/KNOWN.md
    ('pci', (1, 2, 4), 0, DISK_FLAGS, QEMU_PCI),
    ('litmus', (2, 4), 0, [], None),          # ten million rounds take QEMU minutes; it is a test of Lodge's harts
]
ENGINES = [('', []), (' with both tiers at once', ['--jit-tiers', 'at-once']), (' with a code cache of 1 MiB', ['--jit-cache', '1M']),
           (' interpreted', ['--engine', 'interp'])]


def show(ok, text):
    print('%s: %s' % ('PASS' if ok else 'FAIL', text), flush=True)
    return ok


def run(argv, limit):
    start = time.monotonic()
    try:
        p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit)
        return p.returncode, p.stdout.decode('utf-8', 'replace').replace('\r', ''), time.monotonic() - start
    except subprocess.TimeoutExpired as e:
        return None, (e.stdout or b'').decode('utf-8', 'replace'), limit


def judge(name, where, n, want, answer):
    rc, text, seconds = answer
    if name == 'pci' and ' disks 1' not in text and os.path.exists(os.path.join(os.environ['LODGE_TOP'], 'src/device/virtio_blk.c')):
        want = 'a disk that was read'
    ok = rc == want and (want != 0 or 'SUCCESS' in text.split('\n'))
    if not ok:
        print(text[-2000:])
    return show(ok, '%s on %s, %d vCPUs: %s, %.1f s' % (name, where, n, 'still running' if rc is None else 'exit code %d' % rc, seconds))


def main():
    if not os.path.exists(os.path.join(BUILD, 'guest', 'irqs.elf')):
        print('SKIP: riscv64-linux-gnu-gcc is not installed')
        return 77
    with open(DISK, 'wb') as f:
        for n in range(2048):
            f.write(struct.pack('<I', n) * 128)
    os.environ['XDG_RUNTIME_DIR'] = TMP
    qemu = shutil.which('qemu-system-riscv64')
    good = True
    for name, counts, want, flags, qemu_flags in GUESTS:
        elf = os.path.join(BUILD, 'guest', name + '.elf')
        for n in counts:
            for how, engine in ENGINES:
                # Each other way once, with the fewest vCPUs: litmus has two of them.
                if engine and n != counts[0]:
                    continue
                answer = run([VM, '--memory', '128M', '--smp', str(n), '--log-level', 'error', '--firmware', elf] + engine + flags, 120)
                good &= judge(name, 'Lodge' + how, n, want, answer)
        if qemu and qemu_flags is not None:
            n = max(counts)
            answer = run([qemu, '-M', 'virt,aia=aplic-imsic', '-m', '128M', '-smp', str(n), '-bios', 'none', '-kernel', elf,
                          '-display', 'none', '-monitor', 'none', '-serial', 'stdio'] + qemu_flags, 60)
            good &= judge(name, 'QEMU', n, want, answer)
    if not qemu:
        print('SKIP: qemu-system-riscv64 is not installed')
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())

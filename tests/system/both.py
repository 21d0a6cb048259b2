#!/usr/bin/env python3
# time-limit: 120
"""One guest (guest/common/both.c) on both engines: exceptions, timers, a second processor, message interrupts, accesses of each width,
virtio-rng and virtio-blk. And which engine a machine gets when nobody says. kvm is left out only where there is no /dev/kvm."""
import json
import os
import struct
import subprocess
import sys
import time

BUILD = os.environ['LODGE_BUILD']
TMP = os.environ.get('LODGE_TMP', '.')
VM = os.path.join(BUILD, 'src', 'vm', 'lodge-vm')
LODGE = os.path.join(BUILD, 'src', 'cli', 'lodge')
DISK = os.path.join(TMP, 'sectors.raw')
RV64, X86 = (os.path.join(BUILD, 'guest', 'both-%s.elf' % isa) for isa in ('rv64', 'x86'))
PARTS = ['widths', 'exceptions', 'timer', 'virtio-rng', 'virtio-blk']


def show(ok, text, detail=''):
    print('%s: %s' % ('PASS' if ok else 'FAIL', text), flush=True)
    if not ok:
        print(detail[-2000:])
    return ok


def run(argv, limit=60):
    start = time.monotonic()
    try:
        p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit)
        return p.returncode, p.stdout.decode('utf-8', 'replace').replace('\r', ''), time.monotonic() - start
    except subprocess.TimeoutExpired as e:
        return None, (e.stdout or b'').decode('utf-8', 'replace'), limit


def both(name, argv, cpus):
    rc, text, seconds = run([VM, '--memory', '128M', '--smp', str(cpus), '--log-level', 'error', '--disk', DISK + ':raw,readonly'] + argv)
    lines = text.split('\n')
    want = PARTS + (['a second processor'] if cpus > 1 else [])
    ok = rc == 0 and 'SUCCESS' in lines and all('ok ' + p in lines for p in want)
    return show(ok, '%s, %d vCPUs: %d parts, %.1f s' % (name, cpus, sum(1 for x in lines if x.startswith('ok ')), seconds), text)


def main():
    good = True
    os.environ['XDG_RUNTIME_DIR'] = TMP
    with open(DISK, 'wb') as f:
        for n in range(2048):
            f.write(struct.pack('<I', n) * 128)
    if not os.path.exists(RV64):
        print('SKIP: riscv64-linux-gnu-gcc is not installed')
        return 77
    for cpus in (1, 2):
        good &= both('rv64', ['--engine', 'rv64', '--firmware', RV64], cpus)
    good &= both('rv64, interpreted', ['--engine', 'interp', '--firmware', RV64], 2)
    good &= both('auto takes rv64', ['--firmware', RV64], 1)
    if not os.path.exists('/dev/kvm') or not os.path.exists(X86):
        print('SKIP: no /dev/kvm')
        return 0 if good else 1
    for cpus in (1, 2):
        good &= both('kvm', ['--engine', 'kvm', '--kernel', X86], cpus)

    # Which engine, when nobody says: by the kernel, and by what this host's KVM is worth.
    doctor = json.loads(run([LODGE, 'doctor', '--json'])[1])['engine kvm']
    if doctor['available']:
        good &= both('auto takes kvm', ['--kernel', X86], 1)
    else:
        rc, text, _ = run([VM, '--memory', '128M', '--kernel', X86])
        good &= show(rc == 1 and 'is a kernel for x86-64' in text and ('interprets kernel code' in text) == ('interpreted' in doctor['found']),
                     'auto does not take this KVM for an x86-64 kernel, and says why', text)
    rc, text, _ = run([VM, '--memory', '128M', '--engine', 'rv64', '--kernel', X86])
    good &= show(rc == 1 and 'riscv64' in text, 'rv64 refuses an x86-64 kernel', text)
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())

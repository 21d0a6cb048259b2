#!/usr/bin/env python3
# time-limit: 280
"""10^6 random instructions on Lodge and on QEMU (tests/diff/README.md). LODGE_DIFF_INSNS asks for more."""
import os
import shutil
import subprocess
import sys

top, build = os.environ['LODGE_TOP'], os.environ['LODGE_BUILD']
insns = int(os.environ.get('LODGE_DIFF_INSNS', '1000000'))
if not os.path.exists(os.path.join(build, 'guest', 'diff.elf')):
    print('SKIP: riscv64-linux-gnu-gcc is not installed')
    sys.exit(77)
if not shutil.which('qemu-system-riscv64'):
    print('SKIP: qemu-system-riscv64 is not installed')
    sys.exit(77)
# Translated: run often enough that code is warm. Each region by the second tier, too. With the smallest cache, which is full all the
# time. Interpreted.
LODGE = '{build}/src/vm/lodge-vm --memory 128M --smp 1 --log-level error %s --firmware {elf}'
good = True
for what, flags, share, passes, seed in (('translated', '', 1, 1, 1), ('translated, 25 times over', '', 20, 25, 2),
                                         ('both tiers at once, 25 times over', '--jit-tiers at-once', 20, 25, 5),
                                         ('code cache of 1 MiB', '--jit-cache 1M', 10, 15, 3), ('interpreted', '--engine interp', 4, 1, 4)):
    done = subprocess.run([sys.executable, os.path.join(top, 'tests', 'diff', 'run.py'), '--programs', str(max(1, insns // 50000 // share)),
                           '--insns', '50000', '--passes', str(passes), '--seed', str(seed), '--lodge', LODGE % flags,
                           '--jobs', str(min(2, os.cpu_count() or 1)), '--keep', os.path.join(build, 'diff-failures')],
                          env=dict(os.environ, XDG_RUNTIME_DIR=os.environ.get('LODGE_TMP', '/tmp')),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else 'no output'
    print('%s: %s: %s' % ('PASS' if done.returncode == 0 else 'FAIL', what, last))
    good &= done.returncode == 0
sys.exit(0 if good else 1)

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
done = subprocess.run([sys.executable, os.path.join(top, 'tests', 'diff', 'run.py'), '--programs', str(max(1, insns // 50000)),
                       '--insns', '50000', '--jobs', str(min(2, os.cpu_count() or 1)), '--keep', os.path.join(build, 'diff-failures')],
                      env=dict(os.environ, XDG_RUNTIME_DIR=os.environ.get('LODGE_TMP', '/tmp')),
                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
print(done.stdout)
print('%s: %s' % ('PASS' if done.returncode == 0 else 'FAIL', done.stdout.strip().splitlines()[-1] if done.stdout.strip() else 'no output'))
sys.exit(done.returncode)

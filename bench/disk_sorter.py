"""bench/disk --rows guest-sorter: what the sorter is worth to a guest: fio writes 4 KiB at random places of an empty disk at a depth of 64, with the sorter and
with one transaction for each block. Both with commit=batch, so that each batch is a transaction; without flushes, and with one after each 64 writes.
"""
import glob
import json
import os
import socket
import statistics
import tempfile

import console
import disk_guest
import real
from disk_guest import sh

WAYS = ('commit=batch', 'sorter=off')
COUNTED = ('logical_transactions', 'physical_transactions', 'journal_bytes', 'meta_writes', 'meta_bytes', 'barriers', 'flushes')


def counters(vm):
    """What the machine says of its one disk that has transactions."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(glob.glob(f'{vm.home}/run/*/control.sock')[0])
        s.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "stats"}\n')
        with s.makefile('r') as f:
            answer = next(m for m in map(json.loads, f) if m.get('id') == 1)
    todo = [answer['result']]
    while todo:
        x = todo.pop()
        if isinstance(x, dict) and 'physical_transactions' in x:
            return {k: x[k] for k in COUNTED if k in x}
        todo += x.values() if isinstance(x, dict) else x if isinstance(x, list) else []
    raise SystemExit('bench: the machine counts no transactions')


def one(build, fmt, d, job, debian, row, how):
    store = f'{d}/store'
    path = f'{store}/disk' if fmt == 'lodgefs' else store
    if fmt == 'lodgefs':
        sh(f'{build}/src/cli/lodge', 'store', 'create', f'{store}:lodgefs', '--size', '6G')
    sh(f'{build}/src/cli/lodge', 'disk', 'create', f'{path}:{fmt}', '--size', disk_guest.SIZE)
    arm = console.Lodge(how, f'{build}/src/vm/lodge-vm', '--disk', f'{debian}:raw,readonly', '--disk', f'{path}:{fmt},cache=none,{how}')
    with console.Console(arm, job) as vm:
        text, status = vm.run(disk_guest.MOUNT, 300)
        if status:
            raise SystemExit(f'bench: no Debian in the guest\n{text[-600:]}')
        f = disk_guest.fio(vm, row)
        got = {'iops': f['iops'], 'cpu_us': f['cpu'] * 1e6 / max(f['ops'], 1), 'counts': counters(vm)}
    os.unlink(store)
    return got


def run(build, fmt, d, o):
    show = json.loads(sh(f'{build}/src/cli/lodge', 'image', 'show', 'debian:mini', '--json'))
    where = show.get('dir') or show.get('directory') or show.get('path')
    job = {'kernel': os.path.join(where, show['kernel']), 'initrd': os.path.join(where, show['initrd']), 'append': show['append'], 'memory': 512, 'smp': 1}
    debian, out = real.disk_image(build, real.FIO), []
    for sync in (0, 64):
        row = ('full', 'randwrite', '4k', 64, 2000 if o.quick else 8000, sync)  # full: the disk that disk_guest calls so; here it is empty
        label, got = f"guest-sorter {fmt} 4k x64{f' sync/{sync}' if sync else ''}", {w: [] for w in WAYS}
        if o.only not in label:
            continue
        for i in range(o.repeats):
            for how in WAYS if i % 2 == 0 else reversed(WAYS):
                with tempfile.TemporaryDirectory(dir=d) as t:
                    got[how].append(one(build, fmt, t, job, debian, row, how))
        ratios = sorted(x['iops'] / max(y['iops'], 1e-3) for x, y in zip(*got.values()))
        ratio = statistics.median(ratios)
        print(f"{label:38s} {' | '.join('%s %8.0f/s %7.1f us' % (w, statistics.median(x['iops'] for x in v), statistics.median(x['cpu_us'] for x in v)) for w, v in got.items())}"
              f" | x{ratio:.2f}", flush=True)
        for how, v in got.items():
            print(f'    {how}: ' + ', '.join(f'{k} {n}' for k, n in v[0]['counts'].items()), flush=True)
        out.append({'row': 'guest-sorter', 'format': fmt, 'label': label, 'ratio': ratio, 'ratios': ratios, 'arms': got})
    return out

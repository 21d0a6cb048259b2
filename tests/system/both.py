#!/usr/bin/env python3
# time-limit: 420
"""One guest (guest/common/both.c) on both engines: exceptions, timers, a second processor, message interrupts, accesses of each width, aliases,
a reboot, virtio rng, blk, net, console and balloon. Another (guest/common/stamp.c) is saved and restored in new processes. And which engine a
machine gets when nobody says. kvm is left out only where there is no /dev/kvm."""
import json
import os
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ['LODGE_TOP'], 'tests/lib'))
from machine import HOME, Failed, Machine

BUILD = os.environ['LODGE_BUILD']
TMP = os.environ.get('LODGE_TMP', '.')
VM = os.path.join(BUILD, 'src', 'vm', 'lodge-vm')
LODGE = os.path.join(BUILD, 'src', 'cli', 'lodge')
DISK = os.path.join(TMP, 'sectors.raw')
RV64, X86, STAMP_RV64, STAMP_X86, HOSTILE_RV64, HOSTILE_X86 = (os.path.join(BUILD, 'guest', '%s-%s.elf' % (what, isa)) for what in ('both', 'stamp', 'hostile') for isa in ('rv64', 'x86'))
PARTS = ['reboot', 'widths', 'exceptions', 'timer', 'virtio-rng', 'virtio-blk', 'virtio-net', 'virtio-balloon']
# For tools/coverage: one engine alone; and what counts is written at the end, which the sandbox does not allow.
ALONE = os.environ.get('LODGE_ONLY_ENGINE')
LIVES = 3 if ALONE else 30
SANDBOX = ['--sandbox', 'off'] if ALONE else []


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
    rc, text, seconds = run([VM, '--memory', '64M', '--smp', str(cpus), '--log-level', 'error', '--disk', DISK + ':raw,readonly', '--net', 'user'] + SANDBOX + argv)
    lines = text.split('\n')
    want = PARTS + (['a second processor'] if cpus > 1 else [])
    missing = [p for p in want if 'ok ' + p not in lines]
    ok = rc == 0 and 'SUCCESS' in lines and not missing
    return show(ok, '%s, %d vCPUs: %d parts, %.1f s' % (name, cpus, sum(1 for x in lines if x.startswith('ok ')), seconds), '%s\n%s' % (missing, text))


def hostile(name, argv):
    """Windows of devices and rings are treated as no driver may (guest/common/hostile.c)."""
    rc, text, seconds = run([VM, '--memory', '64M', '--log-level', 'error', '--disk', DISK + ':raw,readonly', '--net', 'user'] + SANDBOX + argv, 200)
    sweeps, rings = text.count('ok sweep of '), text.count('ok rings of ')
    return show(rc == 0 and 'SUCCESS' in text and sweeps >= 12 and rings >= 6, '%s: a hostile guest: %d windows, %d devices' % (name, sweeps, rings), text)


def cannot_start(engine):
    rc, text, _ = run([VM, '--memory', '64M', '--engine', engine, '--kernel', DISK] + SANDBOX)
    return show(rc == 1 and 'sectors.raw' in text, '%s: what is no kernel is refused' % engine, text)


def aliases(engine, guest):
    rc, text, seconds = run([os.path.join(BUILD, 'tests', 'tools', 'alias-machine'), engine, guest])
    return show(rc == 0 and 'ok aliases\n' in text and 'SUCCESS' in text, '%s: two addresses of one page' % engine, text)


def console(engine, boot):
    """The console is the virtio one, and so is what the guest says from then on."""
    with Machine('--engine', engine, *boot, '--memory', '64M', '--console', 'virtio', *SANDBOX, name='console-' + engine) as m:
        m.expect(b'marco', 30)
        m.type('polo\n')
        m.expect(b'heard polo', 30)
        m.expect(b'SUCCESS', 60)
        return show(m.wait(10) == 0, '%s: virtio-console' % engine)


def lodge(*args):
    p = subprocess.run([LODGE, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, env=dict(os.environ, LODGE_HOME=HOME))
    if p.returncode:
        raise Failed('lodge %s: %s' % (' '.join(args), p.stderr))
    return p.stdout


def wait_for(text, name):
    """Until there is more of it on the machine's console than there is now."""
    was, end = lodge('logs', name).count(text), time.monotonic() + 60
    while lodge('logs', name).count(text) <= was:
        if time.monotonic() > end:
            raise Failed('%s: no %r in a minute' % (name, text))
        time.sleep(0.1)


def verbs(engine, boot):
    """What a person does with a running machine."""
    name = 'verbs-' + engine
    lodge('run', '-d', '--name', name, '--engine', engine, *boot, '--memory', '32M', '--smp', '2', '--net', 'user', *SANDBOX)
    wait_for('rounds', name)
    lodge('pause', name)
    state = json.loads(lodge('inspect', name, '--json'))
    lodge('resume', name)
    wait_for('rounds', name)
    exits = lodge('stats', name, '--exits')
    traced = lodge('trace', name, 'exits', '--seconds', '1')
    lodge('stats', name, '--json')
    lodge('reset', name)
    wait_for('rounds', name)
    lodge('snapshot', 'create', name, '--name', name)
    for n in [name] + lodge('clone', name, '-n', '1').split():
        wait_for('rounds', n)
        lodge('kill', n)
    lodge('restore', name, '--name', name, '-d')
    wait_for('rounds', name)
    good = 'FAIL' not in lodge('logs', name) and 'cpu1' in state['state'] and 'io' in exits and traced != ''
    lodge('kill', name)
    lodge('snapshot', 'rm', name)
    return show(good, '%s: paused, inspected, traced, reset, saved while it ran, cloned, restored' % engine, exits + traced)


def generations(engine, boot):
    """A guest that ticks with its vector registers in use, while its second processor writes all memory, lives in thirty processes."""
    args = ['--engine', engine, *boot, '--memory', '16M', '--smp', '2', *SANDBOX]
    saved = os.path.join(TMP, 'saved-%s-%d')
    for life in range(LIVES):
        before = saved % (engine, life - 1)
        with Machine(*args, *(['--restore', before] if life else []), name='life-%s-%d' % (engine, life)) as m:
            words = m.expect(b'rounds', 60)
            m.expect(b'\n', 60)
            m.call('pause')
            m.snapshot(saved % (engine, life))
            m.call('kill')
            m.wait(10)
            if life:
                os.unlink(before)
            if b'FAIL' in m.out:
                return show(False, '%s: life %d' % (engine, life), m.out.decode())
            if not life:
                words = words.split(b'registers ')[1].split()[0].decode()
                print('      %s: %s words in registers' % (engine, words))
    return show(True, '%s: saved and restored in %d processes' % (engine, LIVES))


def main():
    good = True
    os.environ['XDG_RUNTIME_DIR'] = TMP
    with open(DISK, 'wb') as f:
        for n in range(2048):
            f.write(struct.pack('<I', n) * 128)
    if not os.path.exists(RV64):
        print('SKIP: riscv64-linux-gnu-gcc is not installed')
        return 77
    if ALONE != 'kvm':
        for cpus in (1, 2):
            good &= both('rv64', ['--engine', 'rv64', '--firmware', RV64], cpus)
        good &= both('rv64, interpreted', ['--engine', 'interp', '--firmware', RV64], 2)
        good &= both('auto takes rv64', ['--firmware', RV64], 1)
        good &= aliases('rv64', RV64) and aliases('interp', RV64)
        good &= console('rv64', ['--firmware', RV64])
        for engine in ('rv64', 'interp'):
            good &= hostile(engine, ['--engine', engine, '--firmware', HOSTILE_RV64])
        good &= cannot_start('rv64')
        good &= verbs('rv64', ['--firmware', STAMP_RV64])
        good &= generations('rv64', ['--firmware', STAMP_RV64])
    if ALONE == 'rv64':
        return 0 if good else 1
    if not os.access('/dev/kvm', os.R_OK | os.W_OK) or not os.path.exists(X86):
        print('SKIP: no /dev/kvm that we may open')
        return 0 if good else 1
    for cpus in (1, 2):
        good &= both('kvm', ['--engine', 'kvm', '--kernel', X86], cpus)
    for flags in (['--kvm-irqchip', 'split', '--kvm-own-cpus', 'on'], ['--kvm-dirty', 'ring', '--kvm-halt-poll', '50000', '--cpu', 'host,kvm_steal_time=off']):
        good &= both('kvm ' + ' '.join(flags), ['--engine', 'kvm', '--kernel', X86] + flags, 2)
    good &= aliases('kvm', X86)
    good &= console('kvm', ['--kernel', X86])
    good &= hostile('kvm', ['--engine', 'kvm', '--kernel', HOSTILE_X86])
    good &= cannot_start('kvm')
    good &= verbs('kvm', ['--kernel', STAMP_X86])
    good &= generations('kvm', ['--kernel', STAMP_X86])
    # Which engine, when nobody says: by the kernel, and by what this host's KVM is worth.
    doctor = json.loads(run([LODGE, 'doctor', '--json'])[1])['engine kvm']
    if doctor['available']:
        good &= both('auto takes kvm', ['--kernel', X86], 1)
    else:
        rc, text, _ = run([VM, '--memory', '128M', '--kernel', X86] + SANDBOX)
        good &= show(rc == 1 and 'is a kernel for x86-64' in text and ('interprets kernel code' in text) == ('interpreted' in doctor['found']),
                     'auto does not take this KVM for an x86-64 kernel, and says why', text)
    if ALONE:
        return 0 if good else 1
    rc, text, _ = run([VM, '--memory', '64M', '--engine', 'rv64', '--firmware', RV64, '--kvm-dirty', 'ring'])
    good &= show(rc == 1 and 'for --engine kvm' in text, 'rv64 refuses what is for kvm', text)
    rc, text, _ = run([VM, '--memory', '128M', '--engine', 'rv64', '--kernel', X86])
    good &= show(rc == 1 and 'riscv64' in text, 'rv64 refuses an x86-64 kernel', text)
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main())

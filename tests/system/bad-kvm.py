#!/usr/bin/env python3
# time-limit: 60
"""A /dev/kvm that is missing, that is not ours, or that is something else: each is named, by lodge-vm and by lodge doctor, and riscv64 machines run."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import BUILD, LODGE, TMP, VM, check, skip

X86, RV64 = (os.path.join(BUILD, "guest", name) for name in ("both-x86.elf", "exit.elf"))
if os.geteuid() or subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode:
    skip("no mount namespace of one's own")
if not os.path.exists(X86) or not os.path.exists(RV64):
    skip("a cross compiler for the guests is not installed")
EMPTY = "mount -t tmpfs none /dev && (for d in 'null c 1 3' 'zero c 1 5' 'random c 1 8' 'urandom c 1 9'; do mknod -m 666 /dev/$d; done)"


def run(prepare, *argv):
    p = subprocess.run(["unshare", "-m", "sh", "-c", prepare + ' && exec "$0" "$@"', *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=30, env=dict(os.environ, LODGE_HOME=os.path.join(TMP, "h"), LC_ALL="C"))
    return p.returncode, p.stdout + p.stderr


# Who may not use it is nobody special: its files are where everybody can read them.
os.chmod(TMP, 0o755)
os.makedirs(os.path.join(TMP, "nobody"))
os.chown(os.path.join(TMP, "nobody"), 65534, 65534)
CASES = {
    "missing": (EMPTY, "no /dev/kvm"),
    "no permission": (EMPTY + " && mknod -m 600 /dev/kvm c 10 232", "no permission"),
    "another device": (EMPTY + " && mknod -m 666 /dev/kvm c 1 3", "/dev/kvm"),
    "a file": (EMPTY + " && echo > /dev/kvm", "/dev/kvm"),
    "a device without a driver": (EMPTY + " && mknod -m 666 /dev/kvm c 10 254", "no /dev/kvm"),
}
for what, (prepare, word) in CASES.items():
    who = []
    if what == "no permission":
        prepare += f" && export LODGE_HOME={TMP}/nobody"
        who = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if subprocess.run([*who, "test", "-r", X86]).returncode:
            print(f"PASS: {what}: not tried: user nobody cannot read the build")
            continue
    code, text = run(prepare, *who, VM, "--engine", "kvm", "--memory", "16M", "--kernel", X86)
    check(f"{what}: lodge-vm says so", code == 1 and word in text and text.count("\n") <= 3, f"{code}: {text}")
    code, text = run(prepare, *who, LODGE, "doctor", "--json")
    check(f"{what}: lodge doctor says so", word in text, text)
    code, text = run(prepare, *who, VM, "--memory", "16M", "--kernel", X86)
    check(f"{what}: auto refuses an x86-64 kernel and says why", code == 1 and word in text and "x86-64" in text, f"{code}: {text}")
    code, text = run(prepare, *who, VM, "--memory", "16M", "--firmware", RV64)
    check(f"{what}: a riscv64 machine runs", code == 42, f"{code}: {text}")

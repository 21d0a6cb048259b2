#!/usr/bin/env python3
# time-limit: 420
"""`lodge update` under a load: Debian with a program that syncs every write, a TCP connection and streams through the guest's socket, on raw and qcow2;
and a guest of KVM. Thirty updates in a row, from one build to another and back."""
import atexit
import json
import os
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import ENV, SLOW, gone, listens, lodge, pid, rounds, wait_rounds
from machine import BUILD, LODGE, TMP, check, mini_image, skip, wait_for

RV64, X86 = (os.path.join(BUILD, "guest", f"stamp-{isa}.elf") for isa in ("rv64", "x86"))
NEXT = os.path.join(BUILD, "tests/tools/lodge-vm-next")


def update(name, program=None, **kw):
    return lodge("update", name, "--json", *(["--program", program] if program else []), **kw)


def clean():
    for n in ("d", "k"):
        subprocess.run([LODGE, "kill", n], env=ENV, stderr=subprocess.DEVNULL)


atexit.register(clean)
if not os.path.exists(RV64):
    skip("riscv64-linux-gnu-gcc is not installed")


if os.access("/dev/kvm", os.R_OK | os.W_OK) and os.path.exists(X86):
    lodge("run", "-d", "--engine", "kvm", "--kernel", X86, "--memory", "64M", "--smp", "2", "--name", "k")
    wait_rounds("k", 2)
    pauses = []
    for i in range(10):
        pauses.append(json.loads(update("k", NEXT if i % 2 else None).stdout)["pause_us"])
        wait_rounds("k", 1)
    check("kvm: 10 updates, every page as it was written", rounds("k") > 0)
    pauses.sort()
    print(f"pauses of 10 updates on kvm, ms: median {pauses[5] / 1000:.1f}, least {pauses[0] / 1000:.1f}, most {pauses[-1] / 1000:.1f}")
    lodge("kill", "k")
else:
    print("PASS: kvm was not tried: no /dev/kvm")

# ---- a guest with a disk, a network and programs that hold connections ----
def debian(fmt):
    image = mini_image()
    disk = os.path.join(TMP, f"d.{fmt}")
    if fmt == "raw":
        open(disk, "wb").truncate(64 << 20)
    else:
        lodge("disk", "create", f"{disk}:{fmt}", "--size", "64M")
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
    s.close()
    lodge("run", "-d", "--name", "d", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "256M", "--smp", "2",
          "--disk", f"{disk}:{fmt}", "--net", f"user,hostfwd=tcp:127.0.0.1:{port}-:7")
    sh = lambda text, **kw: lodge("exec", "--wait", "60", "d", "--", "sh", "-c", text, **kw).stdout
    sh("(nc -ll -p 7 -e cat > /dev/null 2>&1 < /dev/null &); " + listens(7))
    # Each record is on the disk before the next one begins.
    sh("cat > /tmp/w <<'X'\ni=0\nwhile [ ! -e /tmp/stop ]; do i=$((i+1)); printf 'record %08d\\n' $i | dd of=/dev/vda bs=512 seek=$i conv=sync,fsync,notrunc "
       "2>/dev/null || echo FAIL $i >> /tmp/bad; echo $i > /tmp/at; done\necho $i > /tmp/last\nX\n(sh /tmp/w > /dev/null 2>&1 < /dev/null &)")
    echo = socket.create_connection(("127.0.0.1", port), 30 * SLOW)
    echo.settimeout(60 * SLOW)
    state = {"n": 0, "bad": None, "stop": False}

    def talk():
        try:
            while not state["stop"]:
                text = b"%012d\n" % state["n"] * 50
                echo.sendall(text)
                got = b""
                while len(got) < len(text):
                    more = echo.recv(65536)
                    if not more:
                        raise EOFError
                    got += more
                if got != text:
                    raise ValueError(got[:60])
                state["n"] += 1
        except Exception as e:
            state["bad"] = repr(e)

    t = threading.Thread(target=talk)
    t.start()
    ticks = subprocess.Popen([LODGE, "exec", "d", "--", "sh", "-c", "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i; sleep 0.05; done"], env=ENV,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    pauses = []
    for i in range(30 if fmt == "raw" else 10):
        n = state["n"]
        pauses.append(json.loads(update("d", NEXT if i % 2 else None).stdout)["pause_us"])
        wait_for(lambda: state["n"] >= n + 2 or state["bad"], 30)
        if state["bad"] or state["n"] < n + 2:
            check(f"{fmt}: update {i}: the TCP connection lives", False, state)
    check(f"{fmt}: {len(pauses)} updates: one TCP connection, {state['n']} messages echoed", state["bad"] is None)
    state["stop"] = True
    t.join()
    again = socket.create_connection(("127.0.0.1", port), 10 * SLOW)
    again.settimeout(30 * SLOW)
    again.sendall(b"new\n")
    check(f"{fmt}: the forwarded port takes new connections", again.recv(10) == b"new\n")
    sh("touch /tmp/stop; while [ ! -e /tmp/last ]; do sleep 0.1; done")
    out = ticks.communicate(timeout=60 * SLOW)[0].split()
    check(f"{fmt}: a program's output through the guest's socket: nothing lost, nothing twice", out == [str(i + 1) for i in range(len(out))] and len(out) > 1, out[-5:])
    last = int(sh("cat /tmp/last"))
    check(f"{fmt}: no write of {last} failed", not sh("cat /tmp/bad 2>/dev/null; true"))
    sh(f"i=0; while [ $i -lt {last} ]; do i=$((i+1)); [ \"$(dd if=/dev/vda bs=512 skip=$i count=1 2>/dev/null | head -c 15)\" = \"$(printf 'record %08d' $i)\" ] "
       "|| echo BAD $i; done; true", seconds=200) and check(f"{fmt}: every record is there", False)
    check(f"{fmt}: each of {last} records that were synced is there", True)
    pauses.sort()
    print(f"pauses of {len(pauses)} updates of Debian on {fmt}, ms: median {pauses[len(pauses) // 2] / 1000:.1f}, least {pauses[0] / 1000:.1f}, most {pauses[-1] / 1000:.1f}")
    p = pid("d")
    lodge("kill", "d")
    check(f"{fmt}: it ends", gone(p))


for fmt in ("raw", "qcow2"):
    debian(fmt)

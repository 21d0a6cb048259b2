#!/usr/bin/env python3
# time-limit: 120
"""lodge-agent in a guest over virtio-vsock: exec with streams, codes, signals and a terminal; cp both ways; time, identity; freeze and its watchdog;
a guest without agent; connections that break off; save and load."""
import hashlib
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import clock_off
from machine import BUILD, HOME, LODGE, SLOW, TMP, Machine, check, mini_image, skip, wait_for

if not os.path.exists(os.path.join(BUILD, "src/agent/lodge-agent.riscv64")):
    skip("riscv64-linux-gnu-gcc is not installed: this build has no agent")
# An image of an older build has no agent, or another one: pulling renews it, and is quick when there is nothing to do.
subprocess.run([LODGE, "image", "pull", "debian:mini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=100)
image = mini_image()
env = dict(os.environ, LODGE_HOME=HOME)


def lodge(*args, stdin=b"", seconds=30):
    return subprocess.run([LODGE, *args], input=stdin, capture_output=True, env=env, timeout=seconds * SLOW)


def frame(kind, payload=b""):
    return struct.pack("<IB3x", len(payload), kind) + payload


def text(s):
    return struct.pack("<I", len(s)) + s


def agent(vm):
    """A connection to the agent, by hand."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20 * SLOW)
    s.connect(os.path.join(HOME, "run", vm.name, "vsock.sock") if os.path.isdir(os.path.join(HOME, "run"))
              else vsock_path(vm.name))
    s.sendall(b"CONNECT 1024\n")
    while s.recv(1) != b"\n":
        pass
    answer(s)
    return s


def vsock_path(name):
    for at, _, files in os.walk(HOME):
        if "vsock.sock" in files and os.path.basename(at) == name:
            return os.path.join(at, "vsock.sock")
    raise SystemExit("no vsock.sock")


def receive(s, n):
    """All of it: a socket with a timeout does not know MSG_WAITALL."""
    data = b""
    while len(data) < n and (more := s.recv(n - len(data))):
        data += more
    return data


def answer(s):
    head = receive(s, 8)
    if len(head) < 8:
        return None, b""
    n, kind = struct.unpack("<IB3x", head)
    return kind, receive(s, n)


def has_come(p):
    """Something of a file that has no name yet."""
    fds = f"/proc/{p}/fd"
    try:
        return any(os.stat(f"{fds}/{n}").st_size for n in os.listdir(fds) if os.readlink(f"{fds}/{n}").startswith(f"{TMP}/"))
    except OSError:
        return False


EXEC, FREEZE, PUT, OK, ERROR = 16, 25, 17, 80, 81
disk = os.path.join(TMP, "disk.raw")
with open(disk, "wb") as f:
    f.truncate(64 << 20)
subprocess.run(["mke2fs", "-q", "-t", "ext4", disk], check=True)

with Machine("--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "256M",
             "--disk", f"{disk}:raw", name="agent") as vm:
    # Before the guest is up: a clear answer, and --wait waits.
    vm.call("status")
    r = lodge("exec", "agent", "true")
    check("exec before the guest is up says so", r.returncode == 1 and b"no agent answers" in r.stderr, r)
    r = lodge("exec", "--wait", "60", "agent", "uname", "-m", seconds=70)
    check("exec --wait waits for the guest", r.returncode == 0 and r.stdout == b"riscv64\n", r)

    r = lodge("exec", "agent", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    check("streams and exit code", (r.returncode, r.stdout, r.stderr) == (7, b"out\n", b"err\n"), r)
    r = lodge("exec", "agent", "--", "sh", "-c", "kill -9 $$")
    check("a signal is 128 and its number", r.returncode == 137, r)
    r = lodge("exec", "agent", "cat", stdin=b"hello")
    check("standard input and its end", r.stdout == b"hello", r)
    big = os.urandom(8 << 20)
    r = lodge("exec", "agent", "--", "sh", "-c", "sleep 0.3; cat", stdin=big)
    check("8 MiB there and back without waiting for each other", r.stdout == big, r.returncode)
    r = lodge("exec", "agent", "nosuch")
    check("a command that is not there", r.returncode == 127 and b"nosuch: No such file" in r.stderr, r)
    r = lodge("exec", "-e", "A=b c", "-C", "/tmp", "agent", "--", "sh", "-c", 'echo "$A"; pwd')
    check("variables and directory", r.stdout == b"b c\n/tmp\n", r)
    r = lodge("exec", "-C", "/nosuch", "agent", "true")
    check("a directory that is not there", r.returncode == 127 and b"directory: /nosuch" in r.stderr, r)
    r = lodge("exec", "-t", "agent", "--", "sh", "-c", "tty; stty size")
    check("a terminal", b"/dev/pts/" in r.stdout and b"24 80" in r.stdout, r)
    p = subprocess.Popen([LODGE, "exec", "agent", "--", "sh", "-c", "trap 'echo got; exit 3' INT; echo ready; while :; do sleep 0.1; done"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env)
    p.stdout.readline()
    p.send_signal(2)
    out, _ = p.communicate(timeout=20 * SLOW)
    check("signals go to the command", (p.returncode, out) == (3, b"got\n"), (p.returncode, out))
    p = subprocess.Popen([LODGE, "exec", "agent", "--", "sh", "-c", "echo ready; sleep 1000"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env)
    p.stdout.readline()
    p.kill()
    p.wait()
    check("a client that is killed takes its command with it", wait_for(lambda: lodge("exec", "agent", "--", "sh", "-c", "ps | grep -c '[s]leep 1000'").stdout == b"0\n"))

    # Files.
    tree = os.path.join(TMP, "tree")
    os.makedirs(os.path.join(tree, "a", "b"))
    with open(os.path.join(tree, "a", "big"), "wb") as f:
        f.write(big)
    with open(os.path.join(tree, "a", "b", "run"), "w") as f:
        f.write("#!/bin/sh\n")
    os.chmod(os.path.join(tree, "a", "b", "run"), 0o751)
    os.symlink("../big", os.path.join(tree, "a", "b", "link"))
    os.utime(os.path.join(tree, "a", "big"), (1000000000, 1000000000))
    r = lodge("cp", tree, "agent:/tmp")
    check("a directory needs --recursive", r.returncode == 1 and b"--recursive" in r.stderr, r)
    r = lodge("cp", "-r", tree, "agent:/tmp")
    check("a tree goes in", r.returncode == 0, r)
    r = lodge("exec", "agent", "--", "sh", "-c", "cd /tmp/tree/a; sha256sum < big; stat -c '%a %Y' big b/run; readlink b/link")
    want = hashlib.sha256(big).hexdigest().encode()
    check("with contents, modes, times and links", want in r.stdout and b"1000000000" in r.stdout and b"751 " in r.stdout
          and b"../big" in r.stdout, r)
    back = os.path.join(TMP, "back")
    r = lodge("cp", "-r", "agent:/tmp/tree", back)
    check("and comes back the same", r.returncode == 0 and not subprocess.run(["diff", "-r", tree, back]).returncode, r)
    os.mkfifo(os.path.join(tree, "a", "pipe"))
    r = lodge("cp", "-r", tree, "agent:/tmp")
    check("once more, over what is there, without the pipe", r.returncode == 0 and lodge("exec", "agent", "--", "ls", "/tmp/tree/a").stdout == b"b\nbig\n", r)
    r = lodge("cp", "-r", "agent:/tmp/tree", TMP)
    check("and back", r.returncode == 0 and os.readlink(os.path.join(tree, "a", "b", "link")) == "../big", r)
    r = lodge("cp", "agent:/nosuch", TMP)
    check("a file that is not there", r.returncode == 3 and b"/nosuch" in r.stderr, r)
    pipe = os.path.join(TMP, "pipe")
    os.mkfifo(pipe)
    r = lodge("cp", "agent:/tmp/tree/a/b/run", pipe)
    check("a device or a pipe here does not make way for a file", r.returncode == 2 and b"is no file" in r.stderr and stat.S_ISFIFO(os.stat(pipe).st_mode), r)
    lodge("exec", "agent", "--", "mkfifo", "/tmp/pipe")
    r = lodge("cp", "/etc/hostname", "agent:/tmp/pipe")
    check("nor in the guest", r.returncode == 2 and b"not a regular file" in r.stderr and
          lodge("exec", "agent", "--", "sh", "-c", "test -p /tmp/pipe").returncode == 0, r)
    lodge("exec", "agent", "--", "sh", "-c", "mkdir /tmp/small; mount -t tmpfs -o size=64k none /tmp/small")
    r = lodge("cp", os.path.join(tree, "a", "big"), "agent:/tmp/small/big")
    check("a guest's disk that is full is said to be, and nothing stays there", r.returncode == 1 and b"No space left" in r.stderr and
          lodge("exec", "agent", "--", "ls", "-A", "/tmp/small").stdout == b"", r)
    lodge("exec", "agent", "--", "truncate", "-s", "4G", "/tmp/endless")
    k = subprocess.Popen([LODGE, "cp", "agent:/tmp/endless", os.path.join(TMP, "half")], env=env)
    wait_for(lambda: has_come(k.pid) or k.poll() is not None)
    k.send_signal(signal.SIGINT)
    check("one that is stopped in the middle leaves nothing", k.wait(60 * SLOW) == -signal.SIGINT and not [f for f in os.listdir(TMP) if f.startswith("half")],
          (k.returncode, os.listdir(TMP)))
    r = lodge("cp", "/etc/hostname", "/tmp/x")
    check("one side must be a guest", r.returncode == 2, r)
    s = agent(vm)
    s.sendall(frame(PUT, text(b"/tmp/half") + struct.pack("<IQ", 0o644, 0)) + frame(86, b"x" * 1000))
    s.close()
    check("a file that breaks off leaves nothing", wait_for(lambda: lodge("exec", "agent", "--", "sh", "-c", "ls /tmp | grep -c half").stdout == b"0\n"))

    # Time and identity.
    lodge("exec", "agent", "--", "date", "-s", "@1000")
    r = lodge("agent", "time", "agent", "--json")
    check("the clock was far behind", json.loads(r.stdout)["was_behind_ns"] > 10 ** 18, r)
    check("and is the host's now", clock_off("agent") < 1, clock_off("agent"))
    ids = set()
    for name in ("one", "two"):
        check("a new identity", lodge("agent", "identity", "agent", "--hostname", name).returncode == 0)
        ids.add(lodge("exec", "agent", "cat", "/etc/machine-id").stdout)
        check("the new name", lodge("exec", "agent", "hostname").stdout == name.encode() + b"\n")
    check("each machine-id is another", len(ids) == 2 and all(len(i) == 33 for i in ids), ids)
    info = json.loads(lodge("agent", "info", "agent", "--json").stdout)
    check("what it says of itself", info["machine"] == "riscv64" and info["hostname"] == "two" and info["protocol"] == 1, info)

    # File systems stand still, and go on when the one who asked is gone, or too slow.
    lodge("exec", "agent", "--", "sh", "-c", "modprobe ext4 && mount -t ext4 /dev/vda /mnt")
    write = ["exec", "agent", "--", "timeout", "1", "sh", "-c", "echo x >> /mnt/f"]
    s = agent(vm)
    s.sendall(frame(FREEZE, struct.pack("<I", 30000)))
    kind, body = answer(s)
    check("freeze", kind == OK and struct.unpack("<Q", body)[0] >= 1, (kind, body))
    behind = "(echo x >> /mnt/f; touch /tmp/done) > /dev/null 2>&1 < /dev/null & sleep 0.5; ls /tmp"
    r = lodge("exec", "agent", "--", "sh", "-c", behind)
    check("nothing is written while it is frozen", r.returncode == 0 and b"done" not in r.stdout, r)
    s.close()
    check("the end of the connection thaws", wait_for(lambda: lodge(*write).returncode == 0))
    s = agent(vm)
    s.sendall(frame(FREEZE, struct.pack("<I", 1000)))
    check("freeze for a second", answer(s)[0] == OK)
    check("the watchdog thaws", wait_for(lambda: lodge(*write).returncode == 0))
    s.close()

    # A client that makes no sense.
    for junk in (b"\xff" * 64, frame(99), frame(EXEC, b"\x00"), frame(EXEC, struct.pack("<III", 0, 0, 0) + struct.pack("<I", 2 ** 31))):
        s = agent(vm)
        s.sendall(junk)
        kind, _ = answer(s)
        check("junk is refused", kind in (ERROR, None), kind)
        s.close()
    check("and the agent is still there", lodge("exec", "agent", "true").returncode == 0)

with Machine("--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "128M",
             "--vsock", "off", name="deaf") as vm:
    vm.expect(b"debian:mini ready", 60)
    r = lodge("exec", "deaf", "true")
    check("a machine without vsock says what to do", r.returncode == 1 and b"--vsock off" in r.stderr, r)

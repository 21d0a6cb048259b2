"""machine.py: a lodge-vm under test: its console, its control socket, its end.

    with Machine("--kernel", k, "--initrd", i, "--append", a, name="t1") as m:
        m.expect(b"ready", 60)
        m.type("uname -r\\n")
        m.call("pause")
        code = m.wait(30)

The console is the process's standard input and output, as when lodge-vm is run by hand. Everything it makes lies in LODGE_HOME below
$LODGE_TMP. A machine that is still there at the end of the block is killed.
"""
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time

TOP = os.environ.get("LODGE_TOP") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("LODGE_BUILD", os.path.join(TOP, "build"))
TMP = os.environ.get("LODGE_TMP", "/tmp")
VM = os.path.join(BUILD, "src/vm/lodge-vm")
LODGE = os.path.join(BUILD, "src/cli/lodge")
HOME = os.path.join(TMP, "home")
SLOW = float(os.environ.get("LODGE_SLOW", "1"))  # everything may take so many times as long


class Failed(Exception):
    pass


def check(what, good, detail=""):
    """One case: prints PASS or FAIL; a failed one ends the test."""
    print(f"{'PASS' if good else 'FAIL'}: {what}" + (f": {detail}" if detail and not good else ""), flush=True)
    if not good:
        sys.exit(1)


def sh(*cmd, code=0, **kw):
    """What a command says, on stdout and then stderr; another exit code than that fails."""
    p = subprocess.run(cmd, capture_output=True, text=True, timeout=120 * SLOW, **kw)
    if p.returncode != code:
        raise AssertionError(f"{' '.join(cmd)}: {p.returncode}, not {code}\n{p.stdout}{p.stderr}")
    return p.stdout + p.stderr


@contextlib.contextmanager
def loop_device(path, *options):
    """A block device upon a file, by losetup's options; needs root."""
    dev = sh("losetup", "-f", "--show", *options, path).strip()
    try:
        yield dev
    finally:
        sh("losetup", "-d", dev)


def wait_for(f, seconds=60):
    """What f() answers once that is true; what it answered last when it does not come in time."""
    end = time.monotonic() + seconds * SLOW
    while not (found := f()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def fill_up(path):
    """A file that takes all the room that there is."""
    with open(path, "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(65536))
        except OSError:
            pass


def skip(reason):
    print(f"SKIP: {reason}", flush=True)
    sys.exit(77)


def mini_image():
    """Kernel, initrd and command line of debian:mini, pulled when it is not there; skips without a network."""
    for attempt in range(2):
        p = subprocess.run([LODGE, "image", "show", "debian:mini", "--json"], capture_output=True, text=True)
        if not p.returncode:
            m = json.loads(p.stdout)
            where = m.get("dir") or m.get("directory") or m.get("path")
            return {"kernel": os.path.join(where, m["kernel"]), "initrd": os.path.join(where, m["initrd"]), "append": m["append"]}
        if not attempt:
            subprocess.run([LODGE, "image", "pull", "debian:mini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    skip("debian:mini is not there and cannot be pulled (no network)")


class Machine:
    def __init__(self, *args, name="vm", env=None, stdin=subprocess.PIPE):
        self.name, self.out, self.seen = name, b"", 0
        self.log = open(os.path.join(TMP, f"{name}.log"), "ab")
        self.p = subprocess.Popen([VM, "--name", name, *args], stdin=stdin, stdout=subprocess.PIPE, stderr=self.log,
                                  env=dict(os.environ, LODGE_HOME=HOME, **(env or {})))
        os.set_blocking(self.p.stdout.fileno(), False)
        self.sock = None
        self.id = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.sock:
            self.sock.close()
        if self.p.poll() is None:
            self.p.kill()
            self.p.wait()
        for f in (self.p.stdin, self.p.stdout, self.log):
            if f:
                f.close()

    # ---- console ----
    def pump(self, seconds):
        if select.select([self.p.stdout], [], [], seconds)[0]:
            chunk = self.p.stdout.read()
            if chunk:
                self.out += chunk
                return True
            if chunk == b"":
                time.sleep(0.01)
        return False

    def expect(self, text, seconds):
        """Waits until `text` comes on the console behind what was expected before; returns what came before it."""
        end = time.monotonic() + seconds * SLOW
        while True:
            at = self.out.find(text, self.seen)
            if at >= 0:
                before = self.out[self.seen:at]
                self.seen = at + len(text)
                return before
            if time.monotonic() > end:
                raise Failed(f"{self.name}: no {text!r} in {seconds * SLOW:.0f} s; last: {self.out[-500:]!r}")
            if not self.pump(0.2) and self.p.poll() is not None and not self.pump(0):
                if self.out.find(text, self.seen) < 0:
                    raise Failed(f"{self.name}: ended ({self.p.returncode}) before {text!r}; last: {self.out[-500:]!r}")

    def type(self, text):
        self.p.stdin.write(text.encode() if isinstance(text, str) else text)
        self.p.stdin.flush()

    def run(self, command, seconds=30):
        """Types a shell command; returns what it printed. The shell must be waiting."""
        # The words are broken by quotes where they are typed, so that only their output matches.
        self.type(f"echo beg''in_; {command}; echo e''nd_ $?\n")
        self.expect(b"begin_\r\n", seconds)
        text = self.expect(b"end_ ", seconds)
        self.expect(b"\n", 5)
        return text.replace(b"\r", b"").decode(errors="replace")

    # ---- control ----
    def call(self, method, seconds=60, fds=(), **params):
        if not self.sock:
            path = os.path.join(HOME, "run", self.name, "control.sock")
            end = time.monotonic() + 10 * SLOW
            while True:
                try:
                    self.sock = socket.socket(socket.AF_UNIX)
                    self.sock.connect(path)
                    break
                except OSError:
                    self.sock.close()
                    self.sock = None
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.05)
            self.reader = self.sock.makefile("r")
        self.sock.settimeout(seconds * SLOW)
        self.id += 1
        line = (json.dumps({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params}) + "\n").encode()
        socket.send_fds(self.sock, [line], fds)
        # The guest must not stall on a full pipe while the answer takes its time.
        while True:
            line = self.reader.readline()
            if not line:
                raise Failed(f"{self.name}: control socket closed")
            msg = json.loads(line)
            if msg.get("id") != self.id:
                continue
            if "error" in msg:
                raise Failed(f"{self.name}: {method}: {msg['error']['message']}")
            return msg["result"]

    def snapshot(self, path, **params):
        """A snapshot in a new file, complete when this returns."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self.call("snapshot_create", 120, fds=[fd], name=os.path.basename(path), **params)
        os.close(fd)

        def over():
            self.pump(0)
            st = self.call("snapshot_status")
            return st["state"] != "writing" and st

        st = wait_for(over, 120)
        if not st or st["state"] != "done":
            raise Failed(f"{self.name}: snapshot: {st}")

    def wait(self, seconds):
        end = time.monotonic() + seconds * SLOW
        while self.p.poll() is None:
            if time.monotonic() > end:
                raise Failed(f"{self.name}: still runs after {seconds * SLOW:.0f} s; last: {self.out[-500:]!r}")
            self.pump(0.1)
        while self.pump(0):
            pass
        return self.p.returncode

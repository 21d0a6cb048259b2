"""A virtual machine that is driven over its serial console, and the two ways to start one.

The console is the process's standard input and output, for Lodge and for QEMU. The machine boots once; each command is typed at its
shell, so that the boot is outside of what is measured.
"""
import os
import select
import shutil
import subprocess
import tempfile
import time


class Arm:
    """One VMM: how to start it, and where its memory beyond guest RAM is."""

    def __init__(self, name, program, *more):
        self.name, self.program, self.more = name, program, list(more)


class Lodge(Arm):
    def argv(self, job):
        cmd = [self.program, "--memory", f"{job['memory']}M", "--smp", str(job["smp"]), *self.more]
        if job.get("firmware"):
            return cmd + ["--firmware", job["firmware"]]
        if job.get("disk"):
            cmd += ["--disk", f"{job['disk']}:raw,readonly"]
        return cmd + ["--kernel", job["kernel"], "--initrd", job["initrd"], "--append", job["append"]]


class Qemu(Arm):
    def argv(self, job):
        memory = f"{job['memory']}M"
        cmd = [self.program, "-M", "virt,aia=aplic-imsic,memory-backend=ram", "-cpu", "rv64", "-smp", str(job["smp"]), "-m", memory,
               # As a memory file, so that guest RAM is shared memory in /proc and can be told from QEMU's own.
               "-object", f"memory-backend-memfd,id=ram,size={memory},share=on",
               "-display", "none", "-monitor", "none", "-serial", "stdio", "-nodefaults", "-no-reboot", *self.more]
        if job.get("firmware"):
            return cmd + ["-bios", "none", "-kernel", job["firmware"]]
        if job.get("disk"):
            cmd += ["-drive", f"file={job['disk']},format=raw,if=none,id=d0,readonly=on", "-device", "virtio-blk-pci,drive=d0"]
        return cmd + ["-device", "virtio-rng-pci", "-kernel", job["kernel"], "-initrd", job["initrd"], "-append", job["append"]]


def host_cpu(pid):
    """CPU seconds of a process's threads that still live, to the nanosecond."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                total += int(f.read().split()[0])
        except OSError:
            pass
    return total / 1e9


class Console:
    """`with Console(arm, job) as vm: vm.run("uname")`. job: memory, smp, kernel, initrd, append, and what to wait for."""

    def __init__(self, arm, job):
        self.arm, self.job, self.out, self.seen, self.home = arm, job, b"", 0, tempfile.mkdtemp(prefix="bench-")
        self.p = subprocess.Popen(arm.argv(job), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  env=dict(os.environ, LODGE_HOME=self.home))
        os.set_blocking(self.p.stdout.fileno(), False)

    def __enter__(self):
        try:
            began = time.monotonic()
            for text in self.job.get("until", [b"ready", b"# "]):
                self.expect(text, self.job.get("boot_timeout", 180))
            self.type(self.job.get("login", ""))
            # Nothing echoed, and no prompt to be taken for output.
            self.type("stty -echo; PS1=\n")
            self.run("true")
            self.boot_s = time.monotonic() - began
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        self.p.terminate()
        try:
            self.p.wait(5)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def expect(self, text, seconds):
        """Waits for `text` behind what was expected before; returns what came before it."""
        end = time.monotonic() + seconds
        while self.out.find(text, self.seen) < 0:
            if time.monotonic() > end:
                raise SystemExit(f"bench: {self.arm.name}: no {text!r} in {seconds} s\n{self.out[-600:].decode(errors='replace')}")
            if select.select([self.p.stdout], [], [], 0.5)[0]:
                chunk = self.p.stdout.read()
                self.out += chunk or b""
                if chunk == b"" and self.p.poll() is not None:
                    raise SystemExit(f"bench: {self.arm.name}: ended ({self.p.returncode})\n{self.out[-600:].decode(errors='replace')}")
        at = self.out.find(text, self.seen)
        before, self.seen = self.out[self.seen:at], at + len(text)
        return before

    def type(self, text):
        self.p.stdin.write(text.encode())
        self.p.stdin.flush()

    def run(self, command, seconds=120, cpu=None):
        """Runs a shell command; returns (what it printed, its exit status). A list given as `cpu` gets the host's CPU seconds."""
        before = host_cpu(self.p.pid)
        # The words are broken by quotes where they are typed, so that only their output matches.
        self.type(f"echo beg''in_; {command}; echo e''nd_ $?.\n")
        self.expect(b"begin_\r\n", seconds)
        text = self.expect(b"end_ ", seconds)
        status = self.expect(b".", 10)
        if cpu is not None:
            cpu.append(host_cpu(self.p.pid) - before)
        return text.replace(b"\r", b"").decode(errors="replace"), int(status)


def cpio(files):
    """A newc archive of {path: (mode, data)} (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst)."""
    out = b""
    for number, (path, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], 1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08x" % f for f in fields) + name
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return out


def with_files(initrd, files, path):
    """Writes an initial RAM file system that is `initrd` with more files; the kernel takes archives one behind the other."""
    with open(initrd, "rb") as f:
        first = f.read()
    with open(path, "wb") as f:
        f.write(first + bytes(-len(first) % 512) + cpio(files))
    return path

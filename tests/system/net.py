#!/usr/bin/env python3
# time-limit: 240
"""Networks under Debian's kernel: DHCP, name server, a server of the host from the guest, forwarded TCP and UDP into the guest, the host's
loopback out of reach, all inside the sandbox; a taken port; a tap in a network namespace of its own (needs root: skipped otherwise)."""
import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import listens
from machine import HOME, SLOW, TMP, VM, Machine, check, mini_image, wait_for

im = mini_image()
BOOT = ["--kernel", im["kernel"], "--initrd", im["initrd"], "--append", im["append"], "--memory", "256M"]
BLOB = os.urandom(1 << 20) * 8


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BLOB)))
        self.end_headers()
        self.wfile.write(BLOB)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = hashlib.sha256(body).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *a):
        pass


def serve(address):
    s = http.server.ThreadingHTTPServer((address, 0), Handler)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s.server_address[1]


def host_address():
    """An address of this host that is not loopback; None on a host without any."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.connect(("192.0.2.1", 9))
        return s.getsockname()[0]
    except OSError:
        return None


def free_port(kind):
    s = socket.socket(socket.AF_INET, kind)
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
    s.close()
    return port


def printed(m, command, text, seconds):
    """What the command prints, once that text is in it."""
    end = time.monotonic() + seconds * SLOW
    while True:
        out = m.run(command)
        if text in out or time.monotonic() > end:
            return out


# ---- user networking ----
tcp, udp = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM)
loop_port = serve("127.0.0.1")
with Machine(*BOOT, "--seed", "7", "--net", f"user,hostfwd=tcp::{tcp}-:8080,hostfwd=udp::{udp}-:5353", name="net") as m:
    m.expect(b"# ", 60)
    out = printed(m, "cat /etc/resolv.conf; ip route; ip addr show dev eth0", "10.0.2.3", 20)
    check("DHCP gives 10.0.2.15, the gateway and the name server", "10.0.2.15/24" in out and "via 10.0.2.2" in out and "10.0.2.3" in out, out)
    mac = m.run("cat /sys/class/net/eth0/address").strip()
    check("the address is locally administered and not multicast", int(mac[:2], 16) & 3 == 2, mac)
    check("the gateway answers echo requests", " 0% packet loss" in m.run("ping -c 2 -W 5 10.0.2.2"))

    addr = host_address()
    if addr:
        port = serve(addr)
        out = m.run(f"wget -q -O - http://{addr}:{port}/ | sha256sum", 60)
        check("8 MiB from the host arrive unharmed", hashlib.sha256(BLOB).hexdigest() in out, out)
        # Text: busybox's wget sends a file up to its first zero byte.
        m.run("head -c 1500000 /dev/urandom | base64 > /run/up", 60)
        out = m.run(f"wget -q -O - --post-file=/run/up http://{addr}:{port}/; echo; sha256sum /run/up", 60)
        digests = [w for w in out.split() if len(w) == 64]
        check("2 MiB to the host arrive unharmed", len(digests) == 2 and digests[0] == digests[1], out)
    else:
        print("SKIP: a server of the host: this host has loopback only")

    for target in ("10.0.2.2",):
        out = m.run(f"wget -T 3 -q -O - http://{target}:{loop_port}/ | wc -c", 30)
        check(f"the host's loopback is out of reach through {target}", out.strip().splitlines()[-1] == "0", out)
    stats = m.call("stats")["devices"]["net0"]
    check("and the attempt is counted", stats["tx_drops"] > 0, stats)

    m.run("(echo one from the guest | nc -l -p 8080 > /run/got) & " + listens(8080))
    with socket.create_connection(("127.0.0.1", tcp), timeout=20 * SLOW) as s:
        s.sendall(b"one from the host\n")
        s.shutdown(socket.SHUT_WR)
        s.settimeout(20 * SLOW)
        answer = s.recv(100)
    check("a forwarded TCP port reaches the guest and answers", answer == b"one from the guest\n", answer)
    check("and the guest got what was sent", "one from the host" in printed(m, "cat /run/got", "host", 10))

    # Busybox has no UDP server: the guest's kernel counts what came to a port where nobody listens. Answers are the unit test's.
    no_ports = lambda: int(m.run("awk '/^Udp: [0-9]/ { print $3 }' /proc/net/snmp"))
    before = no_ports()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"two from the host\n", ("127.0.0.1", udp))
    wait_for(lambda: no_ports() != before, 10)
    check("a forwarded UDP port reaches the guest", no_ports() == before + 1)

    # A saved state has the card in it; here: inspect while packets may wait, and go on.
    m.call("pause")
    about = m.call("inspect")["about"]["net0"]
    m.call("resume")
    check("inspect says what it is plugged into", about["backend"] == "user" and about["mac"] == mac and about["link"] == "up", about)
    check("the network lives on after pause and resume", " 0% packet loss" in m.run("ping -c 1 -W 5 10.0.2.2"))

    p = subprocess.run([VM, *BOOT, "--name", "taken", "--net", f"user,hostfwd=tcp::{tcp}-:22"], capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, env=dict(os.environ, LODGE_HOME=HOME))
    check("a taken port is named, with what to do", p.returncode == 1 and f"port {tcp}" in p.stderr and "hostfwd=" in p.stderr and
          len(p.stderr.splitlines()) == 1, p.stderr)
    check("and leaves nothing behind", not os.path.exists(os.path.join(HOME, "run/taken")))

p = subprocess.run([VM, *BOOT, "--name", "notap", "--net", "tap=no-such-tap"], capture_output=True, text=True,
                   stdin=subprocess.DEVNULL, env=dict(os.environ, LODGE_HOME=HOME))
check("a missing tap is named, with the command that makes it", p.returncode == 1 and "ip tuntap add dev no-such-tap" in p.stderr, p.stderr)

# ---- tap ----
NS = f"lodge-test-{os.getpid()}"


def ns(*cmd, **kw):
    return subprocess.run(["ip", "netns", "exec", NS, *cmd], capture_output=True, text=True, **kw)


def make_namespace():
    if os.geteuid():
        return "not root"
    if not os.path.exists("/dev/net/tun"):
        return "no /dev/net/tun"
    p = subprocess.run(["ip", "netns", "add", NS], capture_output=True, text=True)
    if p.returncode:
        return p.stderr.strip()
    for cmd in ("ip link set lo up", "ip tuntap add dev tap0 mode tap", "ip addr add 10.77.0.1/24 dev tap0", "ip link set tap0 up"):
        p = ns(*cmd.split())
        if p.returncode:
            return f"{cmd}: {p.stderr.strip()}"
    return None


SERVER = """
import hashlib, http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        d = hashlib.sha256(self.rfile.read(int(self.headers['Content-Length']))).hexdigest().encode()
        self.send_response(200); self.send_header('Content-Length', str(len(d))); self.end_headers(); self.wfile.write(d)
    def do_GET(self):
        b = bytes(range(256)) * 32768
        self.send_response(200); self.send_header('Content-Length', str(len(b))); self.end_headers(); self.wfile.write(b)
s = http.server.HTTPServer(('10.77.0.1', 8000), H)
print('listens', flush=True)
s.serve_forever()
"""

why = make_namespace()
server = None
try:
    if why:
        print(f"SKIP: tap in a network namespace: {why}")
        sys.exit(0)
    import machine

    wrapper = os.path.join(TMP, "in-namespace")
    with open(wrapper, "w") as f:
        f.write(f'#!/bin/sh\nexec nsenter --net=/run/netns/{NS} {VM} "$@"\n')
    os.chmod(wrapper, 0o755)
    machine.VM = wrapper
    server = subprocess.Popen(["ip", "netns", "exec", NS, sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    server.stdout.readline()
    with Machine(*BOOT, "--net", "tap=tap0,mac=52:54:00:77:00:02", name="tap") as m:
        m.expect(b"# ", 60)
        m.run("killall udhcpc; ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up")
        check("the given address is the card's", "52:54:00:77:00:02" in m.run("cat /sys/class/net/eth0/address"))
        check("a ping over the tap", " 0% packet loss" in m.run("ping -c 3 -W 5 10.77.0.1", 30))
        out = m.run("wget -q -O - http://10.77.0.1:8000/ | sha256sum", 60)
        check("8 MiB in segments of up to 64 KiB arrive unharmed", hashlib.sha256(bytes(range(256)) * 32768).hexdigest() in out, out)
        # Text: busybox's wget sends a file up to its first zero byte.
        m.run("head -c 1500000 /dev/urandom | base64 > /run/up", 60)
        out = m.run("wget -q -O - --post-file=/run/up http://10.77.0.1:8000/; echo; sha256sum /run/up", 60)
        digests = [w for w in out.split() if len(w) == 64]
        check("2 MiB to the host arrive unharmed", len(digests) == 2 and digests[0] == digests[1], out)
        s = m.call("stats")["devices"]["net0"]
        check("segmentation was left to the host both ways", s["rx_bytes"] / s["rx_packets"] > 1600 or s["tx_bytes"] / s["tx_packets"] > 1600, s)
        q = subprocess.run([wrapper, *BOOT, "--name", "tap2", "--net", "tap=tap0"], capture_output=True, text=True,
                           stdin=subprocess.DEVNULL, env=dict(os.environ, LODGE_HOME=HOME))
        check("a tap that another machine has is named", q.returncode == 1 and "tap0 is in use" in q.stderr, q.stderr)
        q = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", "--", "true"], capture_output=True)
        if q.returncode == 0:
            ns("ip", "tuntap", "add", "dev", "tap1", "mode", "tap", "user", "1")
            other = os.path.join(TMP, "other")
            os.makedirs(other, exist_ok=True)
            os.chmod(TMP, 0o755)
            os.chown(other, 65534, 65534)
            q = subprocess.run(["nsenter", f"--net=/run/netns/{NS}", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", VM,
                                *BOOT, "--name", "perm", "--net", "tap=tap1"], capture_output=True, text=True,
                               stdin=subprocess.DEVNULL, env=dict(os.environ, LODGE_HOME=other))
            # Where this user may not even open the device, that is what must be said.
            remedy = "mode tap user" in q.stderr or "may not open /dev/net/tun" in q.stderr
            check("a tap of another user is refused, with what to do", q.returncode == 1 and "tap1" in q.stderr and remedy, q.stderr)
        ns("ip", "link", "del", "tap0")
        check("a tap that vanishes leaves the machine alive", "alive" in m.run("echo ali''ve"))
        cpu = lambda: sum(int(x) for x in open(f"/proc/{m.p.pid}/stat").read().rsplit(")", 1)[1].split()[11:13])
        before = cpu()
        time.sleep(2)
        check("and idle", cpu() - before < 100, cpu() - before)
finally:
    if server:
        server.kill()
        server.wait()
    subprocess.run(["ip", "netns", "del", NS], capture_output=True)

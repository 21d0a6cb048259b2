#!/usr/bin/env python3
# time-limit: 300
"""Announcements through three joined switches: a guest's addresses are confirmed by its neighbours' answers, what is lost is asked for again, forged
answers do not count. tcpdump is the witness of what was sent."""
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from machine import BUILD, HOME, LODGE, TMP, TOP, Machine, check, mini_image, skip, wait_for
from migration import Gate, Middle, Receive, rpc, start_move

if not os.path.exists(os.path.join(BUILD, "src/agent/lodge-agent.riscv64")):
    skip("riscv64-linux-gnu-gcc is not installed: this build has no agent")
image = mini_image()
env = dict(os.environ, LODGE_HOME=HOME)
SLOW = float(os.environ.get("LODGE_SLOW", "1"))


# For the guest's shell: until duplicate address detection is over.
SETTLED = "while ip -6 addr | grep -q tentative; do usleep 100000; done"


def known_to_guest(ping, ip):
    """The same: until it knows a neighbour's hardware address; who answers no more than that."""
    return f"until ip neigh | grep -q '^{ip} .*lladdr'; do {ping} -c 1 -W 1 {ip}; done; "


def lodge(*args, seconds=60):
    return subprocess.run([LODGE, *args], capture_output=True, text=True, env=env, timeout=seconds * SLOW, stdin=subprocess.DEVNULL)


class Host(threading.Thread):
    """A neighbour on a switch: answers ARP and neighbour solicitations for its addresses, with or without a VLAN tag, as a Linux host would; or lies."""

    def __init__(self, switch, name, mac, ip, ip6="::", answer=True, lie=None):
        super().__init__(daemon=True)
        self.mac, self.ip, self.ip6 = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(ip), socket.inet_pton(socket.AF_INET6, ip6)
        self.answer, self.lie, self.asked, self.heard = answer, lie, 0, []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.connect(os.path.join(HOME, "run", ".switches", switch + ".sock"))
        self.sock.send(b"LODGE1 " + name.encode())
        self.start()

    def run(self):
        while True:
            try:
                f = self.sock.recv(70000)
            except OSError:
                return
            if not f:
                return
            e = f[12:]
            tag = e[12:16] if e[12:14] == b"\x81\0" else b""
            body = e[12 + len(tag):]
            head = bytes(12) + e[6:12] + self.mac + tag
            if body[:2] == b"\x08\x06" and body[8:10] == b"\0\2":
                self.heard.append(time.monotonic())
            if body[:2] == b"\x08\x06" and body[8:10] == b"\0\1":
                mine = body[26:30] == self.ip
                self.asked += mine
                if (mine and self.answer) or (self.lie and body[26:30] == socket.inet_aton(self.lie)):
                    self.sock.send((head + b"\x08\x06\0\1\x08\0\6\4\0\2" + self.mac + body[26:30] + body[10:20]).ljust(72, b"\0"))
            elif body[:2] == b"\x86\xdd" and body[8:9] == b"\x3a" and body[42:43] == b"\x87" and body[50:66] == self.ip6:
                self.asked += 1
                asker = body[10:26]
                if self.answer and any(asker):  # else: duplicate address detection
                    na = b"\x60\0\0\0" + self.ip6 + b"\2\1" + self.mac
                    pseudo = self.ip6 + asker + struct.pack("!II", len(na) + 4, 58) + b"\x88\0\0\0" + na
                    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
                    total = (total & 0xffff) + (total >> 16)
                    total = ~((total & 0xffff) + (total >> 16)) & 0xffff
                    self.sock.send(head + b"\x86\xdd\x60\0\0\0" + struct.pack("!HBB", len(na) + 4, 58, 255) + self.ip6 + asker
                                   + b"\x88\0" + struct.pack("!H", total) + na)


    def ask(self, mac, ip, over):
        """Asks for that address every 5 ms, at that hardware address, until `over` is set: what stands still between two answers is what a peer sees of a move."""
        f = mac + self.mac + b"\x08\x06\0\1\x08\0\6\4\0\1" + self.mac + self.ip + bytes(6) + socket.inet_aton(ip)
        while not over.wait(0.005):
            self.sock.send((bytes(12) + f).ljust(72, b"\0"))


def vlan_modules():
    """What the guest's kernel needs for VLANs is not in debian:mini: it comes out of the kernel's package, which the pull has left in a cache, or from the mirror."""
    manifest = json.loads(subprocess.run([LODGE, "image", "show", "debian:mini", "--json"], capture_output=True, text=True).stdout)
    package = next(p for p in manifest["packages"] if p["name"].startswith("linux-image"))
    caches = (os.environ.get("XDG_CACHE_HOME"), "/var/cache", os.path.expanduser("~/.cache"))
    found = [f for f in (os.path.join(c, "lodge", "debs", package["sha256"] + ".deb") for c in caches if c) if os.path.exists(f)]
    deb = found[0] if found else os.path.join(TMP, "kernel.deb")
    if not found:
        at = f"{manifest['mirror']}/pool/main/l/linux/{package['name']}_{package['version']}_{manifest['arch']}.deb"
        subprocess.run(["curl", "-sfL", "--max-time", "120", "-o", deb, at])
        if not os.path.exists(deb) or hashlib.sha256(open(deb, "rb").read()).hexdigest() != package["sha256"]:
            return None
    at = os.path.join(TMP, "modules")
    os.mkdir(at)
    tar = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
    names = ["llc/llc", "802/stp", "802/garp", "802/mrp", "8021q/8021q"]
    subprocess.run(["tar", "-x", "-C", at, "--wildcards"] + [f"*/kernel/net/{n}.ko*" for n in names], stdin=tar.stdout, stderr=subprocess.DEVNULL)
    tar.stdout.close()
    tar.wait()
    out = []
    for n in names:
        found = subprocess.run(["find", at, "-name", os.path.basename(n) + ".ko*"], capture_output=True, text=True).stdout.split()
        if not found:
            return None
        if found[0].endswith(".xz"):
            subprocess.run(["xz", "-d", found[0]], check=True)
        out.append(found[0].removesuffix(".xz"))
    return out


def announce(m, follow):
    """Asks for it and waits until it is over; the events."""
    m.call("announce")
    events = []
    while not events or events[-1]["state"] != "done":
        line = follow.readline()
        if not line:
            check("events go on", False)
        e = json.loads(line)
        if e.get("method") == "announce":
            events.append(e["params"])
    return events


try:
    for name, up in (("core", []), ("left", ["--uplink", "core"]), ("right", ["--uplink", "core"])):
        r = lodge("switch", "run", "-d", name, *up)
        check(f"switch {name}", r.returncode == 0, r)
    gateway = Host("core", "gateway", "02:00:00:00:01:01", "10.9.0.1", ip6="2001:db8:9::1")
    tagged = Host("core", "tagged", "02:00:00:00:01:07", "10.9.7.1", ip6="2001:db8:7::1")
    peer = Host("left", "peer", "02:00:00:00:01:02", "10.9.0.2")
    with Machine("--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "128M",
                 "--net", "switch=right", "--net", "switch=left", "--net", "switch=core", name="vm") as m:
        m.expect(b"debian:mini ready", 60)
        # Three cards, five addresses; each card talks to somebody.
        r = lodge("exec", "--wait", "30", "vm", "--", "sh", "-c", "killall udhcpc; set -- $(ls /sys/class/net | grep -v lo); "
                  "ip link set $1 up; ip link set $2 up; ip link set $3 up; "
                  "ip addr add 10.9.0.10/24 dev $1; ip addr add 10.9.0.11/32 dev $1; ip addr add 10.9.1.12/24 dev $2; ip addr add 10.9.2.13/24 dev $3; "
                  "ip addr add 10.9.2.14/32 dev $3; ip route add 10.9.0.2/32 dev $2 src 10.9.1.12; "
                  "for n in 1 2 3; do arping -f -c 3 -I $1 10.9.0.1; arping -f -c 3 -I $1 -s 10.9.0.11 10.9.0.1; arping -f -c 3 -I $2 -s 10.9.1.12 10.9.0.2; "
                  "arping -f -c 3 -I $3 -s 10.9.2.13 10.9.0.1; arping -f -c 3 -I $3 -s 10.9.2.14 10.9.0.1; done; true")
        check("the guest has its addresses", r.returncode == 0, r)
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60 * SLOW)
        s.connect(os.path.join(HOME, "run", "vm", "control.sock"))
        s.sendall(b'{"jsonrpc": "2.0", "id": 1, "method": "events", "params": {"follow": true}}\n')
        follow = s.makefile("r")
        follow.readline()
        capture = os.path.join(TMP, "core.pcapng")
        lodge("switch", "capture", "core", capture)
        events = announce(m, follow)
        for _ in range(2):  # the other cards end by themselves
            while sum(e["state"] == "done" for e in events) < 3:
                e = json.loads(follow.readline())
                if e.get("method") == "announce":
                    events.append(e["params"])
        lodge("switch", "capture", "core")
        ips = {e.get("ip") for e in events if e["state"] == "confirmed"}
        want = {"10.9.0.10", "10.9.0.11", "10.9.1.12", "10.9.2.13", "10.9.2.14"}
        check("each of five addresses on three cards is confirmed by an answer", want <= ips, events)
        check("by whom it was asked", all(e.get("by") in ("10.9.0.1", "10.9.0.2") for e in events if e.get("ip") in want), events)
        # Two: its answer was late, on a busy host.
        check("with nothing lost, one question each", all(e["tries"] <= 2 for e in events if e.get("ip") in want), events)
        if shutil.which("tcpdump"):
            text = subprocess.run(["tcpdump", "-r", capture, "-n", "-e", "arp"], capture_output=True, text=True).stdout
            for ip in sorted(want):
                asked = re.findall(rf"Request who-has \S+ tell {re.escape(ip)},", text)
                # The guest itself was asked to announce too (GUEST_ANNOUNCE), and does that by requests for its own address.
                asked = [a for a in asked if f"who-has {ip}" not in a and f"who-has {ip} " not in a]
                check(f"tcpdump: {ip} asked, as a question of the guest's", len(asked) >= 1, text[-1500:])
        else:
            print("SKIP: tcpdump is not installed", flush=True)
        # IPv6, and a VLAN on the second card.
        modules = vlan_modules()
        for path in modules or []:
            r = lodge("cp", path, "vm:/tmp/")
            check(f"{os.path.basename(path)} goes into the guest", r.returncode == 0, r)
        r = lodge("exec", "vm", "--", "sh", "-c", "set -- $(ls /sys/class/net | grep -v lo); ip -6 addr add 2001:db8:9::10/64 dev $1; "
                  + ("for m in llc stp garp mrp 8021q; do insmod /tmp/$m.ko || exit 1; done; vconfig add $2 7; ip link set $2.7 up; ip addr add 10.9.7.10/24 dev $2.7; "
                     "ip -6 addr add 2001:db8:7::10/64 dev $2.7; " if modules else "")
                  + SETTLED + "; " + known_to_guest("ping6", "2001:db8:9::1") + (known_to_guest("ping", "10.9.7.1") + known_to_guest("ping6", "2001:db8:7::1") if modules else "") + "true")
        check("the guest has IPv6 addresses, and a VLAN", r.returncode == 0, r)
        m.call("pause")
        known = [(a.get("vlan", 0), a.get("ip")) for n in ("net0", "net1") for a in m.call("inspect")["about"][n]["known"]["addresses"]]
        m.call("resume")
        # Duplicate address detection of a new address, while others are announced.
        r = lodge("exec", "vm", "--", "sh", "-c", "set -- $(ls /sys/class/net | grep -v lo); sleep 1; ip -6 addr add 2001:db8:9::77/64 dev $1 2>&1 & echo")
        events, done = [], 0
        m.call("announce")
        end = time.monotonic() + 60 * SLOW
        while done < 3 and time.monotonic() < end:
            e = json.loads(follow.readline())
            if e.get("method") == "announce":
                events.append(e["params"])
                done += e["params"]["state"] == "done"
        got = {(e.get("vlan", 0), e.get("ip")): e for e in events}
        six = [(0, "2001:db8:9::10", "2001:db8:9::1")]
        if modules:
            six += [(7, "10.9.7.10", "10.9.7.1"), (7, "2001:db8:7::10", "2001:db8:7::1")]
        else:
            print("SKIP: the kernel's package is neither in the cache nor to be had: no VLAN", flush=True)
        for vlan, ip, by in six:
            e = got.get((vlan, ip), {})
            check(f"{ip}, VLAN {vlan}: confirmed by its neighbour's answer", e.get("state") == "confirmed" and e.get("by") == by, (e, known, events))
        r = lodge("exec", "vm", "--", "sh", "-c", SETTLED + "; ip -6 addr")
        check("duplicate address detection is not disturbed", "2001:db8:9::77" in r.stdout and "dadfailed" not in r.stdout and "tentative" not in r.stdout, r.stdout)
        # The gateway is dead: only what talks to nobody else is asked for again, and reported.
        gateway.answer = False
        liar = Host("right", "liar", "02:00:00:00:01:66", "10.9.0.66", lie="10.9.0.1")
        before, asked = peer.asked, gateway.asked
        m.call("announce")
        check("a neighbour that does not answer is asked again", wait_for(lambda: gateway.asked > asked + 8), (asked, gateway.asked))
        # Twice: its answer was late, on a busy host.
        check("one that answers is asked once", 1 <= peer.asked - before <= 2, (before, peer.asked))
        gateway.answer = True
        done, state = 0, {}
        end = time.monotonic() + 40 * SLOW
        while done < 3 and time.monotonic() < end:
            e = json.loads(follow.readline())
            if e.get("method") == "announce":
                done += e["params"]["state"] == "done"
                state[e["params"].get("ip")] = e["params"]
        check("it answers again: everything is confirmed, by it and not by who lied",
              all(state[i]["state"] == "confirmed" and state[i]["by"] in ("10.9.0.1", "10.9.0.2") for i in want), state)
        check("what had to be asked again took more than one try", state["10.9.0.10"]["tries"] > 1 and state["10.9.1.12"]["tries"] <= 2, state)
        m.call("pause")
        known = m.call("inspect")["about"]["net0"]["known"]
        m.call("resume")
        check("the liar changed nothing of what is known", ["02:00:00:00:01:01"] == [p["mac"] for p in known["peers"] if p["ip"] == "10.9.0.1"], known)
        check("the guest never noticed", m.call("status")["state"] == "running")
    # A machine of three cards and five addresses that migrates from one switch to another: the way of each is proved right after it runs there. One neighbour is dead.
    def config(name, side):
        path = os.path.join(TMP, name + ".json")
        with open(path, "w") as f:
            json.dump({"name": name, "kernel": image["kernel"], "initrd": image["initrd"], "append": image["append"], "memory": "128M", "nets": 3 * [{"switch": side}]}, f)
        return "--config", path

    def told(name, ip):
        """What the machine's log has of the last announcement of that address."""
        found = re.findall(r'\{[^{]*"ip": ?"%s"[^}]*\}' % re.escape(ip), lodge("logs", name, "--machine").stdout)
        return json.loads(found[-1]) if found else {}

    def wait(what, f):
        end = time.monotonic() + 60 * SLOW
        while not f():
            if time.monotonic() > end:
                check(what, False, "".join(lodge("logs", n, "--machine").stdout[-1000:] for n in ("to", "back")))
            time.sleep(0.02)

    def asked_again(times):
        n = peer.asked
        wait("it is asked for again", lambda: peer.asked >= n + times)

    r = lodge("run", "-d", "--name", "from", "--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "128M",
              *3 * ("--net", "switch=right"))
    check("a machine that will move", r.returncode == 0, r)
    r = lodge("exec", "--wait", "60", "from", "--", "sh", "-c", "killall udhcpc; set -- $(ls /sys/class/net | grep -v lo); "
              "for i in $1 $2 $3; do ip link set $i up; done; ip addr add 10.9.0.20/24 dev $1; ip addr add 10.9.0.21/32 dev $1; ip addr add 10.9.1.22/24 dev $2; "
              "ip addr add 10.9.2.23/24 dev $3; ip addr add 10.9.2.24/32 dev $3; arping -f -c 3 -I $2 -s 10.9.1.22 10.9.0.2; "
              "arping -f -c 3 -I $1 -s 10.9.0.21 10.9.0.1; arping -f -c 3 -I $3 -s 10.9.2.23 10.9.0.1; arping -f -c 3 -I $3 -s 10.9.2.24 10.9.0.1; "
              "arping -f -c 3 -I $1 10.9.0.1 | tail -1", seconds=90)
    check("it talks to its neighbours", r.returncode == 0, r)
    mac = lodge("exec", "from", "--", "sh", "-c", "cat /sys/class/net/e*/address | head -1").stdout.strip()
    over = threading.Event()
    asking = threading.Thread(target=gateway.ask, args=(bytes.fromhex(mac.replace(":", "")), "10.9.0.20", over), daemon=True)
    peer.answer = False
    gateway.heard.clear()
    asking.start()
    waiting = Receive("to", *config("to", "left"))
    gate = Gate(waiting.at, 3)
    moving = start_move("from", gate.address)
    check("its memory is on its way", gate.held.wait(60 * SLOW))
    r = lodge("exec", "from", "--", "sh", "-c", "set -- $(ls /sys/class/net | grep -v lo); ip addr add 10.9.0.25/32 dev $1; arping -f -c 3 -I $1 -s 10.9.0.25 10.9.0.1")
    check("an address that it gets meanwhile", r.returncode == 0, r)
    capture = os.path.join(TMP, "moved.pcapng")
    lodge("switch", "capture", "core", capture)
    gate.open()
    out, err = moving.communicate(timeout=90 * SLOW)
    check("it moves to another switch", waiting.end()[0] == 0, err)
    living = {"10.9.0.20": "10.9.0.1", "10.9.0.21": "10.9.0.1", "10.9.0.25": "10.9.0.1", "10.9.2.23": "10.9.0.1", "10.9.2.24": "10.9.0.1"}
    for ip, by in living.items():
        wait(f"{ip} is confirmed there", lambda: told("to", ip).get("state") == "confirmed" and told("to", ip)["by"] == by)
    print("PASS: what has a neighbour that lives is confirmed there, by it", flush=True)
    n = len(gateway.heard)
    wait("its peer goes on", lambda: len(gateway.heard) >= n + 20)
    over.set()
    asking.join()
    heard = gateway.heard
    black = max((b - a for a, b in zip(heard, heard[1:])), default=0) * 1000
    print(f"PASS: a peer on a third switch, which asks every 5 ms all the while, waited for {black:.0f} ms at most ({len(heard)} answers)", flush=True)
    left = json.loads(lodge("switch", "show", "left", "--json").stdout)
    core = json.loads(lodge("switch", "show", "core", "--json").stdout)
    check("every switch knows where it is now", [x["port"] for x in left["addresses"] if x["address"] == mac] == ["to.net0"]
          and [x["port"] for x in core["addresses"] if x["address"] == mac] == ["+left"], (left, core))
    asked_again(3)
    lodge("switch", "capture", "core")
    if shutil.which("tcpdump"):
        text = subprocess.run(["tcpdump", "-r", capture, "-n", "-e", "arp"], capture_output=True, text=True).stdout
        times = {ip: sum(f"who-has {ip} " not in x for x in re.findall(rf"Request (who-has \S+ )tell {re.escape(ip)},", text)) for ip in (*living, "10.9.1.22")}
        # Two: its answer was late, on a busy host.
        check(f"tcpdump: only the address that nobody answers is asked for again: {times}", times["10.9.1.22"] >= 4 and all(1 <= times[ip] <= 2 for ip in living), text[-3000:])
    # It is announced only where it runs: a dry run, and a move that comes to nothing, change nothing of that; one that comes to something ends it, whatever else goes wrong.
    waiting = Receive("back", *config("back", "right"))
    r = lodge("migrate", "to", waiting.at, "--dry-run")
    check("a dry run of the way back", r.returncode == 0 and waiting.p.poll() is None, r)
    asked_again(2)
    print("PASS: it goes on asking after that", flush=True)
    moving = start_move("to", Middle(waiting.at, 0, "RUNNING").address)
    moving.communicate(timeout=90 * SLOW)
    waiting.end()
    check("it goes back while it is announced; nobody can tell from where it was", rpc("to", "migrate_status")["phase"] == "lost", lodge("ps").stdout)
    heard_of = lambda: [p["in"] for p in json.loads(lodge("switch", "show", "left", "--json").stdout)["ports"] if p["name"].startswith("to.")]
    asked_again(1)  # by then what it had said before is counted
    before = heard_of()
    asked_again(4)
    check("there it is announced; where it was, not one frame more", len(before) == 3 and heard_of() == before, (before, heard_of()))
    peer.answer = True
    wait("its neighbour answers again", lambda: told("back", "10.9.1.22").get("state") == "confirmed")
    check("an address that had to be asked for again is confirmed in the end", told("back", "10.9.1.22")["tries"] > 4, told("back", "10.9.1.22"))
    # It is dead for good: meanwhile, three moves of the bench.
    peer.answer = False
    rpc("back", "announce")
    p = subprocess.run([os.path.join(TOP, "bench/announce"), "--runs", "3", "--seed", "8"], capture_output=True, text=True, timeout=200 * SLOW)
    print("".join(x for x in p.stdout.splitlines(True) if not x.startswith("{")), flush=True)
    check("70 % lost: confirmed in each of three moves, heard with the first that came through, fewer frames than five blind RARPs each", p.returncode == 0, p.stdout[-500:] + p.stderr)
    wait("it is given up", lambda: told("back", "10.9.1.22").get("state") == "unconfirmed")
    n = peer.asked
    check("what nobody answers is given up after 30 tries; the others are confirmed", told("back", "10.9.1.22")["tries"] == 30
          and all(told("back", ip)["state"] == "confirmed" for ip in living), told("back", "10.9.1.22"))
    r = lodge("exec", "back", "--", "echo", "unaffected")
    check("the guest goes on, and its neighbour is asked no more", r.stdout == "unaffected\n" and rpc("back", "status")["state"] == "running" and peer.asked == n, (r, n, peer.asked))
finally:
    if "waiting" in globals() and waiting.p.poll() is None:
        waiting.p.kill()
    for name in ("from", "to", "back"):
        subprocess.run([LODGE, "kill", name], env=env, stderr=subprocess.DEVNULL)
    for name in ("right", "left", "core"):
        lodge("switch", "stop", name)

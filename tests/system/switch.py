#!/usr/bin/env python3
# time-limit: 120
"""`lodge switch`: two machines on one switch reach each other and not the host; learning; a capture that tcpdump reads; user networking for both; a
switch that ends and comes back; bad input."""
import json
import os
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["LODGE_TOP"], "tests/lib"))
from cli import listens
from machine import BUILD, HOME, LODGE, SLOW, TMP, Machine, check, mini_image, skip, wait_for

if not os.path.exists(os.path.join(BUILD, "src/agent/lodge-agent.riscv64")):
    skip("riscv64-linux-gnu-gcc is not installed: this build has no agent")
subprocess.run([LODGE, "image", "pull", "debian:mini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=100)
image = mini_image()
env = dict(os.environ, LODGE_HOME=HOME)


def lodge(*args, seconds=30):
    return subprocess.run([LODGE, *args], capture_output=True, text=True, env=env, timeout=seconds * SLOW, stdin=subprocess.DEVNULL)


def guest(name, command, seconds=30):
    return lodge("exec", name, "--", "sh", "-c", command, seconds=seconds)


def show():
    return json.loads(lodge("switch", "show", "lan", "--json").stdout)


# Before there is one.
r = subprocess.run([os.path.join(BUILD, "src/vm/lodge-vm"), "--kernel", image["kernel"], "--net", "switch=lan"], capture_output=True, text=True, env=env, timeout=20 * SLOW)
check("a machine on a switch that is not there says what to do", r.returncode == 1 and "lodge switch run lan" in r.stderr, r)
r = lodge("switch", "show", "lan")
check("showing it is `not found`", r.returncode == 3, r)
r = lodge("switch", "run", "../x")
check("a name that cannot be", r.returncode == 2 and "x" in r.stderr, r)
r = lodge("switch", "run", "-d", "lan", "--tap", "nosuch0")
check("a tap that is not there", r.returncode == 1 and "nosuch0" in r.stderr, r)

server = subprocess.Popen([LODGE, "switch", "run", "lan"], env=env, stdin=subprocess.DEVNULL)
wait_for(lambda: lodge("switch", "show", "lan").returncode == 0)
r = lodge("switch", "run", "lan")
check("two of one name exclude each other", r.returncode == 4, r)
check("it is listed", "lan" in lodge("switch", "ls").stdout)
check("and is no machine", "switches" not in lodge("ps", "--all").stdout)


def machine(name):
    return Machine("--kernel", image["kernel"], "--initrd", image["initrd"], "--append", image["append"], "--memory", "128M",
                   "--net", "switch=lan", name=name)


try:
    with machine("a") as a, machine("b") as b:
        for vm, last in ((a, 1), (b, 2)):
            vm.expect(b"debian:mini ready", 60)
            r = lodge("exec", "--wait", "30", vm.name, "--", "sh", "-c",
                      f"killall udhcpc; i=$(ls /sys/class/net | grep -v lo); ip addr add 10.9.0.{last}/24 dev $i; echo $i")
            check(f"{vm.name} has a card", r.returncode == 0 and r.stdout.strip(), r)
        capture = os.path.join(TMP, "lan.pcapng")
        check("capture begins", lodge("switch", "capture", "lan", capture).returncode == 0)
        r = guest("a", "ping -c 5 -i 0.2 10.9.0.2")
        check("one guest reaches the other", r.returncode == 0 and "5 packets received" in r.stdout, r)
        r = guest("b", "(sleep 8 | nc -l -p 7 > /tmp/got) > /dev/null 2>&1 < /dev/null & " + listens(7))
        r = guest("a", "dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null; nc 10.9.0.2 7 < /tmp/data; md5sum < /tmp/data")
        check("4 MiB over TCP, the same at the other end", r.stdout and wait_for(lambda: guest("b", "md5sum < /tmp/got").stdout == r.stdout), (r, guest("b", "wc -c < /tmp/got")))
        lodge("switch", "capture", "lan")
        j = show()
        check("both addresses were learned, on different ports", len({x["port"] for x in j["addresses"]}) == 2 and len(j["addresses"]) == 2, j)
        check("once learned, nothing more is flooded", j["flooded"] < 100 < j["ports"][0]["in"], j)
        tcpdump = shutil.which("tcpdump")
        if tcpdump:
            r = subprocess.run([tcpdump, "-r", capture, "-n", "-#"], capture_output=True, text=True)
            check("tcpdump reads the capture", r.returncode == 0 and "10.9.0.1 > 10.9.0.2: ICMP echo request" in r.stdout
                  and "10.9.0.2.7" in r.stdout, r.stderr or r.stdout[:500])
        else:
            print("SKIP: tcpdump is not installed", flush=True)
        r = guest("a", "ping -c 1 -W 1 10.0.2.2; ip route | grep default")
        check("nothing else is in reach", r.returncode != 0, r)
        # A second machine that says it is `a` does not take its port.
        check("two ports", len(j["ports"]) == 2)

        # The switch ends: links go down; when it is back, so are they.
        check("stop", lodge("switch", "stop", "lan").returncode == 0)
        server.wait(10 * SLOW)
        carrier = lambda n: guest(n, "i=$(ls /sys/class/net | grep -v lo); cat /sys/class/net/$i/carrier").stdout.strip()
        check("the guests see their link go down", wait_for(lambda: carrier("a") == carrier("b") == "0"), (carrier("a"), carrier("b")))
        r = lodge("switch", "run", "-d", "--user", "lan")
        check("start in the background, with user networking", r.returncode == 0, r)
        check("both are plugged in again", wait_for(lambda: len(show()["ports"]) == 3 and carrier("a") == carrier("b") == "1"), show())
        r = guest("a", "ping -c 2 -i 0.2 10.9.0.2")
        check("and reach each other again", r.returncode == 0, r)
        got = [guest(n, "i=$(ls /sys/class/net | grep -v lo); ip addr flush dev $i; udhcpc -q -n -t 5 -T 1 -i $i >/dev/null 2>&1; ip -4 addr show dev $i | grep -o '10[.]0[.]2[.][0-9]*/24'") for n in "ab"]
        check("both get an address from it, each its own", len({g.stdout for g in got}) == 2 and all("10.0.2." in g.stdout for g in got), got)
        r = guest("a", "ping -c 1 -W 2 10.0.2.2")
        check("and reach its gateway", r.returncode == 0, r)
finally:
    lodge("switch", "stop", "lan")
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        server.wait(10 * SLOW)
check("nothing is left", not [f for f in os.listdir(os.path.join(HOME, "run", ".switches"))], os.listdir(os.path.join(HOME, "run", ".switches")))

"""QEMU's monitor: Monitor(path).call("query-migrate")["return"]."""
import json
import socket
import time


class Monitor:
    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        for _ in range(200):
            try:
                self.s.connect(path)
                break
            except OSError:
                time.sleep(0.05)
        self.f = self.s.makefile("r")
        self.f.readline()
        self.call("qmp_capabilities")

    def call(self, name, **args):
        self.s.sendall(json.dumps({"execute": name, "arguments": args}).encode() + b"\n")
        while True:
            m = json.loads(self.f.readline())
            if "return" in m or "error" in m:
                return m

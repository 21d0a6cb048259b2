"""A tree of objects, words counted, JSON there and back, a digest, integers: what scripts do."""
import hashlib
import json
import re


class Node:
    def __init__(self, key):
        self.key, self.left, self.right = key, None, None


def insert(node, key):
    while True:
        side = "left" if key < node.key else "right"
        below = getattr(node, side)
        if below is None:
            setattr(node, side, Node(key))
            return
        node = below


root, v = Node(500000), 1
for _ in range(10000):
    v = (v * 1103515245 + 12345) % 2147483648
    insert(root, v % 1000003)
words = {}
for w in re.findall(r"[a-z]+", open("/tmp/data", errors="replace").read()[:300000]):
    words[w] = words.get(w, 0) + 1
top = sorted(words.items(), key=lambda x: (-x[1], x[0]))[:50]
text = json.dumps([{"w": w, "n": n, "f": n / 7} for w, n in top] * 40)
print(len(json.loads(text)), hashlib.sha256(text.encode()).hexdigest(), sum(x * x % 7 for x in range(100000)))

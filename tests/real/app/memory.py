"""memory.py MEGABYTES PERCENT: a process with that much data, which at SIGUSR1 rewrites PERCENT of it, in stretches as an array's update does.

Half is noise, a third are texts that compress, the rest was written once with zeros. It prints "ready", and "changed N" after the N-th change."""

import random
import signal
import sys

megabytes, percent = int(sys.argv[1]), float(sys.argv[2])
chance = random.Random()
data = bytearray(megabytes << 20)
noise, text = len(data) // 2, len(data) // 3


def fill(start, end):
    if start < noise:
        data[start:end] = chance.randbytes(end - start)
    elif start < noise + text:
        lines = b"".join(b'{"id": %d, "name": "user-%d", "score": %.3f}\n' % (chance.getrandbits(30), chance.getrandbits(20), chance.random()) for _ in range(25000))
        data[start:end] = (lines * ((end - start) // len(lines) + 1))[: end - start]


changes = 0


def change(*_):
    global changes
    stretch = 1 << 20
    for _ in range(int(len(data) * percent / 100) // stretch):
        start = chance.randrange(0, noise + text - stretch)
        fill(start, start + stretch)
    changes += 1
    print("changed", changes, flush=True)


for start in range(0, noise + text, 1 << 20):
    fill(start, min(start + (1 << 20), noise + text))
data = bytearray(data)  # the zeros are pages of their own now
signal.signal(signal.SIGUSR1, change)
print("ready", flush=True)
while True:
    signal.pause()

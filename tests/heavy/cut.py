#!/usr/bin/env python3
"""The network is cut in the middle of an upload and of an export.

    tests/heavy/cut.sh [--store seaweedfs|moto] [--encrypted] [--short 10] [--long 600] [--patience 180] [--slow 125000] [--option KEY=VALUE]…

In a network namespace of its own, where packets to and from the store are dropped by nftables. For --short seconds: both end well, with the same bytes. For --long seconds: an error that says what is wrong,
at most some seconds after --patience; and when the network is back an import of the same archive uploads what is missing and not more than that, which is compared with what the archive takes in an empty
repository. Last, a line of --slow bytes a second: a pack of 16 MiB takes as long as it takes, and arrives.
"""

import argparse
import io
import random
import subprocess
import tarfile
import threading
import time

from common import Checkpoints, Node, end, say, sha256_of, storage_of, work_folder
from counted import described, through


class Cut:
    """No packet to or from this port, while it lasts."""

    def __init__(self, port):
        self.port = port

    def __enter__(self):
        rules = "".join(f"add rule inet cut c tcp {way} {self.port} drop\n" for way in ("dport", "sport"))
        subprocess.run(["nft", "-f", "-"], check=True, input=f"add table inet cut\nadd chain inet cut c {{ type filter hook input priority 0; }}\n{rules}", text=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["nft", "delete", "table", "inet", "cut"], check=True)


class Running:
    """A command in the background."""

    def __init__(self, node, *args):
        def run():
            self.result = node.run(*args, timeout=1500)
            self.ended = time.monotonic()

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def wait(self, seconds=None):
        self.thread.join(seconds)
        return None if self.thread.is_alive() else self.result


def sent(proxy):
    return sum(request.up for request in list(proxy.requests))


def received(proxy):
    return sum(request.down for request in list(proxy.requests))


def wait_for(proxy, count, least, running):
    while count(proxy) < least:
        if running.wait(0.02) is not None:
            raise SystemExit(f"FAILED: it ended before the cut: {running.result}")


def packs_whole(requests, prefix):
    packs = {request.path: request.up for request in requests if request.method == "PUT" and request.folder(prefix) == "packs" and request.whole}
    return sum(packs.values()), len(packs)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", default="seaweedfs")
    parser.add_argument("--encrypted", action="store_true")
    parser.add_argument("--short", type=float, default=10)
    parser.add_argument("--long", type=float, default=600)
    parser.add_argument("--patience", type=int)
    parser.add_argument("--slow", type=int, default=125_000)
    parser.add_argument("--pages", type=int, default=60_000)
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    args = parser.parse_args()
    # Two commands, one after the other, are to give up within the cut.
    if not args.patience:
        args.patience = max(20, min(180, int(args.long / 3))) if args.long else 180
    work = work_folder()
    failures = []
    url, options = storage_of(args.store, work)
    prefix = "/" + url.removeprefix("s3://") + "/"
    # A line on which the upload takes some 10 s.
    proxy, options = through(options, {"up": 10 << 20, "down": 10 << 20})
    options += [f"patience={args.patience}s", *args.option]
    cut = Cut(proxy.port)
    say(f"{args.store}, {'encrypted' if args.encrypted else 'in clear'}, seed {args.seed}, in {work}, options {args.option}")
    node = Node(url, options, work, "node")
    node.must("init", *([] if args.encrypted else ["--no-encryption"]))

    first = work / "first.tar"
    digest = Checkpoints("cut", f"{args.seed} 1", args.pages).write(first)
    proxy.take()
    importing = Running(node, "import", first)
    wait_for(proxy, sent, 24 << 20, importing)
    with cut:
        say(f"import: cut for {args.short:.0f} s after {sent(proxy)} bytes")
        time.sleep(args.short)
    result = importing.wait()
    requests = proxy.take()
    if result.code != 0:
        failures.append(f"an import with a cut of {args.short} s: {result}")
        end(work, failures)
    say(f"import: ended well after {result.seconds:.1f} s; {sum(r.up for r in requests)} bytes up for {result.json['bytes_added']} added, {len(requests)} requests")
    snapshot = result.json["snapshot"]

    out = work / "out.tar"
    exporting = Running(Node(url, options, work, "reader"), "export", snapshot, "-o", out)
    wait_for(proxy, received, 24 << 20, exporting)
    with cut:
        say(f"export: cut for {args.short:.0f} s after {received(proxy)} bytes")
        time.sleep(args.short)
    result = exporting.wait()
    requests = proxy.take()
    say(f"export: code {result.code} after {result.seconds:.1f} s, {sum(r.down for r in requests)} bytes down, {len(requests)} requests")
    if result.code != 0:
        failures.append(f"an export with a cut of {args.short} s: {result}")
    elif sha256_of(out) != digest:
        failures.append("the export over a cut line gave other bytes")
    out.unlink(missing_ok=True)

    if args.long:
        second = work / "second.tar"
        digest = Checkpoints("cut", f"{args.seed} 2", args.pages).write(second)
        alone = Node(work / "alone", [], work, "alone")
        alone.must("init", "--no-encryption")
        whole = alone.must("import", second)["bytes_added"]
        importing = Running(node, "import", second)
        wait_for(proxy, sent, 34 << 20, importing)
        exporting = Running(Node(url, options, work, "reader-2"), "export", snapshot, "-o", out)
        wait_for(proxy, received, 8 << 20, exporting)
        began = time.monotonic()
        with cut:
            before, packs = packs_whole(proxy.take(), prefix)
            say(f"import and export: cut for {args.long:.0f} s after {packs} packs of {before} bytes, of the {whole} that the archive takes")
            for name, running in (("export", exporting), ("import", importing)):
                result = running.wait(max(0, began + args.long - time.monotonic()))
                if result is None:
                    failures.append(f"the {name} was still at work after {args.long} s without a network")
                    continue
                after = running.ended - began
                say(f"{name}: ended with {result.code}, {after:.1f} s after the cut: {result.err.strip()}")
                if after > args.patience + 15:
                    failures.append(f"the {name} took {after:.1f} s to end, with a patience of {args.patience} s")
                if result.code != 1:
                    failures.append(f"the {name} ended with {result.code} without a network")
                if out.exists() and name == "export":
                    failures.append("an export that failed left its file")
            late = node.run("import", second)
            say(f"import with no network from the start: {late.code} after {late.seconds:.1f} s: {late.err.strip()}")
            if late.code != 1 or late.seconds > args.patience + 15:
                failures.append(f"an import without a network: {late}")
            time.sleep(max(0, began + args.long - time.monotonic()))
        for name, running in (("export", exporting), ("import", importing)):
            result = running.wait()
            say(f"{name}: in all {result.seconds:.1f} s, {result.code}")
        between, packs = packs_whole(proxy.take(), prefix)
        again = node.run("import", second)
        requests = proxy.take()
        if again.code != 0:
            failures.append(f"an import after the cut: {again}")
            end(work, failures)
        up = sum(request.up for request in requests)
        say(f"the line is back: import ended well after {again.seconds:.1f} s, {up} bytes up, {again.json['bytes_added']} added ({described(requests, prefix)})")
        say(f"before the cut {before}, while it ended {between}, after it {up}: {before + between + up} for {whole}")
        if before + between + up > whole * 1.05 + (17 << 20) * 2:
            failures.append(f"{before + between + up - whole} bytes were uploaded a second time")
        result = Node(url, options, work, "reader-3").run("export", again.json["snapshot"], "-o", out)
        if result.code != 0 or sha256_of(out) != digest:
            failures.append(f"what the import after the cut stored: {result}")
        result = node.run("gc", "--grace", "0")
        say(f"gc: {result.code}, freed {result.json['bytes'] if result.code == 0 else result.err} bytes")
        result = node.run("check", "--read-data")
        if result.code != 0:
            failures.append(f"check: {result}")

    if args.slow:
        third = work / "third.tar"
        member = tarfile.TarInfo("one-pack")
        member.size = 15 << 20
        with tarfile.open(third, "w") as tar:
            tar.addfile(member, io.BytesIO(random.Random(f"{args.seed} 3").randbytes(member.size)))
        proxy.take()
        proxy.limits["up"] = args.slow
        result = node.run("import", third, timeout=1500)
        up = sum(request.up for request in proxy.take())
        proxy.limits["up"] = None
        say(f"a line of {args.slow} bytes/s: import ended with {result.code} after {result.seconds:.1f} s, {up} bytes up {result.err.strip()}")
        if result.code != 0 or up > (16 << 20):
            failures.append(f"an import over a slow line, {up} bytes up: {result}")
    end(work, failures)


if __name__ == "__main__":
    main()

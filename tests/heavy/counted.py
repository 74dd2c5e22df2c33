#!/usr/bin/env python3
"""What a series of checkpoints costs over S3: bytes and requests of each import, and of an export on a fresh node, counted by a proxy.

    counted.py [--store seaweedfs|moto] [--encrypted] [--no-delta] [DIR]

DIR holds `*.tar` of one container; without it a container of 100 MB is made up. What is demanded of the second import: at most what it says that it added, and 5 %, in at most one request
per 8 MiB of that, and 14; of the export of the last one on a fresh node: at most one request per 4 MiB, or one per pack and 6.
"""

import argparse
import random
import time
from collections import Counter
from pathlib import Path

from common import Checkpoints, Node, end, say, sha256_of, storage_of, work_folder
from proxy import Proxy


def through(options, proxy_options=None):
    """A proxy before the endpoint in these options, and the options that lead to it."""
    (endpoint,) = [option for option in options if option.startswith("endpoint=")]
    proxy = Proxy(int(endpoint.rsplit(":", 1)[1]), **(proxy_options or {}))
    return proxy, [option for option in options if option != endpoint] + [f"endpoint=http://127.0.0.1:{proxy.port}"]


def described(requests, prefix):
    return ", ".join(f"{count} {what}" for what, count in sorted(Counter(f"{r.method} {r.folder(prefix)}" for r in requests).items()))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", default="seaweedfs")
    parser.add_argument("--encrypted", action="store_true")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    parser.add_argument("--no-delta", action="store_true")
    parser.add_argument("dir", nargs="?")
    args = parser.parse_args()
    work = work_folder()
    failures = []
    url, options = storage_of(args.store, work)
    prefix = "/" + url.removeprefix("s3://") + "/"
    proxy, options = through(options)
    say(f"{args.store}, {'encrypted' if args.encrypted else 'in clear'}, {args.dir or f'seed {args.seed}'}")
    if args.dir:
        archives = sorted(Path(args.dir).resolve().glob("*.tar"))[:5]
    else:
        checkpoints = Checkpoints("counted", args.seed, 25_000)
        archives = []
        for number in range(3):
            archives.append(work / f"{number}.tar")
            checkpoints.write(archives[-1])
            checkpoints.change()
    writer = Node(url, options, work, "writer")
    began = time.monotonic()
    writer.must("init", *([] if args.encrypted else ["--no-encryption"]))
    say(f"init: {len(proxy.take())} requests, {time.monotonic() - began:.1f} s")
    for number, archive in enumerate(archives, 1):
        report = writer.run("import", archive, *(["--no-delta"] if args.no_delta else []))
        if report.code != 0:
            raise SystemExit(f"FAILED: {report}")
        requests, added = proxy.take(), report.json["bytes_added"]
        up = sum(request.up for request in requests)
        down = sum(request.down for request in requests)
        say(f"import {number}: {archive.stat().st_size} bytes, added {added}; up {up}, down {down}, {len(requests)} requests ({described(requests, prefix)}), {report.seconds:.2f} s")
        if number == 2:
            if up > added * 1.05:
                failures.append(f"the second import sent {up} bytes for {added} that it added")
            if len(requests) > added / (8 << 20) + 14:
                failures.append(f"the second import took {len(requests)} requests for {added} bytes: more than {added / (8 << 20) + 14:.1f}")
    snapshot = report.json["snapshot"]
    stats = {entry["id"]: entry for entry in writer.must("stats")["snapshots"]}
    packs = stats[snapshot]["packs_needed"]
    proxy.take()
    for name, cached in (("fresh", True), ("no cache", False)):
        out = work / "out.tar"
        result = Node(url, options, work, f"reader-{name.replace(' ', '-')}", cache=cached).run("export", snapshot, "-o", out)
        requests = proxy.take()
        down = sum(request.down for request in requests)
        say(f"export on a {name} node: {packs} packs, down {down}, {len(requests)} requests ({described(requests, prefix)}), {result.seconds:.2f} s, code {result.code}")
        if result.code != 0:
            failures.append(str(result))
        elif sha256_of(out) != sha256_of(archives[-1]):
            failures.append("the export gave other bytes")
        most = max(down / (4 << 20), packs + 6)
        if len(requests) > most:
            failures.append(f"the export on a {name} node took {len(requests)} requests for {packs} packs and {down} bytes: more than {most:.1f}")
        out.unlink(missing_ok=True)
    end(work, failures)


if __name__ == "__main__":
    main()

"""What the proofs with real processes share: checkpoints that change, the program that is tested, and a look into the store.

Always: all folders are below one work folder, `CRYOSTORE` names the program. Never: knows anything about the insides of a repository but the names of its folders.
"""

import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

PAGE = 4096


def program():
    """The program to test: `CRYOSTORE`, or what the release build left."""
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.expanduser("~/.cache/cryostore/target")
    return os.environ.get("CRYOSTORE") or f"{target}/release/cryostore"


def work_folder(parent=None):
    """A folder for one run. It is left where something was wrong in the run, for whoever looks after it."""
    return Path(tempfile.mkdtemp(prefix="cryostore-proof-", dir=parent or os.environ.get("PROOF_DIR")))


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Checkpoints:
    """Checkpoints of one container whose memory changes from each to the next: some words here and there, some pages whole, now and then more pages."""

    def __init__(self, container, seed, pages):
        self.random = random.Random(seed)
        self.container = container
        self.pages = bytearray()
        self._grow(pages)
        self.files = bytearray(self.random.randbytes(200_000))
        self.old = []

    def _grow(self, pages):
        for _ in range(pages):
            kind = self.random.random()
            if kind < 0.1:
                self.pages += bytes(PAGE)
            elif kind < 0.7:
                word = self.random.randbytes(16)
                self.pages += b"".join(word + struct.pack("<QQ", n, self.random.getrandbits(20)) for n in range(PAGE // 32))
            else:
                self.pages += self.random.randbytes(PAGE)

    def change(self):
        count = len(self.pages) // PAGE
        for _ in range(max(1, count // 12)):
            at = self.random.randrange(count) * PAGE + self.random.randrange(PAGE // 8) * 8
            self.pages[at : at + 8] = self.random.randbytes(8)
        for _ in range(max(1, count // 50)):
            at = self.random.randrange(count) * PAGE
            self.pages[at : at + PAGE] = self.random.randbytes(PAGE)
        if self.random.random() < 0.1:
            self._grow(self.random.randrange(1, 32))
        # Bytes that come in between move all that follows.
        at = self.random.randrange(len(self.files))
        self.files[at:at] = self.random.randbytes(self.random.randrange(1, 100))
        del self.files[:50]

    def turn(self):
        """What makes garbage, and needs it again: the container begins anew with other memory, or is what it was some checkpoints ago."""
        chance = self.random.random()
        if chance < 0.1:
            self.old = [*self.old[-2:], (bytes(self.pages), bytes(self.files))]
            count = len(self.pages) // PAGE
            self.pages = bytearray()
            self._grow(count)
        elif chance < 0.25 and self.old:
            pages, files = self.random.choice(self.old)
            self.pages, self.files = bytearray(pages), bytearray(files)
        else:
            self.change()

    def write(self, path):
        """Writes the tar, and gives its SHA-256."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, body in (
                ("config.dump", json.dumps({"id": "abc", "name": self.container, "runtime": "runc"}).encode()),
                ("checkpoint/inventory.img", image([0x58313116], [message((1, 2))])),
                ("checkpoint/pagemap-1.img", self._pagemap()),
                ("checkpoint/pages-1.img", bytes(self.pages)),
                ("checkpoint/pstree.img", image([0x54564319, 0x50273030], [message((1, 1), (2, 0), (3, 1), (4, 1), (5, 1))])),
                ("rootfs-diff.tar", bytes(self.files)),
            ):
                header = tarfile.TarInfo(name)
                header.size = len(body)
                tar.addfile(header, io.BytesIO(body))
        bytes_of = out.getvalue()
        Path(path).write_bytes(bytes_of)
        return hashlib.sha256(bytes_of).hexdigest()

    def _pagemap(self):
        entry = message((1, 0x10000 * PAGE), (2, 0), (4, 4), (5, len(self.pages) // PAGE))
        return image([0x54564319, 0x56084025], [message((1, 1)), entry])


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(*fields):
    return b"".join(varint(number << 3) + varint(value) for number, value in fields)


def image(magics, messages):
    head = b"".join(struct.pack("<I", magic) for magic in magics)
    return head + b"".join(struct.pack("<I", len(body)) + body for body in messages)


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Result:
    """How a command ended."""

    def __init__(self, args, code, out, err, seconds):
        self.args, self.code, self.out, self.err, self.seconds = args, code, out, err, seconds

    @property
    def json(self):
        return json.loads(self.out)

    def __str__(self):
        return f"`{' '.join(map(str, self.args))}` ended with {self.code} after {self.seconds:.1f} s: {self.err.strip()[-800:]}"


class Node:
    """The program as one node runs it: with a cache of its own."""

    def __init__(self, storage, options, work, name, cache=True):
        self.work = Path(work)
        self.name = name
        self.base = ["--storage", str(storage), "--json", "-q"]
        for option in options:
            self.base += ["--storage-option", option]
        self.base += ["--cache-dir", str(self.work / f"cache-{name}")] if cache else ["--no-cache"]
        # The key that `init` makes lies in the configuration folder: one of the run, not the user's.
        self.env = dict(os.environ, XDG_CONFIG_HOME=str(self.work / "config"), XDG_CACHE_HOME=str(self.work / "cache"))
        for name_of in ("CRYOSTORE_STORAGE", "CRYOSTORE_CACHE_DIR"):
            self.env.pop(name_of, None)

    def start(self, *args, stdout=subprocess.PIPE):
        return subprocess.Popen(
            [program(), *map(str, args), *self.base], stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, env=self.env, cwd=self.work
        )

    def run(self, *args, timeout=300):
        began = time.monotonic()
        process = self.start(*args)
        try:
            out, err = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            code = f"nothing: it was still at work after {timeout} s"
        return Result(args, code, out, err.decode(errors="replace"), time.monotonic() - began)

    def must(self, *args, timeout=300):
        result = self.run(*args, timeout=timeout)
        if result.code != 0:
            raise SystemExit(f"FAILED: {result}")
        return result.json if result.out.strip() else None


def storage_of(name, work):
    """`dir` is a folder in the work folder; else the variable of `scripts/servers.sh run` says where the store is. Gives the URL and its options."""
    if name == "dir":
        return str(work / "store"), []
    variable = {"moto": "CRYOSTORE_TEST_S3", "azurite": "CRYOSTORE_TEST_AZURE", "seaweedfs": "CRYOSTORE_TEST_SEAWEEDFS"}[name]
    if variable not in os.environ:
        raise SystemExit(f"{name} is not there: run this by scripts/servers.sh run")
    url, *options = os.environ[variable].split()
    return f"{url}/proof-{os.getpid()}-{random.SystemRandom().randrange(10**6)}", options


def objects(url, options):
    """Names and sizes of all that is in the store: by another program than ours. None where there is no other."""
    if not url.startswith(("s3://", "az://")):
        root = Path(url)
        return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    if url.startswith("s3://"):
        try:
            import boto3
        except ImportError:
            return None
        values = dict(option.split("=", 1) for option in options)
        client = boto3.client(
            "s3",
            endpoint_url=values["endpoint"],
            aws_access_key_id=values["access_key_id"],
            aws_secret_access_key=values["secret_access_key"],
            region_name=values.get("region", "us-east-1"),
        )
        bucket, prefix = url.removeprefix("s3://").split("/", 1)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/")
        return {item["Key"].removeprefix(prefix + "/"): item["Size"] for page in pages for item in page.get("Contents", [])}
    return None


def by_folder(names):
    out = {}
    for name in names:
        folder = name.split("/")[0]
        if folder == "snapshots" and name.endswith(".deleted"):
            folder = "snapshots/….deleted"
        out[folder] = out.get(folder, 0) + 1
    return dict(sorted(out.items()))


def end(work, failures):
    """Says how the run went, and ends the program by it."""
    for failure in failures[:20]:
        say(f"FAILED: {failure}")
    if failures:
        say(f"{len(failures)} failures; all is left in {work}")
        sys.exit(1)
    shutil.rmtree(work, ignore_errors=True)
    say("no failures")

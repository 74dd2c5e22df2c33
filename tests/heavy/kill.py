#!/usr/bin/env python3
"""kill -9 at any moment of any command that writes, on a directory.

    kill.py [--kills 500] [--encrypted] [--seed N] [--in DIR]

After each kill the repository is opened again: what is listed is what was there before the command or what it was to make, every snapshot comes back byte for byte, and `check` finds nothing.
At the end all is deleted, and `gc` leaves only records and tombstones.
"""

import argparse
import random
import signal
import time
from collections import Counter

from common import Checkpoints, Node, by_folder, end, objects, say, sha256_of, storage_of, work_folder


class Proof:
    def __init__(self, args, work):
        self.chance = random.Random(args.seed)
        self.args = args
        self.work = work
        self.url, self.options = storage_of("dir", work)
        # Two nodes, so that what one left is also found by one that has never seen it.
        self.nodes = [Node(self.url, [], work, name) for name in ("one", "two")]
        self.checkpoints = [Checkpoints(name, f"{args.seed} {name}", pages) for name, pages in (("small", 150), ("large", 1500))]
        self.digests = {}
        self.live = {}
        self.deleted = {}
        self.tried = Counter()
        self.killed = Counter()
        self.outcomes = Counter()
        self.lasted = {}
        self.failures = []
        self.number = 0

    def main(self):
        self.nodes[0].must("init", *([] if self.args.encrypted else ["--no-encryption"]))
        while sum(self.killed.values()) < self.args.kills and len(self.failures) < 20:
            self.step()
        self.finish()

    def fail(self, text):
        self.failures.append(f"{text} (kill {sum(self.killed.values())}, seed {self.args.seed})")
        say(f"FAILED: {self.failures[-1]}")

    def step(self):
        kinds = ["import"] * 4 + ["gc"] * 3
        if len(self.live) > 2:
            kinds += ["delete"] * 2 + ["optimize"]
        if len(self.live) > 5:
            kinds += ["delete"] * 3 + ["prune"] * 2
        if self.deleted:
            kinds += ["undelete"] * 2
        kind = self.chance.choice(kinds)
        node = self.chance.choice(self.nodes)
        command, before, after = getattr(self, f"begin_{kind}")()
        # Four of five are killed; how long a whole one takes is learned from the others.
        kill = self.chance.random() < 0.8 and kind in self.lasted
        process = node.start(*command)
        began = time.monotonic()
        if kill:
            # Up to a quarter longer than it takes: what is decided is decided near the end.
            lasted = sorted(self.lasted[kind])
            time.sleep((0.2 + self.chance.random() * 1.05) * lasted[len(lasted) // 2])
            process.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=300)
        self.tried[kind] += 1
        if process.returncode == -signal.SIGKILL:
            self.killed[kind] += 1
        elif process.returncode == 0:
            self.lasted[kind] = [*self.lasted.get(kind, [])[-6:], time.monotonic() - began]
            before = after
        elif kind == "undelete" and process.returncode in (3, 6):
            # Given up by a collection with --grace 0.
            after = before
            self.deleted.pop(command[1], None)
            self.outcomes["undelete refused: given up"] += 1
        else:
            self.fail(f"{command} ended with {process.returncode}: {err.decode(errors='replace')[-1500:]}")
        self.verify(kind, before, after, process.returncode == -signal.SIGKILL)

    def begin_import(self):
        checkpoints = self.chance.choice(self.checkpoints)
        checkpoints.turn()
        self.number += 1
        path = self.work / "import.tar"
        self.digests[f"n{self.number}"] = checkpoints.write(path)
        live = set(self.live.values())
        return ["import", path, "--label", f"n{self.number}"], live, live | {f"n{self.number}"}

    def begin_gc(self):
        live = set(self.live.values())
        return ["gc", "--grace", self.chance.choice(["0", "1h", "1h"])], live, live

    def begin_optimize(self):
        live = set(self.live.values())
        return ["optimize", self.chance.choice(list(self.live))], live, live

    def begin_delete(self):
        id = self.chance.choice(list(self.live))
        live = set(self.live.values())
        self.deleted[id] = self.live[id]
        return ["delete", id], live, live - {self.live[id]}

    def begin_undelete(self):
        id = self.chance.choice(list(self.deleted))
        live = set(self.live.values())
        return ["undelete", id], live, live | {self.deleted[id]}

    def begin_prune(self):
        # Of each container the newest two, by the order of their numbers; how far a killed one came is not known.
        live = set(self.live.values())
        self.deleted.update(self.live)
        return ["prune", "--keep-last", "2"], live, None

    def verify(self, kind, before, after, was_killed):
        node = self.chance.choice([*self.nodes, Node(self.url, [], self.work, "none", cache=False)])
        listed = node.run("ls")
        if listed.code != 0:
            self.fail(f"after {kind}: {listed}")
            return
        found = {snapshot["id"]: snapshot["labels"][0] for snapshot in listed.json["snapshots"]}
        now = set(found.values())
        if kind == "prune":
            if not (now <= before if was_killed or before else True):
                self.fail(f"after prune: {sorted(now - before)} came from nowhere")
        elif now not in (before, after):
            self.fail(f"after {kind}, {'killed' if was_killed else 'whole'}: missing {sorted(before - now)}, new {sorted(now - before)}")
        if was_killed and after is not None and before != after:
            self.outcomes[f"{kind}: {'new' if now == after else 'old'} state"] += 1
        self.live = found
        self.deleted = {id: label for id, label in self.deleted.items() if id not in found}
        if not was_killed:
            return
        out = self.work / "out.tar"
        for id, label in found.items():
            result = node.run("export", id, "-o", out)
            if result.code != 0:
                self.fail(f"LOST after {kind}: {result}")
            elif sha256_of(out) != self.digests[label]:
                self.fail(f"LOST after {kind}: {id} came back with other bytes")
            out.unlink(missing_ok=True)
            self.outcomes["exports compared"] += 1
        result = node.run("check", *(["--read-data"] if self.chance.random() < 0.3 else []))
        if result.code != 0:
            self.fail(f"after {kind}: {result} {result.out[-1500:]}")

    def finish(self):
        say(f"{sum(self.killed.values())} kills: {dict(self.killed)}; {dict(self.outcomes)}")
        if self.live:
            self.nodes[0].must("delete", *self.live)
        # Each node knows of its own killed processes that they are gone; the rest is ended by hand.
        for node in self.nodes * 2:
            last = node.must("gc", "--grace", "0")
        for session in last["at_work"]:
            self.fail(f"a session that no node ended: {session}")
        if last["garbage"] or last["waiting"]:
            self.fail(f"the last gc still found something: {str(last)[:1500]}")
        left = objects(self.url, self.options)
        begun = [name for name in left if "#" in name]
        say(f"left: {by_folder(left)}, {sum(left.values())} bytes, {len(begun)} of them unfinished files of killed processes; gc says it keeps {last['kept_bytes']}")
        rest = [name for name in left if "#" not in name and name.split("/")[0] not in ("repository.json", "reserve", "keys", "gc", "snapshots")]
        rest += [name for name in begun if not name.startswith(("sessions/", "snapshots/"))]
        if rest:
            self.fail(f"left after all was deleted: {len(rest)}: {rest[:8]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--encrypted", action="store_true")
    parser.add_argument("--in", dest="parent", default="/dev/shm")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    args = parser.parse_args()
    work = work_folder(args.parent)
    say(f"{args.kills} kills, {'encrypted' if args.encrypted else 'in clear'}, seed {args.seed}, in {work}")
    proof = Proof(args, work)
    proof.main()
    end(work, proof.failures)


if __name__ == "__main__":
    main()

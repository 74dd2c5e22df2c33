"""goes_on.py ARCHIVED NEW: proves that the process that wrote the log NEW is the one that wrote ARCHIVED, the log inside the archive; else it fails.

Lines are of app/counter.sh, as container runtimes write them: time, stream, F, "count N digest D"; or bare, then what comes after as many lines as
ARCHIVED has counts as later. What has to be in NEW, later than all of ARCHIVED: three lines
or more with the digest of ARCHIVED, which exists in that process's memory only, and a count that goes up by one from where it stood, not from 1."""

import sys


def lines(path):
    for number, line in enumerate(open(path)):
        words = line.split()
        if words[:1] == ["count"]:
            words = [f"line {number + 1:03d}", "", "", *words]
        if words[3:4] == ["count"] and words[5:6] == ["digest"]:
            yield words[0], int(words[4]), words[6]


archived = list(lines(sys.argv[1]))
end, last, digest = archived[-1]
newer = [line for line in lines(sys.argv[2]) if line[0] > end]
counts = [count for _, count, _ in newer]
if len(newer) < 3:
    sys.exit(f"{len(newer)} lines are newer than the archive's last ({end})")
if {line[2] for line in newer} != {digest}:
    sys.exit(f"another process: its digest is {newer[0][2]}, the archive's is {digest}")
# The container ran on after it was frozen: the log in the archive may be some lines ahead of the memory.
if counts != list(range(counts[0], counts[0] + len(counts))) or not 1 < counts[0] <= last + 1:
    sys.exit(f"the archive stands at {last}, and the counts after it are {counts}")
print(f"the archive's last line: {end} count {last} digest {digest[:16]}…")
for time, count, digest in newer[:3]:
    print(f"after the restore:       {time} count {count} digest {digest[:16]}…")

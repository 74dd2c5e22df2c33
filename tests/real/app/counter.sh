# The smallest workload that proves a restore: 32 random bytes, drawn at the start, are in this shell's memory and nowhere else. Each second it prints
# a number that grows by one, and their SHA-256. A process that was started anew prints another digest, and begins with 1.
secret=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
count=0
while true; do
  count=$((count + 1))
  digest=$(printf %s "$secret" | sha256sum)
  echo "count $count digest ${digest%% *}"
  sleep 1
done

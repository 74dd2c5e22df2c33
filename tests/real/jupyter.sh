#!/usr/bin/env bash
# A real Jupyter server with a kernel and a browser's websocket: the checkpoint is refused with what to do, and works once that is done; restored on another
# node, the browser comes back to the same kernel, whose variables are there.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

client() { on "$1" python3 tests/real/notebook.py "${@:2}"; }
server() { # NODE POD [OPTION…]
  local options
  options=$(printf ', "%s"' "${@:3}")
  pod "$1" "$2" "$registry/notebook:1" '{"command": ["jupyter-server", "--allow-root", "--ip=127.0.0.1", "--port=8888",
    "--IdentityProvider.token=hush"'"${options#, \"\"}"']}'
  runs "$2"
  until_true 60 says "$1" "$2" 'Jupyter Server .* is running' || { logs "$1" "$2" | tail -n 5; fail "the server does not start"; }
}
refused() { # TEXT… : the checkpoint fails, and says all of these.
  local text
  if checkpoint one notebook 2>"$work/error"; then fail "the checkpoint was not refused"; fi
  for text; do grep -qF -- "$text" "$work/error" || { cat "$work/error"; fail "the error does not say: $text"; }; done
}

start_all
start_node one

server one notebook
client one start 'x = 1'
refused 'Connected TCP socket' 'c.KernelManager.transport = "ipc"' tcp-close /etc/criu/runc.conf
note "kernels that talk over TCP: refused, with the cure"
remove_pod notebook

server one notebook --KernelManager.transport=ipc
client one start 'import os; x = os.urandom(8).hex(); print(x)' >"$work/x"
# shellcheck disable=SC2094 # it only waits for the script's end
client one hold < <(exec tail -f /dev/null --pid $$) >"$work/hold" 2>&1 &
hold=$!
until_true 20 grep -q open "$work/hold" || { cat "$work/hold"; fail "no websocket"; }
refused 'Connected TCP socket' tcp-close /etc/criu/runc.conf
note "kernels over ipc, and a browser's websocket: refused, with the cure"

echo tcp-close >"$(folder_of one)/etc/criu/runc.conf"
id=$(checkpoint one notebook)
note "with tcp-close: checkpoint $id"
kill "$hold" 2>/dev/null || true
remove_pod notebook
end_node one

start_node two
echo tcp-close >"$(folder_of two)/etc/criu/runc.conf"
restore two "$id" notebook-again
runs notebook-again
found=$(client two run 'print(x)')
[[ $found == "$(cat "$work/x")" ]] || fail "x is '$found', it was $(cat "$work/x")"
client two run 'y = x + "!"; print(len(y))' | grep -qx 17 || fail "the kernel does not work on"
note "restored on node two: the kernel is there, x is $found as before, and it works on"
remove_pod notebook-again
note "passed"

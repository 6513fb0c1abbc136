#!/usr/bin/env bash
# Proves that an edge node works on arm64, on a machine that is x86-64.
#
# A fresh Debian 12 for arm64, in a folder and run by qemu's user emulation, gets Midge by the
# commands of the README. One node there and one here then train MNIST, three rounds, for an
# aggregator here. It fails unless every version counts both, no CUDA was installed, and both
# architectures recompute all versions from the kept updates, bit for bit.
#
# Needs root, the packages debootstrap, qemu-user-static and binfmt-support, and what
# `make venv broker` makes; MNIST is found as the demo finds it. Nothing of it is left running or
# mounted. The folder stays, 1.3 GB, and is used again the next time.
#
# tests/tools/arm64_proof.sh [FOLDER, else runs/arm64]
set -euo pipefail
cd "$(dirname "$0")/../.."

for program in debootstrap update-binfmts qemu-aarch64-static; do
    if [[ $EUID != 0 ]] || ! command -v "$program" >/dev/null; then
        echo "$0 needs root, debootstrap, binfmt-support and qemu-user-static" >&2
        exit 1
    fi
done

# What is mounted below is seen by this process alone, and goes with it.
if [[ -z ${MIDGE_MOUNTS_ARE_PRIVATE:-} ]]; then
    MIDGE_MOUNTS_ARE_PRIVATE=1 exec unshare --mount bash "tests/tools/$(basename "$0")" "$@"
fi

root=$(realpath -m "${1:-runs/arm64}")/debian
ours=$(mktemp -d)

end() {
    jobs -p | xargs -r kill
    wait
    [[ -z ${enabled:-} ]] || update-binfmts --disable qemu-aarch64
    rm -rf "$ours"
}
trap end EXIT

say() { printf '\n%s\n' "$*"; }

fail() {
    say "$1" >&2
    exit 1
}

# Before a command: run it in the clone in the arm64 Debian, with none of this machine's settings. An
# array and no function: in the background, $! must be the command itself.
# shellcheck disable=SC2016 # $@ is for the shell in there
arm64=(env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin
    ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} MIDGE_DATA=/mnt
    chroot "$root" sh -c 'cd /root/midge && exec "$@"' sh)

data=$(.venv/bin/python -c 'from shared import tasks
print(tasks.find("mnist").load("train", None).x.filename.parents[2])' 2>"$ours/data.log") ||
    fail "$(tail -n 1 "$ours/data.log")"

if [[ ! -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]]; then
    update-binfmts --enable qemu-aarch64
    enabled=yes
fi
if [[ ! -e $root/complete ]]; then
    say "Making Debian 12 for arm64 in $root"
    rm -rf "$root"
    debootstrap --arch=arm64 --variant=minbase --include=ca-certificates,python3,python3-venv \
        bookworm "$root" >"$ours/debootstrap.log" || fail "$(tail "$ours/debootstrap.log")"
    mkdir "$root/root/midge"
    touch "$root/complete"
    echo "$SECONDS s"
fi
# Whom this machine trusts, and how it finds names, holds there too.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp /etc/resolv.conf "$root/etc/"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount --bind "$data" "$root/mnt"

say "Installing as the README says, on $("${arm64[@]}" uname -m)"
find "$root/root/midge" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
git archive HEAD | tar -x -C "$root/root/midge"
SECONDS=0
"${arm64[@]}" python3 -m venv .venv
"${arm64[@]}" .venv/bin/pip install -q '.[torch]' -c constraints.txt
echo "$SECONDS s, $(du -sm "$root/root/midge/.venv" | cut -f1) MB"
packages=$("${arm64[@]}" .venv/bin/pip list --format freeze)
grep '^torch' <<<"$packages"
if grep -iE '^(nvidia|cuda|triton)' <<<"$packages"; then fail 'CUDA, which no node needs'; fi

say 'Three rounds of MNIST: one node here, one on arm64, 6,000 images each'
port=$(.venv/bin/python -c \
    'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
sed "s/^listener 1883 /listener $port /" mosquitto/loopback.conf >"$ours/mosquitto.conf"
PATH=$PATH:/usr/sbin mosquitto -c "$ours/mosquitto.conf" &

# NAME, INDEX and STATE_DIR of a node.
node_toml() {
    cat <<TOML
run = "arm64"
name = "$1"
state_dir = "$3"
task = "mnist"
[broker]
port = $port
[shard]
index = $2
of = 10
TOML
}
cat >"$ours/aggregator.toml" <<TOML
run = "arm64"
state_dir = "$ours/aggregator"
task = "mnist"
keep_updates = true
[broker]
port = $port
[rounds]
rounds = 3
min_nodes = 2
deadline_s = 600.0
TOML
node_toml here 0 "$ours/node" >"$ours/node.toml"
node_toml arm64 1 /tmp/node >"$root/root/midge/node.toml"
rm -rf "$root/tmp/node" "$root/tmp/aggregator"

timeout 30m .venv/bin/python -m aggregator --config "$ours/aggregator.toml" 2>"$ours/aggregator.log" &
aggregator=$!
.venv/bin/python -m edge_node --config "$ours/node.toml" 2>"$ours/here.log" &
here=$!
"${arm64[@]}" .venv/bin/python -m edge_node --config node.toml 2>"$ours/arm64.log" &
emulated=$!
# The nodes end when they are told to, the aggregator after its last round.
wait -n -p first "$aggregator" "$here" "$emulated" || fail "$(tail "$ours"/*.log)"
[[ $first == "$aggregator" ]] || fail "$(tail "$ours"/*.log)"
memory() { awk '/VmHWM/ { printf "%d MB", $2 * 1.024e-3 }' "/proc/$1/status"; }
echo "at most resident: here $(memory "$here"), arm64 $(memory "$emulated") with the emulator"
kill "$here" "$emulated"
wait "$here" "$emulated"

.venv/bin/python - "$ours/aggregator/journal.jsonl" <<'PYTHON'
import sys
from pathlib import Path

from aggregator import journal

versions = [one for one in journal.read(Path(sys.argv[1])) if one["event"] == "version"]
for version in versions:
    print(f"version {version['version']}: {version['seconds']:.1f} s")
    for one in version["counted"]:
        print(f"  {one['node']:6} counted, trained for {one['metrics']['train_s']:.2f} s")
counted = [sorted(one["node"] for one in version["counted"]) for version in versions]
sys.exit(counted != [["arm64", "here"]] * 3)
PYTHON

say 'The same updates, recomputed here and on arm64'
cp -r "$ours/aggregator" "$root/tmp/"
.venv/bin/midge replay "$ours/aggregator" --score-every 0
"${arm64[@]}" .venv/bin/midge replay /tmp/aggregator --score-every 0

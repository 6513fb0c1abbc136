# shellcheck shell=bash disable=SC2034,SC2154 # used and set by those who source it
# What install-node.sh and install-aggregator.sh share: looking first, the program in /opt/midge, files with
# their modes, the service. Each sets `side` (node or aggregator) and sources this file.
#
# Everything here may be run again at any time: a file that is as it should be is left alone, and a service
# is restarted only when something of it has changed.

source_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly source_dir
readonly program=/opt/midge
readonly settings=/etc/midge
readonly units=/etc/systemd/system
# What was installed from, to copy to nodes and to uninstall with.
readonly kept_source="$program/share/midge"
# The pip that installs unpacks here: /tmp may be a small one in memory.
readonly workplace=/opt/midge-install
readonly python="$program/bin/python"

# What /opt/midge takes with torch, on x86-64 as on arm64, and what pip needs beside it meanwhile.
readonly program_mb=1600
readonly upgrade_mb=300
# Packages of Debian's; checkpoints and updates that wait.
readonly var_mb=300
# Not before this was written: a Raspberry Pi without network has no idea what time it is.
readonly earliest_year=2026

# Of Debian's.
packages=(python3-venv openssl ca-certificates)

readonly torch_cpu=https://download.pytorch.org/whl/cpu

# Set by the options that both sides know.
certificates=
run=
plain=
torch_index="$torch_cpu"
start=yes
yes=
uninstall=
purge=

# Two files that are there until it is done, for a run that changed something may be cut off before: the service
# is to be started again; so is all of Midge here, for the program is another.
mark="$settings/$side.restart"
readonly upgraded="$settings/$side.upgraded"

say() { printf '%s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

has_systemd() { [ -d /run/systemd/system ]; }

# What an option needs behind it: need_value "$@"
need_value() { [[ $# -ge 2 && -n "$2" ]] || die "$1 needs a value: see $0 -h"; }

# Ask for a setting that was not given: variable, question, suggestion, option.
ask() {
    local -n answer=$1
    if [ -n "$answer" ]; then return; fi
    if [ -n "$yes" ] || [ ! -t 0 ]; then die "nobody to ask for it: give $4"; fi
    read -r -p "$2${3:+ [$3]}: " answer
    answer="${answer:-$3}"
    [ -n "$answer" ] || die "nothing was given: $4"
}

# Looking first

check_root() { [ "$(id -u)" = 0 ] || die "this is for the whole machine: type sudo $0 ..."; }

check_machine() {
    # shellcheck source=/dev/null
    ( . /etc/os-release && [[ " ${ID:-} ${ID_LIKE:-} " == *" debian "* ]] ) 2>/dev/null ||
        die "this is for Debian 12, Raspberry Pi OS and what is made of them: elsewhere see 'By hand' in README.md"
    local architecture
    architecture="$(dpkg --print-architecture)"
    case "$architecture" in
        amd64 | arm64) ;;
        armhf) die "this system is a 32-bit one, and there is no torch for those: install the 64-bit Raspberry Pi OS" ;;
        *) die "there is no torch for $architecture: amd64 and arm64 are what this can be" ;;
    esac
    [[ -f "$source_dir/pyproject.toml" && -f "$source_dir/constraints.txt" ]] ||
        die "$source_dir is not Midge's: run this script where it lies, in a clone of the repository"
    check_python
    check_clock
}

check_python() {
    if ! command -v python3 >/dev/null; then return; fi # apt-get brings it
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "Midge needs Python 3.11 and this is $(python3 -V): upgrade to Debian 12 or newer"
}

check_clock() {
    [ "$(date +%Y)" -ge "$earliest_year" ] ||
        die "the clock says $(date -I), and no certificate is valid then: timedatectl set-ntp true," \
            "or timedatectl set-ntp false, then timedatectl set-time '$earliest_year-MM-DD hh:mm'"
}

# Free megabytes, before anything is installed: check_space FOLDER MEGABYTES [FOLDER MEGABYTES]...
check_space() {
    local folder mount free
    local -A needed=() folders=()
    while [ $# -gt 0 ]; do
        folder="$1"
        until [ -d "$folder" ]; do folder="$(dirname "$folder")"; done
        mount="$(df --output=target "$folder" | tail -n 1)"
        needed[$mount]=$((${needed[$mount]:-0} + $2))
        folders[$mount]="${folders[$mount]:+${folders[$mount]} and }$1"
        shift 2
    done
    for mount in "${!needed[@]}"; do
        free="$(df -BM --output=avail "$mount" | tail -n 1 | tr -dc 0-9)"
        [ "$free" -ge "${needed[$mount]}" ] ||
            die "${folders[$mount]}: ${needed[$mount]} MB are needed and $free MB are free; make room, then run this again"
    done
}

# What a run left that was cut off in the middle, by an empty battery say: nobody knows what of it is whole. And
# what was made for another Python: after an upgrade of Debian the new one finds nothing in it.
clear_unusable() {
    rm -rf "$workplace"
    [ -f "$program/pyvenv.cfg" ] || return 0
    if [ ! -e "$program/.installing" ] && "$python" -c 'import pip' 2>/dev/null; then return; fi
    [ "$source_dir" != "$kept_source" ] ||
        die "$program must be made anew, and $source_dir lies in it: cp -r $source_dir ~/midge, then run this from there"
    say "$program was left unfinished, or is for another Python: making it anew"
    rm -rf "$program"
}

# What is needed of Debian's, and whether there is room for all that is to come.
prepare() {
    clear_unusable
    check_space /opt "$(room_mb)" /var "$var_mb"
    need_packages "${packages[@]}"
    check_python
}

# One party's folder of `midge certs`: whether it can be used, with the remedy if not.
check_certificates() { # folder, what makes it
    local folder=$1 file said
    for file in openssl python3; do command -v "$file" >/dev/null || prepare; done
    [ -d "$folder" ] || die "there is no folder $folder: give the one that $2 made"
    [ ! -d "$folder/nodes" ] ||
        die "$folder holds the authority's own key, which stays where it was made: give $folder/nodes/NAME"
    for file in ca.pem cert.pem key.pem; do
        [ -f "$folder/$file" ] || die "$folder has no $file: give the folder that $2 made"
    done
    [ "$(openssl x509 -in "$folder/cert.pem" -noout -pubkey)" = "$(openssl pkey -in "$folder/key.pem" -pubout)" ] ||
        die "$folder: key.pem is not the key of cert.pem: make the folder again with $2"
    if ! said="$(openssl verify -CAfile "$folder/ca.pem" "$folder/cert.pem" 2>&1)"; then
        case "$said" in
            *"not yet valid"*) die "$folder/cert.pem is not valid yet, and the clock says $(date -I): set it with timedatectl" ;;
            *expired*) die "$folder/cert.pem has expired, unless the clock ($(date -I)) is wrong: make a new one with $2" ;;
            *) die "$folder/cert.pem is not signed by ca.pem beside it: make the folder again with $2" ;;
        esac
    fi
}

# The program

need_packages() {
    local missing=() name
    for name in "$@"; do
        # ${...} is dpkg's.
        # shellcheck disable=SC2016
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    if [ ${#missing[@]} = 0 ]; then return; fi
    say "installing from Debian: ${missing[*]}"
    # A source that does not answer is no end: often it is some other one.
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get could not install ${missing[*]}: see above"
}

# One line for all that is installed from: the same line, the same program.
fingerprint() {
    (cd "$source_dir" && find -L aggregator edge_node midge shared mosquitto pyproject.toml constraints.txt \
        -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
}

# How much room the program needs: the whole of it, or what an upgrade takes.
room_mb() { if [ -f "$program/.installed" ]; then echo "$upgrade_mb"; else echo "$program_mb"; fi; }

install_program() { # extras
    local stamp="$program/.installed" wanted
    wanted="$(fingerprint)"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        say "the program in $program is up to date"
        link_command
        return
    fi
    if [ -d "$program" ] && [ ! -f "$program/pyvenv.cfg" ] && [ -n "$(ls -A "$program")" ]; then
        die "$program is there and is nothing of Midge's: move it away"
    fi
    [ -x "$program/bin/pip" ] || python3 -m venv "$program" || die "could not make $program: see above"
    mkdir -p "$workplace/source" "$workplace/tmp"
    trap 'rm -rf "$workplace"' EXIT
    copy_source "$workplace/source" || die "could not write to /opt: see above; nothing was changed"
    only_cpu >"$workplace/constraints.txt"
    say "installing into $program: on a first run 200 MB to download, 1.1 GB on disk, some minutes"
    touch "$program/.installing"
    if ! pip_install "$1"; then
        if [ ! -f "$program/.installed" ]; then rm -rf "$program"; else rm "$program/.installing"; fi
        explain_pip
    fi
    "$python" -c 'import midge.cli, torch; torch.ones(2) @ torch.ones(2)' ||
        die "what was installed does not run on this machine: see above"
    if [ "$source_dir" != "$kept_source" ]; then
        rm -rf "$kept_source"
        mkdir -p "$kept_source"
        copy_source "$kept_source" || die "could not write to /opt: see above"
    fi
    link_command
    mkdir -p "$settings"
    touch "$mark" "$upgraded"
    rm "$program/.installing"
    printf '%s\n' "$wanted" >"$stamp"
    rm -rf "$workplace"
}

link_command() {
    [ "$(readlink /usr/local/bin/midge)" = "$program/bin/midge" ] || ln -sfn "$program/bin/midge" /usr/local/bin/midge
}

# pip builds where it is told to, and would leave its files in the clone. Links become files: scp cannot copy them.
copy_source() {
    (cd "$source_dir" && tar -ch --exclude=__pycache__ aggregator edge_node midge shared mosquitto deploy \
        pyproject.toml constraints.txt README.md LICENSE) | tar -x --no-same-owner -C "$1"
}

# On x86-64 the plain torch brings gigabytes of CUDA. No index but the one for CPUs has "+cpu" in its versions,
# so that nothing else can be meant.
only_cpu() {
    sed -E 's/^(torch==[0-9.]+); platform_machine == "x86_64"/\1+cpu; platform_machine == "x86_64"/' \
        "$source_dir/constraints.txt"
}

pip_install() { # extras
    local index=()
    # Asked beforehand: pip would try each package there again and again.
    if [ -n "$torch_index" ] && timeout 10 python3 -c \
            'import sys, urllib.request as r; r.urlopen(sys.argv[1] + "/torch/")' "${torch_index%/}" &>/dev/null; then
        index=(--extra-index-url "$torch_index")
    fi
    # From within $workplace: of the folder it is called from pip knows nothing.
    (cd "$workplace" && TMPDIR="$workplace/tmp" "$program/bin/pip" install --no-cache-dir --progress-bar off \
        "./source[$1]" -c constraints.txt "${index[@]}" 2>&1) |
        tee "$workplace/log" | sed -un 's/^ *Downloading \([^ -]*\).*/  downloading \1/p'
}

explain_pip() {
    local old=
    if [ -d "$program" ]; then old="; the version that was there goes on"; fi
    grep -h '^ERROR' "$workplace/log" | cut -c -300 >&2 || tail -n 5 "$workplace/log" >&2
    if grep -q 'No space left on device' "$workplace/log"; then
        die "/opt is full: make room, then run this again$old"
    elif grep -q 'No matching distribution found for torch\|(constraint) torch==' "$workplace/log"; then
        die "found no torch for CPUs, and the other brings gigabytes of CUDA: is $torch_index within reach?" \
            "--torch-index URL names another such index, find-links in /etc/pip.conf a folder with the wheel$old"
    fi
    die "pip could not install Midge: see above. Run this again when it is mended$old"
}

# Files

# Install a file unless it is there just so: mode, owner, source, target. Says what it wrote.
put() {
    local mode=$1 owner=$2 from=$3 to=$4
    if [ -f "$to" ] && cmp -s "$from" "$to" && [ "$(stat -c '0%a %U:%G' "$to")" = "$mode $owner" ]; then return; fi
    touch "$mark"
    install -D -m "$mode" -o "${owner%:*}" -g "${owner#*:}" "$from" "$to"
    say "wrote $to"
}

put_certificates() { # from a folder of `midge certs`
    install -d -m 0700 "$settings/$side"
    put 0644 root:root "$1/ca.pem" "$settings/$side/ca.pem"
    put 0644 root:root "$1/cert.pem" "$settings/$side/cert.pem"
    put 0600 root:root "$1/key.pem" "$settings/$side/key.pem"
}

# The settings, once: after that they are their owner's.
put_settings() { # from
    local to="$settings/$side.toml"
    if [ ! -f "$to" ]; then
        put 0644 root:root "$1" "$to"
    elif ! cmp -s "$1" "$to"; then
        say "kept $to, though $1 is another: it is yours to edit, or remove it and run this again"
    fi
}

# Whether Midge can read them, and for whom the certificate is.
check_settings() { # module
    local to="$settings/$side.toml"
    "$python" - "$1" "$to" <<'PYTHON' || die "mend $to, then run this again"
import importlib, pathlib, sys
from shared.config import load
from shared.errors import ConfigError

try:
    load(importlib.import_module(sys.argv[1]).Config, pathlib.Path(sys.argv[2]), "MIDGE_NONE_", {})
except ConfigError as error:
    sys.exit(f"error: {error}")
PYTHON
}

# The name that the broker will know a certificate by.
name_in() { openssl x509 -in "$1" -noout -subject -nameopt multiline | sed -n 's/^ *commonName *= //p'; }

setting_in() { # file, key
    python3 -c 'import sys, tomllib; print(tomllib.load(open(sys.argv[1], "rb")).get(sys.argv[2], ""))' "$1" "$2"
}

# Units

put_units() {
    local unit drop_in="$units/midge-$side.service.d/plain.conf" name
    for unit in "midge-$side.service" "midge-$side@.service" midge-.service.d/00-common.conf; do
        put 0644 root:root "$source_dir/deploy/systemd/$unit" "$units/$unit"
    done
    # Older ones would complain about its words at every start.
    if [ "$(systemctl --version 2>/dev/null | awk 'NR == 1 { print int($2) }')" -ge 254 ] 2>/dev/null; then
        put 0644 root:root "$source_dir/deploy/systemd/backoff.conf" "$units/midge-.service.d/05-backoff.conf"
    fi
    if [ -n "$plain" ]; then
        name="MIDGE_${side^^}_BROKER__"
        printf '%s\n' "# No certificates: written by install-$side.sh --plain, gone when it is given some." \
            '[Service]' 'LoadCredential=' \
            "UnsetEnvironment=${name}CA_FILE ${name}CERT_FILE ${name}KEY_FILE" >"$settings/.plain"
        put 0644 root:root "$settings/.plain" "$drop_in"
        rm "$settings/.plain"
    elif [ -f "$drop_in" ]; then
        touch "$mark"
        rm "$drop_in"
    fi
}

# Start the service, or again when something of it is new, and tell how it is.
start_service() {
    local unit="midge-$side.service" state module by_hand
    module="$([ "$side" = node ] && echo edge_node || echo aggregator)"
    by_hand="cd $settings/$side && MIDGE_${side^^}_STATE_DIR=/var/lib/midge-$side $python -m $module --config ../$side.toml"
    if ! has_systemd; then
        install -d -m 0700 "$settings/$side" "/var/lib/midge-$side"
        mkdir -p "$units/multi-user.target.wants"
        ln -sfn "$units/$unit" "$units/multi-user.target.wants/$unit"
        say "no systemd runs here, so nothing was started; at the next boot it will be. By hand:"
        say "  $by_hand"
        return
    fi
    if [ -e "$mark" ]; then systemctl daemon-reload; fi
    if [ -z "$start" ]; then
        say "not started; type: systemctl enable --now $unit"
        return
    fi
    # Whatever else of Midge runs here runs the same program: the other side, instances of the templates.
    if [ -e "$upgraded" ]; then systemctl try-restart --no-block 'midge-*.service'; fi
    rm -f "$upgraded"
    systemctl enable --quiet "$unit"
    if [ ! -e "$mark" ] && systemctl --quiet is-active "$unit"; then
        say "$unit runs, and nothing was changed"
        return
    fi
    # Comes back when the broker has let us in, or could not. The start goes on after this gives up waiting.
    say "starting $unit; waiting until the broker has let it in, for a minute at most"
    if timeout 60 systemctl restart "$unit" 2>/dev/null; then state=up; else state="$(systemctl is-active "$unit" || true)"; fi
    rm -f "$mark"
    say "  $(last_line "$unit")"
    say "look on with: journalctl -u midge-$side -f     or: systemctl status midge-$side"
    case "$state" in
        up) say "$unit is active" ;;
        activating) say "$unit is not active yet: it goes on trying, now and after every boot" ;;
        *) die "$unit could not start: see the line above" ;;
    esac
}

# The service's own, not what systemd says of it.
last_line() {
    journalctl --sync
    journalctl "_SYSTEMD_UNIT=$1" --output cat --quiet --lines 1 --no-pager
}

# Away with it

remove() { # further files of this side
    local other=aggregator unit
    if [ "$side" = aggregator ]; then other=node; fi
    if [ -n "$purge" ] && [ -z "$yes" ]; then
        [ -t 0 ] || die "--purge deletes settings, keys, state and the data in /var/lib/midge-$side for good: say so with --yes"
        read -r -p "delete $settings/$side*, /var/lib/midge-$side*, own data in it too, and /var/cache/midge-$side* for good? [y/N] " answer
        [ "$answer" = y ] || die "nothing was removed"
    fi
    if has_systemd; then
        for unit in $(systemctl list-units --all --plain --no-legend "midge-$side.service" "midge-$side@*.service" |
                awk '{ print $1 }'); do
            systemctl disable --now --quiet "$unit" 2>/dev/null || systemctl stop "$unit" || true
        done
    fi
    rm -f "$units/midge-$side.service" "$units/midge-$side@.service" "$units/multi-user.target.wants/midge-$side"*
    rm -rf "$units/midge-$side.service.d/plain.conf"
    rmdir --ignore-fail-on-non-empty "$units/midge-$side.service.d" 2>/dev/null || true
    if [ ! -f "$units/midge-$other.service" ]; then
        rm -f "$units"/midge-.service.d/{00-common,05-backoff}.conf /usr/local/bin/midge
        rmdir --ignore-fail-on-non-empty "$units/midge-.service.d" 2>/dev/null || true
        rm -rf "$program" "$workplace"
        say "removed $program, /usr/local/bin/midge and the units"
    else
        say "removed the units; $program stays for midge-$other"
    fi
    if has_systemd; then systemctl daemon-reload; fi
    if [ -n "$purge" ]; then
        rm -rf "${settings:?}/$side" "${settings:?}/$side".* "${settings:?}/$side"@*
        rm -rf /var/lib/{,private/}"midge-$side"{,@*} /var/cache/{,private/}"midge-$side"{,@*}
        rmdir --ignore-fail-on-non-empty "$settings" 2>/dev/null || true
        say "removed $settings/$side*, /var/lib/midge-$side and /var/cache/midge-$side"
    else
        say "kept $settings/$side* and /var/lib/midge-$side (updates that wait, the model): --purge deletes them too"
    fi
}

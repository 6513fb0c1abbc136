#!/usr/bin/env bash
# The host of a federation on a Debian machine: broker and aggregator, as services that start at every boot, and
# the certificates of everybody.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: sudo deploy/install-aggregator.sh [OPTIONS]

Installs Midge into /opt/midge, the service midge-aggregator, and Mosquitto with certificates: those of broker,
aggregator and nodes are made in a folder that you keep (`midge certs`). Run it again from a newer clone to
upgrade, with another --node to make one more folder, or after `midge certs revoke` to tell the broker.
For Debian 12 or newer and 64-bit Raspberry Pi OS, amd64 or arm64.

  --host HOST            name or address at which nodes reach this machine; may be given several times
  --run RUN              the federation's name [lab]
  --node NAME            make this node's folder too; may be given several times
  --certificates DIR     where the folders are, or are to be made [where they were the last time, at first ./pki]
  --new-authority        take the authority in DIR, or make one there, though this machine has another: all nodes
                         are locked out until each has a new folder
  --plain                no certificates: everybody on the network is let in and can read and write everything
  --torch-index URL      where pip finds torch for CPUs [https://download.pytorch.org/whl/cpu]
  --no-start             install only
  --uninstall            stop it and remove it, and midge.conf from the broker; Mosquitto, what is in /etc/midge
                         and /etc/mosquitto/midge, and state stay
  --purge                with --uninstall: delete settings, the copies of certificates and state too
  --yes                  ask nothing
  -h, --help             this text

Example: sudo deploy/install-aggregator.sh --host 192.168.1.10 --run lab --node kitchen --node cellar
TEXT
}

side=aggregator
# shellcheck source=SCRIPTDIR/install-common.sh
. "$(dirname "${BASH_SOURCE[0]}")/install-common.sh"
readonly broker_files=/etc/mosquitto/midge
readonly broker_settings=/etc/mosquitto/conf.d/midge.conf
# Where the authority is, whatever folder this is called from.
readonly authority="$settings/aggregator.authority"

packages+=(mosquitto)

hosts=()
nodes=()
new_authority=
while [ $# -gt 0 ]; do
    case "$1" in
        --host) need_value "$@"; hosts+=("$2"); shift ;;
        --run) need_value "$@"; run=$2; shift ;;
        --node) need_value "$@"; nodes+=("$2"); shift ;;
        --certificates) need_value "$@"; certificates=$2; shift ;;
        --torch-index) need_value "$@"; torch_index=$2; shift ;;
        --new-authority) new_authority=yes ;;
        --plain) plain=yes ;;
        --no-start) start= ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        --yes) yes=yes ;;
        -h | --help) usage; exit ;;
        *) die "there is no option $1: see $0 -h" ;;
    esac
    shift
done
[ -z "$plain" ] || [ -z "$certificates$new_authority${hosts[*]}${nodes[*]}" ] ||
    die "--plain means no certificates: leave out --certificates, --host and --node"
[ -z "$purge" ] || [ -n "$uninstall" ] || die "--purge goes with --uninstall"

# Folders are made as whoever called sudo, whose they are: as if `midge certs` had been typed by hand.
as_caller() {
    if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
        runuser -u "$SUDO_USER" -- "$@"
    else
        "$@"
    fi
}

# What to install with, from the options, from what is there already, or from whoever sits here.
find_out() {
    local host=
    if [ -z "$certificates$plain" ] && [ -f "$units/midge-aggregator.service.d/plain.conf" ]; then plain=yes; fi
    if [ -n "$plain" ]; then
        if [ ! -f "$settings/aggregator.toml" ]; then ask run 'name of the federation' lab '--run RUN'; fi
        return
    fi
    if [ -z "$certificates" ]; then certificates="$(cat "$authority" 2>/dev/null || echo pki)"; fi
    certificates="$(realpath -m "$certificates")"
    [ -n "$new_authority" ] || [ ! -f "$settings/aggregator/ca.pem" ] ||
        cmp -s "$settings/aggregator/ca.pem" "$certificates/ca.pem" ||
        die "the authority of this machine is not in $certificates: --certificates DIR says where it is." \
            "--new-authority replaces it, and locks out all nodes until they have new folders"
    # The last one that is made of the broker's folder.
    if [ -f "$certificates/ca.pem" ] && [ -f "$certificates/broker/crl.pem" ]; then return; fi
    if [ ${#hosts[@]} = 0 ]; then
        ask host 'name or address at which nodes reach this machine' "$(hostname -I 2>/dev/null | awk '{ print $1 }')" '--host HOST'
        hosts=("$host")
    fi
    [ -f "$certificates/ca.pem" ] || ask run 'name of the federation' lab '--run RUN'
}

# What is not there yet; the paths that `midge certs` says are for those who go on by hand.
make_certificates() {
    local name options=()
    if [ ! -f "$certificates/ca.pem" ]; then
        for name in "${hosts[@]}"; do options+=(--host "$name"); done
        make_folder "$certificates: the authority, and the broker's for ${hosts[*]}" init "${options[@]}" --run "$run"
    elif [ ! -f "$certificates/broker/crl.pem" ]; then
        # Cut off in the middle of it.
        for name in "${hosts[@]}"; do options+=(--host "$name"); done
        make_folder "$certificates/broker for ${hosts[*]}" broker --renew "${options[@]}"
    fi
    [ "$(cat "$authority" 2>/dev/null)" = "$certificates" ] || printf '%s\n' "$certificates" >"$authority"
    if [ ! -f "$certificates/aggregator/cert.pem" ]; then
        make_folder "$certificates/aggregator" aggregator
    fi
    for name in "${nodes[@]}"; do
        if [ ! -f "$certificates/nodes/$name/cert.pem" ]; then
            make_folder "$certificates/nodes/$name" node "$name"
        fi
    done
}

make_folder() { # what, arguments of midge certs
    local what=$1
    shift
    as_caller "$program/bin/midge" certs "$@" --out "$certificates" >/dev/null || die "made no $what: see above"
    say "made $what"
}

put_broker() {
    local mark="$settings/aggregator.restart-broker"
    if [ -n "$plain" ]; then
        put 0644 root:root "$source_dir/mosquitto/lan.conf" "$broker_settings"
    elif [ -n "$certificates" ]; then
        local file
        # Mosquitto reads them after it has become its own user.
        install -d -o mosquitto -g mosquitto -m 0700 "$broker_files"
        for file in ca.pem cert.pem key.pem crl.pem acl; do
            put 0600 mosquitto:mosquitto "$certificates/broker/$file" "$broker_files/$file"
        done
        put 0644 root:root "$certificates/broker/midge.conf" "$broker_settings"
        compare_rules acl acl
        compare_rules midge.conf field.conf
    fi
    if has_systemd; then
        systemctl enable --quiet mosquitto
        if [ -e "$mark" ] || ! systemctl --quiet is-active mosquitto; then
            systemctl restart mosquitto ||
                die "Mosquitto does not start: journalctl -u mosquitto, or try mosquitto -c /etc/mosquitto/mosquitto.conf"
            rm -f "$mark"
            say "mosquitto.service is active"
        fi
    elif [ -e "$mark" ]; then
        say "no systemd runs here. The broker by hand: mosquitto -d -c /etc/mosquitto/mosquitto.conf"
    fi
}

# The broker's folder is its owner's to edit, so a correction in a newer version does not come by itself.
compare_rules() { # file there, file of this version
    local own="$certificates/broker/$1" ours="$source_dir/mosquitto/$2" lacking
    lacking="$(grep -vE '^(#|$)' "$ours" | grep -vxFf "$own" || true)"
    if [ -n "$lacking" ]; then
        say "kept $own, though this version's $ours has lines that are not in it: take them over, then run this again"
    fi
}

remove_broker() {
    if [ -f "$broker_settings" ]; then
        rm "$broker_settings"
        if has_systemd; then systemctl try-restart mosquitto || true; fi
        say "removed $broker_settings; Mosquitto itself stays: apt-get remove mosquitto"
    fi
    if [ -z "$purge" ] || [ ! -d "$broker_files" ]; then return; fi
    # What is more there, such as passwords, is not from here.
    rm -f "$broker_files"/{ca,cert,key,crl}.pem "$broker_files/acl"
    rmdir --ignore-fail-on-non-empty "$broker_files"
}

write_settings() {
    cat >"$settings/.aggregator.toml" <<TOML
# The aggregator's settings; all there are is in aggregator/config.py.
# After a change: systemctl restart midge-aggregator
run = "$run"
task = "mnist"

[rounds]
rounds = 0  # without end
TOML
    put_settings "$settings/.aggregator.toml"
    rm "$settings/.aggregator.toml"
}

say_what_next() {
    local name
    for name in "${nodes[@]}"; do
        say "for the node $name, from $PWD:"
        say "  scp -r $kept_source $(realpath --relative-to=. "$certificates/nodes/$name") USER@MACHINE:"
        say "  ssh -t USER@MACHINE 'sudo midge/deploy/install-node.sh $name && rm -r $name'"
    done
}

check_root
if [ -n "$uninstall" ]; then
    remove
    remove_broker
    exit
fi
check_machine
find_out
prepare
install_program torch
install -d "$settings"
if [ -n "$certificates" ]; then
    make_certificates
    check_certificates "$certificates/aggregator" 'midge certs aggregator'
    put_broker
    put_certificates "$certificates/aggregator"
    put_settings "$certificates/aggregator/aggregator.toml"
else
    put_broker
    if [ -n "$run" ]; then write_settings; fi
fi
check_settings aggregator.config
put_units
start_service
say_what_next

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
  --certificates DIR     where the folders are, or are to be made [./pki]
  --plain                no certificates: everybody on the network is let in and can read and write everything
  --torch-index URL      where pip finds torch for CPUs [https://download.pytorch.org/whl/cpu]
  --no-start             install only
  --uninstall            stop it and remove it; Mosquitto, settings, certificates and state stay
  --purge                with --uninstall: delete settings, the aggregator's certificate and state too
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

packages+=(mosquitto)

hosts=()
nodes=()
while [ $# -gt 0 ]; do
    case "$1" in
        --host) need_value "$@"; hosts+=("$2"); shift ;;
        --run) need_value "$@"; run=$2; shift ;;
        --node) need_value "$@"; nodes+=("$2"); shift ;;
        --certificates) need_value "$@"; certificates=$2; shift ;;
        --torch-index) need_value "$@"; torch_index=$2; shift ;;
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
[ -z "$plain" ] || [ -z "$certificates${hosts[*]}${nodes[*]}" ] ||
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
    certificates="$(realpath -m "${certificates:-pki}")"
    if [ -f "$certificates/ca.pem" ]; then return; fi
    if [ -f "$settings/aggregator/key.pem" ] && [ ${#hosts[@]} = 0 ]; then
        [ ${#nodes[@]} = 0 ] || die "there is no $certificates to make a node's folder in: --certificates DIR says where it is"
        say "there is no $certificates: the certificates stay as they are"
        certificates=
        return
    fi
    if [ ${#hosts[@]} = 0 ]; then
        ask host 'name or address at which nodes reach this machine' "$(hostname -I 2>/dev/null | awk '{ print $1 }')" '--host HOST'
        hosts=("$host")
    fi
    ask run 'name of the federation' lab '--run RUN'
}

# What is not there yet; the paths that `midge certs` says are for those who go on by hand.
make_certificates() {
    local name options=()
    if [ ! -f "$certificates/ca.pem" ]; then
        for name in "${hosts[@]}"; do options+=(--host "$name"); done
        make_folder "$certificates: the authority, and the broker's for ${hosts[*]}" init "${options[@]}" --run "$run"
    fi
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
    local before=$restart
    restart=
    if [ -n "$plain" ]; then
        put 0644 root:root "$source_dir/mosquitto/lan.conf" "$broker_settings"
    elif [ -n "$certificates" ]; then
        local file
        install -d -m 0755 "$broker_files"
        for file in ca.pem cert.pem crl.pem acl; do
            put 0644 root:root "$certificates/broker/$file" "$broker_files/$file"
        done
        # Mosquitto reads it after it has become its own user.
        put 0640 root:mosquitto "$certificates/broker/key.pem" "$broker_files/key.pem"
        put 0644 root:root "$certificates/broker/midge.conf" "$broker_settings"
    fi
    if has_systemd; then
        systemctl enable --quiet mosquitto
        if [ -n "$restart" ] || ! systemctl --quiet is-active mosquitto; then
            systemctl restart mosquitto ||
                die "Mosquitto does not start: journalctl -u mosquitto, or try mosquitto -c /etc/mosquitto/mosquitto.conf"
            say "mosquitto.service is active"
        fi
    elif [ -n "$restart" ]; then
        say "no systemd runs here. The broker by hand: mosquitto -d -c /etc/mosquitto/mosquitto.conf"
    fi
    restart=$before
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
        say "  ssh -t USER@MACHINE sudo midge/deploy/install-node.sh $name"
    done
}

check_root
if [ -n "$uninstall" ]; then
    remove
    if [ -f "$broker_settings" ]; then
        rm -f "$broker_settings"
        rm -rf "$broker_files"
        if has_systemd; then systemctl try-restart mosquitto || true; fi
        say "removed $broker_settings and $broker_files; Mosquitto itself stays: apt-get remove mosquitto"
    fi
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

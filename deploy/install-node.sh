#!/usr/bin/env bash
# A node of a federation on a Raspberry Pi or another Debian machine, as a service that starts at every boot.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: sudo deploy/install-node.sh [FOLDER] [OPTIONS]

Installs Midge into /opt/midge and the service midge-node, which trains on this machine's data and sends
updates; the data stays here. FOLDER is what `midge certs node NAME` made: certificate, key and settings. Run
it again from a newer clone to upgrade, or with a newer FOLDER to change the certificate; without arguments
it asks. For Raspberry Pi OS (64 bit) and Debian 12 or newer, amd64 or arm64.

  --certificates DIR     the same as FOLDER
  --plain                a broker without certificates, on a network where every machine is trusted
  --broker HOST[:PORT]   where the broker is, when FOLDER does not say it; port 8883, with --plain 1883
  --name NAME            this node's name; no two nodes of a run share one
  --run RUN              the federation's name
  --torch-index URL      where pip finds torch for CPUs [https://download.pytorch.org/whl/cpu]
  --no-start             install only
  --uninstall            stop it and remove it; settings, certificates and state stay
  --purge                with --uninstall: delete those too, and the data in /var/lib/midge-node
  --yes                  ask nothing
  -h, --help             this text

Example: sudo deploy/install-node.sh kitchen
TEXT
}

side=node
# shellcheck source=SCRIPTDIR/install-common.sh
. "$(dirname "${BASH_SOURCE[0]}")/install-common.sh"

broker=
name=
while [ $# -gt 0 ]; do
    case "$1" in
        --certificates) need_value "$@"; certificates=$2; shift ;;
        --broker) need_value "$@"; broker=$2; shift ;;
        --name) need_value "$@"; name=$2; shift ;;
        --run) need_value "$@"; run=$2; shift ;;
        --torch-index) need_value "$@"; torch_index=$2; shift ;;
        --plain) plain=yes ;;
        --no-start) start= ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        --yes) yes=yes ;;
        -h | --help) usage; exit ;;
        -*) die "there is no option $1: see $0 -h" ;;
        *)
            [ -z "$certificates" ] || die "one folder is enough: $certificates or $1"
            certificates=$1
            ;;
    esac
    shift
done
[ -z "$plain" ] || [ -z "$certificates" ] || die "--plain means no certificates: leave out one of them"
[ -z "$purge" ] || [ -n "$uninstall" ] || die "--purge goes with --uninstall"

# What to install with, from the options, from what is there already, or from whoever sits here.
find_out() {
    local mode=tls
    if [ -z "$certificates$plain" ] && [ -f "$settings/node.toml" ]; then
        if [ -f "$units/midge-node.service.d/plain.conf" ]; then plain=yes; fi
        if [ -n "$plain" ] || [ -f "$settings/node/key.pem" ]; then return; fi
    fi
    if [ -z "$certificates$plain" ]; then
        ask certificates 'folder made by midge certs node NAME' '' 'the folder that midge certs node NAME made, or --plain'
    fi
    if [ -n "$plain" ]; then
        mode=plain
    else
        certificates="$(realpath -m "$certificates")"
        check_certificates "$certificates" 'midge certs node NAME'
        [ ! -f "$certificates/aggregator.toml" ] || die "$certificates is the aggregator's: give that of a node"
    fi
    if [ -n "$certificates" ] && [ -f "$certificates/node.toml" ]; then
        [ -z "$broker$name$run" ] || die "$certificates/node.toml says broker, name and run: leave the options out, or edit it"
        return
    fi
    if [ -f "$settings/node.toml" ]; then return; fi
    ask broker 'host of the broker' '' '--broker HOST[:PORT]'
    ask name 'name of this node' "$(hostname)" '--name NAME'
    ask run 'name of the federation' lab '--run RUN'
    # An address of IPv6 has colons of its own: only behind brackets is there a port.
    if [[ "$broker" =~ ^([^:]+|\[.+\]):([0-9]+)$ ]]; then
        port="${BASH_REMATCH[2]}"
        broker="${BASH_REMATCH[1]}"
    else
        port="$([ "$mode" = plain ] && echo 1883 || echo 8883)"
    fi
    broker="${broker#[}"
    broker="${broker%]}"
    [[ "$broker" =~ ^[A-Za-z0-9_.:%-]+$ ]] || die "--broker $broker is no host: give HOST or HOST:PORT, without mqtt://"
    [[ "$name" =~ ^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$ ]] || die "--name $name: letters, digits, _ . -, 64 at most"
    [[ "$run" =~ ^[A-Za-z0-9_.-]+$ ]] || die "--run $run: letters, digits, _ . -"
}

# The broker knows a node by the name in its certificate, and lets it speak for no other.
check_name() {
    local certified file="$settings/node.toml"
    certified="$(name_in "$certificates/cert.pem")"
    if [ ! -f "$file" ]; then file="$certificates/node.toml"; fi
    if [ -f "$file" ]; then name="$(setting_in "$file" name)"; else file=--name; fi
    [ "$certified" = "$name" ] ||
        die "$certificates is the certificate of $certified, and this node is $name ($file): make them the same"
}

write_settings() {
    cat >"$settings/.node.toml" <<TOML
# This node's settings; all there are is in edge_node/config.py. After a change: systemctl restart midge-node
run = "$run"
name = "$name"

[broker]
host = "$broker"
port = $port
TOML
    put_settings "$settings/.node.toml"
    rm "$settings/.node.toml"
}

check_root
if [ -n "$uninstall" ]; then
    remove
    exit
fi
check_machine
find_out
if [ -n "$certificates" ]; then check_name; fi
prepare
install_program torch
install -d "$settings"
if [ -n "$certificates" ]; then put_certificates "$certificates"; fi
if [ -n "$certificates" ] && [ -f "$certificates/node.toml" ]; then
    put_settings "$certificates/node.toml"
elif [ -n "$broker" ]; then
    write_settings
fi
check_settings edge_node.config
put_units
start_service

#!/usr/bin/env bash
# What the tests need from Debian: other people's verifiers and servers, and a clock that can be set for one process.
# Installs what is missing when it may, or says what to install. `all` is what the slow tests need beside it.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
needed="openssl:openssl certtool:gnutls-bin ocsptool:gnutls-bin faketime:faketime curl:curl nginx:nginx haproxy:haproxy socat:socat node:nodejs"
[ "${1:-}" = all ] && needed="$needed javac:default-jdk-headless"
missing=""
for pair in $needed; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    if [ ! -e /usr/sbin/policy-rc.d ]; then # nginx and haproxy would be started, on the ports of whoever installs them
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
    fi
    apt-get update -qq >/dev/null
    # shellcheck disable=SC2086  # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $missing >/dev/null
    exit 0
fi
echo "the tests need these programs; install them first:$missing" >&2
exit 1

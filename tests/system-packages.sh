#!/usr/bin/env bash
# What the tests need from Debian: other people's verifiers, and a clock that can be set for one process. Installs what is missing when it may, or says what to install.
set -eu
needed="openssl:openssl certtool:gnutls-bin ocsptool:gnutls-bin faketime:faketime"
missing=""
for pair in $needed; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq >/dev/null
    # shellcheck disable=SC2086  # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    exit 0
fi
echo "the tests need these programs; install them first:$missing" >&2
exit 1

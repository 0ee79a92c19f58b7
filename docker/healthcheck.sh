#!/bin/sh
# Exit 0 when the daemon of this container is ready. Silent: the engine keeps only the status.
set -u

if [ -n "${KHEISH_HEALTHCHECK_URL:-}" ]; then
    url=$KHEISH_HEALTHCHECK_URL
else
    # The daemon writes where it really listens; until it does, what it was told is the best guess.
    address=$(cat "${KHEISH_BOUND_ADDRESS_FILE:-/run/kheish/address}" 2>/dev/null) || address=${KHEISH_BIND:-0.0.0.0:4000}
    port=${address##*:}
    case ${address%:*} in
        0.0.0.0 | '' | localhost) host=127.0.0.1 ;;
        '[::]' | ::) host='[::1]' ;;
        '['*) host=${address%:*} ;;
        *:*) host="[${address%:*}]" ;;
        *) host=${address%:*} ;;
    esac
    url=http://$host:$port/readyz
fi
# Its own settings, not those of a .curlrc that an agent may have left in HOME; a redirect is no yes.
status=$(curl --disable --silent --globoff --noproxy '*' --max-time 4 --output /dev/null --write-out '%{http_code}' "$url")
case $status in
    2??) exit 0 ;;
esac
exit 1

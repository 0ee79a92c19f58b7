#!/bin/sh
# Refuses unsafe set-ups before the daemon starts, then becomes the daemon. Prints paths, never what is in them.
#
#   kheish-entrypoint [words]         check, then run `kheish-daemon` with these words (none: serve)
#   kheish-entrypoint check [words]   say as JSON what would be refused; changes nothing
set -u
umask 077

refusals=0
as_json=
json_refusals=
json_warnings=

# A path may hold anything; a line stays one line.
one_line() { printf '%s' "$1" | tr -d '\000-\037\177'; }
quoted() { printf '"%s"' "$(one_line "$1" | sed 's/[\\"]/\\&/g')"; }

refuse() { # check text
    refusals=$((refusals + 1))
    if [ -n "$as_json" ]; then
        json_refusals="${json_refusals}${json_refusals:+, }{\"check\": $1, \"text\": $(quoted "$2")}"
    else
        printf 'kheish-entrypoint: %s\n' "$(one_line "$2")" >&2
    fi
}

warn() { # text
    if [ -n "$as_json" ]; then
        json_warnings="${json_warnings}${json_warnings:+, }$(quoted "$1")"
    else
        printf 'kheish-entrypoint: warning: %s\n' "$(one_line "$1")" >&2
    fi
}

finish_refusing() {
    if [ -n "$as_json" ]; then
        if [ "$refusals" -eq 0 ]; then ok=true; else ok=false; fi
        printf '{"ok": %s, "refusals": [%s], "warnings": [%s]}\n' "$ok" "$json_refusals" "$json_warnings"
    fi
    if [ "$refusals" -gt 0 ]; then exit 64; fi
    if [ -n "$as_json" ]; then exit 0; fi
}

truthy() { [ "$1" = true ] || [ "$1" = 1 ]; }

# Which command this is, found as the daemon's own command line does: global options and their values are passed over.
command_of() {
    while [ $# -gt 0 ]; do
        case $1 in
            --base-url | --token | --token-file | --output) [ $# -gt 1 ] || break; shift 2 ;;
            --base-url=* | --token=* | --token-file=* | --output=*) shift ;;
            -h | --help | -V | --version) echo help; return ;;
            -*) break ;;
            *) printf '%s\n' "$1"; return ;;
        esac
    done
    echo default
}

# Effective values: the last flag beats the environment, which beats the image's default; empty counts as unset.
read_flags() {
    while [ $# -gt 0 ]; do
        flag=${1%%=*}
        case $flag in
            --bind | --state-root | --workspace-root | --routes-file | --http-auth-mode | --http-admin-token \
                | --http-admin-token-file | --http-readonly-token | --http-readonly-token-file)
                if [ "$1" != "$flag" ]; then
                    value=${1#*=}
                elif [ $# -gt 1 ]; then
                    shift
                    value=$1
                else
                    refuse 1 "$flag requires a value; give it one, or leave the flag out"
                    return
                fi
                case $flag in
                    --bind) bind=$value ;;
                    --state-root) state_root=$value ;;
                    --workspace-root) workspace_root=$value ;;
                    --routes-file) routes_file=$value ;;
                    --http-auth-mode) auth_mode=$value ;;
                    --http-admin-token) admin=$value ;;
                    --http-admin-token-file) admin_file=$value ;;
                    --http-readonly-token) readonly=$value ;;
                    --http-readonly-token-file) readonly_file=$value ;;
                esac
                ;;
        esac
        shift
    done
}

check_absolute() { # check flag path
    case $3 in
        /*) return 0 ;;
    esac
    refuse "$1" "$2 must be an absolute path, and is '$3'; give one that starts with /"
    return 1
}

check_exclusive() { # check what inline-value file inline-variable file-variable
    if [ -n "$3" ] && [ -n "$4" ]; then
        refuse "$1" "the $2 is given by $5 and by $6 (or their flags): use one of them, not both"
    fi
}

owner_of() { stat -c 'owner %u:%g, mode %a' -- "$1" 2>/dev/null || echo 'not even visible'; }

# The path itself, or the nearest directory above it that this user can see.
nearest() {
    found=$1
    while [ ! -e "$found" ]; do found=$(dirname -- "$found"); done
    printf '%s\n' "$found"
}

missing() {
    seen=$(nearest "$1")
    [ "$seen" != "$1" ] && { [ ! -d "$seen" ] || [ -x "$seen" ]; }
}

check_file() { # check-regular check-readable name path remedy
    [ -n "$4" ] || return 0
    if missing "$4"; then
        refuse "$1" "$3 must point to a regular file, and $4 does not exist; mount one there"
    elif [ -d "$4" ]; then
        refuse "$1" "$3 must point to a regular file, and $4 is a directory, which engines make where the host has no such file; mount a file there"
    elif [ -e "$4" ] && [ ! -f "$4" ]; then
        refuse "$1" "$3 must point to a regular file, and $4 is none; mount one there"
    elif [ ! -r "$4" ]; then
        refuse "$2" "$3: $4 is not readable by uid $(id -u) ($(owner_of "$4")); $5"
    fi
}

check_secret_file() { # variable path
    check_file 9 10 "$1" "$2" \
        "give the file that owner and mode 0400, as the secrets-init service of docker/compose.yaml does"
}

warn_about() { # variable path
    [ -f "$2" ] && [ -r "$2" ] || return 0
    case $(stat -L -c %A -- "$2") in
        ???????r*) open=yes ;;
        ????r*)
            # Of the daemon's own group is how Kubernetes hands out secrets.
            case " $(id -G) " in
                *" $(stat -L -c %g -- "$2") "*) open= ;;
                *) open=yes ;;
            esac
            ;;
        *) open= ;;
    esac
    if [ -n "$open" ]; then
        warn "$1: others can read $2 ($(owner_of "$2")); give it mode 0400"
    fi
    case $(realpath -m -- "$2") in
        "$state"/*) warn "$1: $2 lies under the state root: a copy of the state holds its key; keep it elsewhere" ;;
    esac
}

check_secrets() {
    check_exclusive 6 "admin token" "$admin" "$admin_file" KHEISH_DAEMON_ADMIN_TOKEN KHEISH_DAEMON_ADMIN_TOKEN_FILE
    check_exclusive 7 "read-only token" "$readonly" "$readonly_file" \
        KHEISH_DAEMON_READONLY_TOKEN KHEISH_DAEMON_READONLY_TOKEN_FILE
    check_exclusive 8 "auth-store master key" "$master" "$master_file" \
        KHEISH_AUTH_STORE_MASTER_KEY KHEISH_AUTH_STORE_MASTER_KEY_FILE
    check_secret_file KHEISH_DAEMON_ADMIN_TOKEN_FILE "$admin_file"
    check_secret_file KHEISH_DAEMON_READONLY_TOKEN_FILE "$readonly_file"
    check_secret_file KHEISH_AUTH_STORE_MASTER_KEY_FILE "$master_file"
}

resolve_roots() {
    state=$(realpath -m -- "$state_root" 2>/dev/null || printf '%s' "$state_root")
    workspace=$(realpath -m -- "$workspace_root" 2>/dev/null || printf '%s' "$workspace_root")
}

inside() { # path of-what
    case ${1%/}/ in
        "${2%/}"/*) return 0 ;;
    esac
    return 1
}

check_apart() {
    if inside "$state" "$workspace" || inside "$workspace" "$state"; then
        refuse 11 "--state-root and --workspace-root must not resolve to the same directory, nor lie inside each other, and are $state and $workspace; give each a directory of its own, or tools reach the daemon's state"
    fi
}

usable() { [ -d "$1" ] && [ -r "$1" ] && [ -w "$1" ] && [ -x "$1" ]; }

check_root() { # path
    seen=$(nearest "$1")
    if usable "$seen"; then return; fi
    if [ -d "$1" ]; then
        refuse 14 "$1 is not writable by uid $(id -u) ($(owner_of "$1")); give it that owner, or use a named volume"
    else
        refuse 14 "$1 cannot be created by uid $(id -u) in $seen ($(owner_of "$seen")); mount a volume there, or give its parent that owner"
    fi
}

create_roots() {
    for root in "$state" "$workspace"; do
        mkdir -p -- "$root" 2>/dev/null || refuse 14 "$root cannot be created by uid $(id -u); mount a volume there"
    done
}

check_boundary() {
    case $bind in
        127.*:* | localhost:* | '[::1]':* | ::1:*) return ;;
    esac
    case $auth_mode in
        bearer) ;;
        auto) if ! truthy "$insecure"; then mode_refused=yes; fi ;;
        *) if truthy "$insecure"; then return; fi; mode_refused=yes ;;
    esac
    if [ -n "${mode_refused:-}" ]; then
        refuse 12 "non-loopback binds require bearer authentication: $bind with --http-auth-mode $auth_mode is open to the network. Use bearer and a token file; KHEISH_ALLOW_INSECURE_NON_LOOPBACK=true lets auto pass here, and the daemon still wants an admin token"
    elif [ -z "$admin" ] && [ -z "$admin_file" ]; then
        refuse 13 "the non-loopback bind $bind requires an admin token: set KHEISH_DAEMON_ADMIN_TOKEN_FILE (better) or KHEISH_DAEMON_ADMIN_TOKEN"
    fi
}

if [ "${1:-}" = check ]; then
    as_json=yes
    shift
fi

bind=${KHEISH_BIND:-0.0.0.0:4000}
state_root=${KHEISH_STATE_ROOT:-/var/lib/kheish/state}
workspace_root=${KHEISH_WORKSPACE_ROOT:-/workspace}
routes_file=${KHEISH_ROUTES_FILE:-}
auth_mode=${KHEISH_HTTP_AUTH_MODE:-bearer}
admin=${KHEISH_DAEMON_ADMIN_TOKEN:-}
admin_file=${KHEISH_DAEMON_ADMIN_TOKEN_FILE:-}
readonly=${KHEISH_DAEMON_READONLY_TOKEN:-}
readonly_file=${KHEISH_DAEMON_READONLY_TOKEN_FILE:-}
master=${KHEISH_AUTH_STORE_MASTER_KEY:-}
master_file=${KHEISH_AUTH_STORE_MASTER_KEY_FILE:-}
insecure=${KHEISH_ALLOW_INSECURE_NON_LOOPBACK:-false}

command=$(command_of "$@")
case $command in
    default | serve | start | up)
        read_flags "$@"
        roots_known=yes
        check_absolute 2 --state-root "$state_root" || roots_known=
        check_absolute 3 --workspace-root "$workspace_root" || roots_known=
        if [ -n "$routes_file" ] && check_absolute 4 --routes-file "$routes_file"; then
            check_file 5 5 --routes-file "$routes_file" "let that user read it"
        fi
        check_secrets
        resolve_roots
        if [ -n "$roots_known" ]; then check_apart; fi
        check_boundary
        if [ -n "$roots_known" ]; then
            check_root "$state"
            check_root "$workspace"
        fi
        warn_about KHEISH_DAEMON_ADMIN_TOKEN_FILE "$admin_file"
        warn_about KHEISH_DAEMON_READONLY_TOKEN_FILE "$readonly_file"
        warn_about KHEISH_AUTH_STORE_MASTER_KEY_FILE "$master_file"
        # Only a set-up that nothing speaks against leaves a trace.
        if [ "$refusals" -eq 0 ] && [ -z "$as_json" ]; then create_roots; fi
        ;;
    *) check_secrets ;;
esac
finish_refusing

if [ "$command" = default ]; then exec kheish-daemon serve "$@"; fi
exec kheish-daemon "$@"

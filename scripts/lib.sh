# shellcheck shell=bash
# Shared by the scripts: places, steps with their times, failures that help,
# packages, root rights, processes.  Sourced, never run.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034
PYTHON=/usr/bin/python3
SELF=${0#"$ROOT"/}
ARGS=("$@")
RUN=${COMMERCE_RUN:-$ROOT/.run}

# A service started below must not inherit these two, or `scripts/up | cat` never ends.
exec 3>&1 4>&2

if [ -t 3 ] && [ -z "${NO_COLOR-}" ]; then
    BOLD=$'\e[1m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
    BOLD='' RED='' GREEN='' PLAIN=''
fi


# --help is the comment at the top of the script.
help() {
    sed -n '2,${/^#/!q; s/^# \{0,1\}//p}' "$0"
}


say() {
    printf '%s\n' "$*" >&3
}


# Ends the script.  The second argument says what to do about it.
fail() {
    CAUSE=$1
    CURE=${2-}
    if [ "$BASH_SUBSHELL" -gt 0 ]; then
        printf '%s\n' "$CAUSE" ${CURE:+"$CURE"} >&2
    fi
    exit 1
}

CAUSE='' CURE='' STEP='' STEP_LOG='' REMARK=''


report_exit() {
    local code=$?

    if [ "$code" -eq 0 ]; then
        return
    fi

    # what a script that the step called has said of its end
    if [ -n "$STEP" ] && [ -z "$CAUSE" ] && [ -s "${COMMERCE_FAULT-}" ]; then
        { read -r CAUSE; read -r CURE; } <"$COMMERCE_FAULT"
    elif [ -z "$STEP" ] && [ -n "$CAUSE" ] && [ -n "${COMMERCE_FAULT-}" ]; then
        printf '%s\n%s\n' "$CAUSE" "$CURE" >"$COMMERCE_FAULT"
    fi
    if [ -n "$STEP" ]; then
        rm -f "${COMMERCE_FAULT-}"
    fi

    {
        if [ -n "$STEP" ]; then
            printf '\r%s%-12s failed%s\n' "$RED" "$STEP" "$PLAIN"
        fi
        printf '\n%s%s%s\n' "$BOLD" "${CAUSE:-${STEP:-$SELF}: a command ended with status $code}" "$PLAIN"
        if [ -n "$CURE" ]; then
            printf '%s\n' "$CURE"
        fi
        if [ -n "$STEP_LOG" ] && [ -s "$STEP_LOG" ]; then
            printf '\nLast lines of %s:\n' "$STEP_LOG"
            tail -n 15 "$STEP_LOG" | sed 's/^/    /'
        fi
        if [ -n "$STEP" ]; then
            printf '\nAgain: %s\n' "${SELF}${ARGS[*]:+ ${ARGS[*]}}"
        fi
    } >&4
}

trap report_exit EXIT


now() {
    local t=${EPOCHREALTIME/[.,]/}

    printf '%s' "$((t / 1000))"
}


seconds() {
    printf '%d.%d s' $(($1 / 1000)) $((($1 % 1000) / 100))
}


# Before the stack has its folder, the steps' logs are in a temporary one.
early_logs() {
    if [ ! -d "$RUN/logs" ]; then
        LOGS=$(mktemp -d)
    fi
}


keep_early_logs() {
    if [ "${LOGS:-$RUN/logs}" != "$RUN/logs" ]; then
        mv "$LOGS"/* "$RUN/logs/"
        rmdir "$LOGS"
    fi
}


# step NAME COMMAND...: one row of the table.  The command's output goes to a log of
# its own; it may set REMARK, shown at the row's end.  It is not run under `||` or
# `if`, where the shell would go on after an error.
step() {
    local began

    STEP=$1
    shift
    REMARK=''
    if [ -d "$RUN/logs" ]; then
        LOGS=$RUN/logs
    fi
    STEP_LOG=$LOGS/$(tr 'A-Z ' 'a-z-' <<<"$STEP").log
    export COMMERCE_FAULT=$STEP_LOG.fault
    began=$(now)
    if [ -t 3 ]; then
        printf '%-12s …' "$STEP" >&3
    fi

    : >"$STEP_LOG"
    rm -f "$COMMERCE_FAULT"
    "$@" >>"$STEP_LOG" 2>&1 </dev/null
    unset COMMERCE_FAULT

    if [ -t 3 ]; then
        printf '\r' >&3
    fi
    printf '%s%-12s%s %8s   %s\n' "$GREEN" "$STEP" "$PLAIN" \
        "$(seconds $(($(now) - began)))" "$REMARK" >&3
    STEP='' STEP_LOG=''
}


as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n "$@" || fail "This needs root: $*" \
            "Run it as root, or let sudo work without a question (sudo -v first)."
    else
        fail "This needs root, and there is no sudo: $*" "Run it as root once."
    fi
}


# The services run as the users that Debian gives them when we are root, and as
# ourselves otherwise.
run_as() {
    local user=$1

    shift
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --reuid="$user" --regid="$user" --init-groups -- "$@"
    else
        "$@"
    fi
}


service_user() {
    if [ "$(id -u)" -eq 0 ]; then
        printf '%s' "$1"
    else
        id -un
    fi
}


# need_packages LIST...: installs what is missing of scripts/packages/LIST.txt.
need_packages() {
    local -a wanted=() missing=()
    local list

    for list in "$@"; do
        mapfile -t -O "${#wanted[@]}" wanted \
            < <(sed 's/#.*//; s/[[:space:]]*$//; /^$/d' "$ROOT/scripts/packages/$list.txt")
    done

    mapfile -t missing < <(comm -13 \
        <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' 2>/dev/null \
            | sed -n 's/^installed //p' | sort -u) \
        <(printf '%s\n' "${wanted[@]}" | sort -u))

    if [ "${#missing[@]}" -eq 0 ]; then
        REMARK="all ${#wanted[@]} there"
        return
    fi

    if ! command -v apt-get >/dev/null; then
        fail "Missing: ${missing[*]}" "This machine has no apt-get; nginx-commerce is made for Debian 12."
    fi
    echo "installing: ${missing[*]}"
    as_root env ROOT="$ROOT" "$ROOT/scripts/install-packages" "${missing[@]}" \
        || fail "apt-get could not install ${missing[*]}" "Its last words say why; mend /etc/apt or the network."
    REMARK="${#missing[@]} of ${#wanted[@]} installed"
}


# A random word for passwords and keys.
secret() {
    od -An -N "${1:-24}" -tx1 /dev/urandom | tr -d ' \n'
}


is_port() {
    [[ $1 =~ ^[0-9]{1,5}$ ]] && [ "$1" -ge 1 ] && [ "$1" -le 65535 ]
}


port_taken() {
    (exec 5<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}


# The first port from $1 on where nobody listens.
free_port() {
    local port=$1

    while port_taken "$port"; do
        port=$((port + 1))
    done
    printf '%s' "$port"
}


# owned PIDFILE WORD: prints the pid if that process lives and its command line has WORD
# in it, so that a recycled number never names somebody else's process.
owned() {
    local pid

    { read -r pid <"$1"; } 2>/dev/null || return 1
    if [[ $pid =~ ^[0-9]+$ ]] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$2"; then
        printf '%s' "$pid"
        return
    fi
    return 1
}


# A process whose end nobody has taken note of yet (init may take its time) has ended all the same, but not before all of its
# threads have: these hold its ports for a while after the first one has ended.
alive() {
    local stat
    local -a threads

    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    threads=("/proc/$1/task/"*)
    [[ ${stat##*) } != [ZX]* || ${#threads[@]} -gt 1 ]]
}


# wait_gone PID SECONDS
wait_gone() {
    local end=$(($(now) + $2 * 1000))

    while alive "$1"; do
        if [ "$(now)" -ge "$end" ]; then
            return 1
        fi
        sleep 0.05
    done
}

#!/bin/sh
# Usage: setup.sh VENV KEY PIP-ARGUMENTS...
# Makes the environment VENV and installs into it; does nothing if that was done for this KEY file, place and interpreter.
# Standard output: nothing, or the one line that says what is missing and the command that installs it. Progress: standard error.

set -u
venv=$1 key=$2
shift 2

missing() { # what, Debian packages, Homebrew package
    if command -v apt-get >/dev/null 2>&1; then how="apt-get install $2"
    elif command -v dnf >/dev/null 2>&1; then how="dnf install $3"
    elif command -v brew >/dev/null 2>&1; then how="brew install $3"
    else how="install $3 with your system's package manager"; fi
    echo "$1: $how"
    exit 0
}

command -v git >/dev/null 2>&1 || missing "git not found" git git
test -f "$key" || { echo "$key not found: run make in a complete checkout (git status shows what is gone)"; exit 0; }

python=
for each in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3 python}; do
    if "$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$each; break; fi
done
test -n "$python" || missing "${PYTHON:-python3.11+} not found, or older than 3.11" "python3 python3-venv" python3
"$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || missing "$python has no venv module" "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" python3

stamp="$venv/.ready"
want="$(pwd) $("$python" -c 'import sys; print(sys.version.split()[0], sys.base_prefix)') $(cksum <"$key") $*"
test -x "$venv/bin/python" && test "$(cat "$stamp" 2>/dev/null)" = "$want" && exit 0

echo "setting up $venv ($("$python" --version)); this takes a minute, once" >&2
log="$venv.log"
rm -rf "$venv"
if ! "$python" -m venv "$venv" >"$log" 2>&1; then
    echo "$python could not make $venv, see $log: is the disk full, or this folder not writable?"
    exit 0
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
if ! "$venv/bin/python" -m pip install --quiet --retries 3 --timeout 30 "$@" >"$log" 2>&1 &&
   ! "$venv/bin/python" -m pip install --quiet --retries 3 --timeout 30 "$@" >"$log" 2>&1; then
    if grep -qiE 'connection|resolve|timed out|unreachable|SSL|proxy' "$log"; then
        echo "the package index cannot be reached, see $log: connect, or name yours: pip config set global.index-url URL"
    else
        echo "pip could not install: $(grep -m1 -iE '^error' "$log" || tail -n 1 "$log") (all of it in $log)"
    fi
    exit 0
fi
rm -f "$log"
printf '%s\n' "$want" >"$stamp"

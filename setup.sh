#!/usr/bin/env bash
# Brings a fresh machine to where every command of the Makefile works: Debian packages where missing, .venv as locked.
# Runs again in a moment when nothing changed.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf 'setup: %s\n' "$*" >&2; }

missing=()
need() { command -v "$1" >/dev/null 2>&1 || [ -e "/usr/sbin/$1" ] || missing+=("$2"); }
need softhsm2-util softhsm2
need mosquitto mosquitto
# Tests put a disk that fails before real programs: a small library, built on the spot.
need cc gcc
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
[ -e /usr/lib/softhsm/libsofthsm2.so ] || [ -e "/usr/lib/$(uname -m)-linux-gnu/softhsm/libsofthsm2.so" ] || missing+=(softhsm2)
# The system's own Python where there is one: it is what a gateway in the field has, and is built with profiles (one built by hand is often a quarter slower).
can_venv() { "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && can_venv /usr/bin/python3; then python=/usr/bin/python3; fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { say "Python 3.11 or newer is needed; set PYTHON=/path/to/python3"; exit 1; }
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || { say "install these and run again: ${missing[*]}"; exit 1; }
  sudo=""
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { say "run as root, or install these: ${missing[*]}"; exit 1; }
    sudo=sudo
  fi
  say "installing ${missing[*]}"
  # The package starts a broker of its own on 1883; ours are started on ports of their own.
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

stamp=.venv/.locked
wanted=$(cat requirements.lock pyproject.toml | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
  say "creating .venv from requirements.lock"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  printf '%s' "$wanted" >"$stamp"
fi

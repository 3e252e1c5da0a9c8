#!/usr/bin/env bash
# The part of the official image's contract that this stack uses: POSTGRES_PASSWORD(_FILE), POSTGRES_USER,
# POSTGRES_DB, POSTGRES_INITDB_ARGS, POSTGRES_HOST_AUTH_METHOD, PGDATA, /docker-entrypoint-initdb.d.
set -Eeuo pipefail

fail() {
  echo "error: $*" >&2
  exit 1
}

# Give the value of $1, or of the file that $1_FILE names.
setting() {
  local file=${1}_FILE
  if [ -n "${!file:-}" ]; then
    [ -z "${!1:-}" ] || fail "expected $1 or $file, found both. Set one."
    cat "${!file}"
  else
    printf %s "${!1:-${2:-}}"
  fi
}

drop_root() {
  mkdir -p "$PGDATA" /var/run/postgresql
  find "$PGDATA" /var/run/postgresql \! -user postgres -exec chown postgres '{}' +
  exec setpriv --reuid=postgres --regid=postgres --init-groups --inh-caps=-all "$0" "$@"
}

# initdb looks up the name of its user, which a uid of the caller's choice does not have.
name_this_user() {
  getent passwd "$(id -u)" >/dev/null && return
  NSS_WRAPPER_PASSWD=$(mktemp)
  NSS_WRAPPER_GROUP=$(mktemp)
  LD_PRELOAD=$(echo /usr/lib/*/libnss_wrapper.so)
  export LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
  echo "postgres:x:$(id -u):$(id -g):PostgreSQL:$PGDATA:/bin/false" >"$NSS_WRAPPER_PASSWD"
  echo "postgres:x:$(id -g):" >"$NSS_WRAPPER_GROUP"
}

make_cluster() {
  [ -n "$password" ] || [ "${POSTGRES_HOST_AUTH_METHOD:-}" = trust ] ||
    fail "expected POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE for a new database, found neither."
  local arguments=()
  # As a shell reads it: the variable may quote its parts.
  eval "arguments=(${POSTGRES_INITDB_ARGS:-})"
  initdb --username="$user" --pwfile=<(printf '%s\n' "$password") "${arguments[@]}"
  printf '\nhost all all all %s\n' "${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >>"$PGDATA/pg_hba.conf"
}

sql() { psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$user" --dbname "$@"; }

run_script() {
  if [ -x "$1" ]; then
    "$1"
  else
    # shellcheck disable=SC1090 # the caller's own file
    . "$1"
  fi
}

run_initialisation() {
  local file
  for file in /docker-entrypoint-initdb.d/*; do
    case $file in
      *.sh) run_script "$file" ;;
      *.sql) sql "$database" -f "$file" ;;
      *.sql.gz) gunzip -c "$file" | sql "$database" ;;
    esac
  done
}

initialise() {
  user=$(setting POSTGRES_USER postgres)
  database=$(setting POSTGRES_DB "$user")
  password=$(setting POSTGRES_PASSWORD)
  export POSTGRES_USER=$user POSTGRES_DB=$database POSTGRES_PASSWORD=$password PGPASSWORD=$password
  name_this_user
  make_cluster
  # Over the socket only: nobody connects before the databases are there.
  pg_ctl --wait --silent --options="-c listen_addresses=''" start
  [ "$database" = postgres ] || sql postgres -v name="$database" <<<'CREATE DATABASE :"name";'
  run_initialisation
  pg_ctl --wait --silent --mode=fast stop
  [ -z "${LD_PRELOAD:-}" ] || rm -f "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"
  unset PGPASSWORD POSTGRES_PASSWORD LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
}

[ "${1:0:1}" != - ] || set -- postgres "$@"
if [ "$1" = postgres ]; then
  [ "$(id -u)" != 0 ] || drop_root "$@"
  mkdir -p "$PGDATA"
  chmod 0700 "$PGDATA" 2>/dev/null || true
  [ -s "$PGDATA/PG_VERSION" ] || initialise
fi
exec "$@"

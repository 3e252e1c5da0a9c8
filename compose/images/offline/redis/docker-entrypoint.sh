#!/bin/sh
# As the official image: options or a .conf file alone mean redis-server, and root becomes `redis`.
set -eu

case ${1:-} in
  -* | *.conf) set -- redis-server "$@" ;;
esac
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
  find . \! -user redis -exec chown redis '{}' +
  exec setpriv --reuid=redis --regid=redis --init-groups --inh-caps=-all "$0" "$@"
fi
# Data for nobody else, unless somebody decided otherwise.
[ "$(umask)" != 0022 ] || umask 0077
exec "$@"

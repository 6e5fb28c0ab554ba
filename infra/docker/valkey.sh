#!/bin/sh
# Valkey in its official image: the options of infra/valkey, and the password from its file, which
# must not stand on a command line, where anybody on the machine could read it. The argument says
# which one it is: valkey, the cache, or events, the log of events.
set -eu
umask 077

name=$1
password=$(cat "$TERCET_SECRETS_DIR/tercet_${name}_password")
cat >/tmp/valkey.conf <<END
include "/etc/tercet/valkey/$name.conf"
dir "/data"
requirepass "$password"
END
if [ "$name" = events ] && [ -n "${TERCET_EVENTS_MEMORY:-}" ]; then
    echo "maxmemory $TERCET_EVENTS_MEMORY" >>/tmp/valkey.conf
fi
exec docker-entrypoint.sh valkey-server /tmp/valkey.conf

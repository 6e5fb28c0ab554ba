#!/bin/sh
# Valkey in its official image: the options of infra/valkey, and the password from its file, which
# must not stand on a command line, where anybody on the machine could read it.
set -eu
umask 077

password=$(cat "$TERCET_SECRETS_DIR/tercet_valkey_password")
cat >/tmp/valkey.conf <<END
include "/etc/tercet/valkey/valkey.conf"
dir "/data"
requirepass "$password"
END
exec docker-entrypoint.sh valkey-server /tmp/valkey.conf

#!/bin/sh
# A streaming standby in the official image of PostgreSQL. The first start copies the primary; later
# ones go on where it stopped, or copy anew when the primary has dropped the changes it would need.
set -eu
umask 077

slot=standby
passwords=/tmp/pgpass
password=$(cat "$TERCET_SECRETS_DIR/tercet_replication_password")
echo "primary:5432:*:tercet_replication:$password" >"$passwords"
conninfo="host=primary port=5432 user=tercet_replication passfile=$passwords application_name=standby connect_timeout=5"

say() { echo "standby: $*" >&2; }

# A command of the replication protocol; fields are separated by |.
ask() {
    psql --no-psqlrc --no-password --quiet --tuples-only --no-align \
        --dbname "$conninfo dbname=postgres replication=true" --command "$1"
}

# The copy gets its name when it is complete: whatever is there under that name can be started.
copy_primary() {
    say "copying the primary: $1"
    mkdir -p "$(dirname "$PGDATA")"
    rm -rf "$PGDATA.new"
    ask "DROP_REPLICATION_SLOT $slot" >/dev/null 2>&1 || true # there may be none
    pg_basebackup --pgdata "$PGDATA.new" --dbname "$conninfo" --create-slot --slot "$slot" \
        --write-recovery-conf --wal-method stream --checkpoint fast --no-password
    rm -rf "$PGDATA"
    mv "$PGDATA.new" "$PGDATA"
}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    copy_primary "there is none yet"
elif system=$(ask IDENTIFY_SYSTEM) && kept=$(ask "READ_REPLICATION_SLOT $slot"); then
    own=$(pg_controldata "$PGDATA" | sed -n 's/^Database system identifier: *//p')
    if [ "${system%%|*}" != "$own" ]; then
        # It may be the only copy of what was lost: nothing but a person deletes it.
        say "this is a copy of another primary ($own, not ${system%%|*}); to copy this one, remove the volume"
        exit 1
    fi
    case $kept in
        physical\|*/*) ;;
        *) copy_primary "the primary has not kept its changes for this one" ;;
    esac
else
    say "the primary does not answer; starting with what is there"
fi

exec postgres -D "$PGDATA" -c config_file=/etc/tercet/postgres/standby.conf \
    -c hba_file=/etc/tercet/postgres/pg_hba.conf -c listen_addresses='*' \
    -c primary_conninfo="$conninfo" -c primary_slot_name="$slot"

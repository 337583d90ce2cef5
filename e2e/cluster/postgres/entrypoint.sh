#!/bin/bash
# Makes a database on first use, then becomes the server. Arguments go to the server (`-c wal_level=logical`).
#
# Reads POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB, as Docker's official image does; but a user other than
# `postgres` is no superuser, only the owner of the database, which is what CloudNativePG gives an application.
# The superuser is `postgres`, from inside the container only (`kubectl exec ... -- psql -U postgres`).
# With a certificate in /tls (tls.crt, tls.key: a Secret of type kubernetes.io/tls) it offers TLS.
set -euo pipefail

volume=/var/lib/postgresql/data
# A directory below the volume: the volume itself belongs to root, and PostgreSQL demands that the directory is its own.
PGDATA=${PGDATA:-$volume/pgdata}
user=${POSTGRES_USER:-postgres}
password=${POSTGRES_PASSWORD:?must be set}
database=${POSTGRES_DB:-$user}

# One server at a time. A pod deleted by force may still run when its successor starts, on the same volume; PostgreSQL
# cannot see that through its own lock file, because in its own process namespace each of them is process 1. The lock is
# inherited by the server and its children, and so held until the last of them is gone.
exec {lock}>"$volume/.lock"
flock "$lock"
# Hence whoever wrote this is dead.
rm -f "$PGDATA/postmaster.pid"

if [ ! -e "$PGDATA/PG_VERSION" ]; then
  # Made beside and then renamed: a pod killed half-way must not leave what the next one takes for a database.
  new=$PGDATA.new
  rm -rf "$new"
  initdb --pgdata="$new" --username=postgres --encoding=UTF8 --locale=C.UTF-8 \
    --auth-local=trust --auth-host=scram-sha-256 --no-instructions >/dev/null
  cat >>"$new/pg_hba.conf" <<-'H'
	host all         all all scram-sha-256
	host replication all all scram-sha-256
	H
  # Without a server that others could reach before it is whole. A statement is a line, as --single reads them.
  quoted=${user//\"/\"\"} literal=${password//\'/\'\'}
  {
    [ "$user" = postgres ] || echo "CREATE ROLE \"$quoted\" LOGIN"
    echo "ALTER ROLE \"$quoted\" PASSWORD '$literal'"
    [ "$database" = postgres ] || echo "CREATE DATABASE \"${database//\"/\"\"}\" OWNER \"$quoted\""
  } | postgres --single -D "$new" postgres >/dev/null
  mv "$new" "$PGDATA"
fi

tls=()
if [ -e /tls/tls.crt ]; then
  # A copy, because PostgreSQL refuses a key that others may read, which is how a Secret is mounted.
  install -m 600 /tls/tls.key /var/run/postgresql/tls.key
  tls=(-c ssl=on -c ssl_cert_file=/tls/tls.crt -c ssl_key_file=/var/run/postgresql/tls.key)
fi

# Where the kubelet applies a pod's fsGroup, it lets the group write, which PostgreSQL refuses.
chmod 700 "$PGDATA"

# Process 1, so that signals reach it.
exec postgres -D "$PGDATA" -c listen_addresses='*' "${tls[@]}" "$@"

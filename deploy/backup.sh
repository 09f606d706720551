#!/usr/bin/env bash
# Dumps the database into a folder, again and again, and keeps the newest. Runs in the image of PostgreSQL.
#
#   deploy/backup.sh          every KD_BACKUP_HOURS
#   deploy/backup.sh once
#   deploy/backup.sh restore FILE   puts a dump in the place of what the database holds; all of it or nothing
#
# A dump: kd-<UTC time>.dump, PostgreSQL's custom format
#   PGHOST, PGPORT, PGUSER, PGDATABASE   where the database is, as libpq reads them
#   PASSWORD_FILE                        file with the password
#   KD_BACKUPS                           the folder (default /backups)
#   KD_BACKUP_HOURS, KD_BACKUP_KEEP      hours between dumps (24), dumps to keep (14)
set -euo pipefail

folder=${KD_BACKUPS:-/backups}
keep=${KD_BACKUP_KEEP:-14}
hours=${KD_BACKUP_HOURS:-24}
if [[ ! $keep =~ ^[1-9][0-9]*$ ]]; then echo "error: KD_BACKUP_KEEP = $keep: a number from 1" >&2; exit 2; fi
if [[ ! $hours =~ ^[1-9][0-9]*$ ]]; then echo "error: KD_BACKUP_HOURS = $hours: a number from 1" >&2; exit 2; fi

# libpq reads a password file only if nobody else can; the mounted secret is readable to all.
umask 077
PGPASSFILE=$(mktemp)
export PGPASSFILE
trap 'rm -f "$PGPASSFILE"' EXIT
trap 'exit 143' TERM INT
printf '*:*:*:*:%s\n' "$(sed -e 's/[\\:]/\\&/g' "$PASSWORD_FILE")" >"$PGPASSFILE"

dump() {
  local name
  name=$folder/kd-$(date -u +%Y%m%dT%H%M%SZ).dump
  # A dump has its name only when it is whole and can be listed.
  pg_dump --format=custom --file="$name.part" || return
  pg_restore --list "$name.part" >/dev/null || return
  mv "$name.part" "$name"
  echo "$name: $(stat -c %s "$name") bytes"
}

drop_old() {
  local dumps=("$folder"/kd-*.dump) # sorted by time, as the names are
  local old=$((${#dumps[@]} - keep))
  if ((old > 0)); then rm -f -- "${dumps[@]:0:old}"; fi
}

if [[ ${1:-} == restore ]]; then
  [[ -f ${2:-} ]] || { echo "error: restore: '${2:-}' is no file; known: $(ls "$folder")" >&2; exit 2; }
  pg_restore --clean --if-exists --no-owner --single-transaction --dbname="${PGDATABASE:?}" "$2"
  echo "$2: restored"
  exit 0
elif [[ ${1:-} == once ]]; then
  dump
  drop_old
  exit 0
elif [[ $# -gt 0 ]]; then
  echo "error: $1: unknown word; known: once, restore" >&2
  exit 2
fi
while true; do
  if dump; then
    drop_old
    pause=${hours}h
  else
    echo "error: no backup was made; the next try is in 10 minutes" >&2
    pause=10m
  fi
  sleep "$pause" &
  wait $!
done

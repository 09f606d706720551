#!/usr/bin/env bash
# Makes what docker-compose.yml reads: secrets/, the folders for results, and .env. Keeps whatever is there already.
#
#   deploy/secrets.sh                    once, before `docker compose up`
#   deploy/secrets.sh user NAME          add NAME to the dashboard's users, or change the password (read from the
#                                        terminal or from standard input); the name `viewer` may look but not write
#
# The folder secrets/ is its owner's alone (0700). The files in it are readable (0444), because a container gets each
# as it is, and reads it as a user of its own. PostgreSQL keeps the password of its first start: changing it later
# takes ALTER ROLE.
set -euo pipefail
cd "${KD_HOME:-$(dirname "${BASH_SOURCE[0]}")/..}"

random() { head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

# Nobody sees half a file, and none is open to others on its way.
write() {
  (umask 077 && cat >"$1.part")
  chmod 444 "$1.part"
  mv -f "$1.part" "$1"
}

# The password arrives on standard input, never as an argument.
add_user() {
  local name=$1 hash
  if [[ ! $name =~ ^[A-Za-z0-9._-]+$ ]]; then
    echo "error: user name '$name': letters, digits, '.', '_' and '-' only" >&2
    exit 2
  fi
  hash=$(openssl passwd -6 -stdin)
  {
    if [[ -f secrets/htpasswd ]]; then awk -F: -v name="$name" '$1 != name' secrets/htpasswd; fi
    printf '%s:%s\n' "$name" "$hash"
  } | write secrets/htpasswd
}

command -v openssl >/dev/null || { echo "error: openssl is not installed; it hashes the passwords" >&2; exit 2; }
mkdir -p secrets
chmod 700 secrets

if [[ ${1:-} == user ]]; then
  [[ -n ${2:-} ]] || { echo "error: user: the name is missing; deploy/secrets.sh user NAME" >&2; exit 2; }
  if [[ -t 0 ]]; then read -rsp "password of $2: " password && echo >&2; else read -r password || true; fi
  [[ -n $password ]] || { echo "error: user $2: the password is empty" >&2; exit 2; }
  printf '%s\n' "$password" | add_user "$2"
  exit 0
elif [[ $# -gt 0 ]]; then
  echo "error: $1: unknown word; known: user" >&2
  exit 2
fi

if [[ ! -f secrets/database_password ]]; then random | write secrets/database_password; fi
if [[ ! -f secrets/storage_url ]]; then
  printf 'postgresql+psycopg2://kd:%s@postgres:5432/kd\n' "$(<secrets/database_password)" | write secrets/storage_url
fi
if [[ ! -f secrets/htpasswd ]]; then
  random | (umask 077 && cat >secrets/dashboard_password)
  add_user operator <secrets/dashboard_password
  echo "dashboard: user operator, password in secrets/dashboard_password"
fi
mkdir -p runs/artifacts cache backups teachers splits data
if [[ ! -f .env ]]; then
  sed -e "s/^KD_UID=.*/KD_UID=$(id -u)/" -e "s/^KD_GID=.*/KD_GID=$(id -g)/" .env.example >.env
  echo ".env: written from .env.example; set KD_STUDY and KD_DATA there"
fi

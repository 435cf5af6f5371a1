#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# run.sh ROW VERSION plain|shim - one exchange of one row of the matrix, inside the release's root.
#
# ROW is a shell file: a head of comments, and a function `row` that starts the program under test
# by `$SUBJECT` (which preloads the shim, or does not), moves data through it and leaves in out/ what
# has to be the same both times: what arrived, and exit statuses (`status NAME NUMBER`).
# The other end of each connection is another program, without the shim.
set -u
row=$1 v=$2 mode=$3
W=/tmp/w
export HOME=/root LC_ALL=C W
M=/matrix BLOB=/matrix/blob CERT=/matrix/cert.pem KEY=/matrix/key.pem BOTH=/matrix/both.pem
P=4433 Q=4434
N=$(stat -c %s $BLOB)
V_=1_${v#1.}
PEER="python3 /matrix/peer.py"
CURL="curl -sS --max-time 100 --tlsv$v --tls-max $v --cacert $CERT --resolve localhost:$P:127.0.0.1"
SUBJECT="env MATRIX_SUBJECT=1"
[ "$mode" = plain ] || SUBJECT="$SUBJECT LD_PRELOAD=/matrix/libktlsshim.so KTLSSHIM_LOG=$W/log"
# The subject as another user than root.
as() { # USER COMMAND...
	user=$1; shift
	setpriv --reuid "$user" --regid "$user" --clear-groups "$@"
}
status() { echo "$1 $2" >>$W/out/status; }
# Waits until a port is listened on, without a connection that would be counted.
ready() {
	for port in "$@"; do
		hex=$(printf ':%04X 00000000:0000 0A' "$port")
		hex6=$(printf ':%04X 00000000000000000000000000000000:0000 0A' "$port")
		n=0
		until grep -q -e "$hex" -e "$hex6" /proc/net/tcp /proc/net/tcp6 2>/dev/null; do
			n=$((n + 1))
			[ $n -lt 600 ] || { echo "nobody listens on $port" >&2; exit 90; }
			sleep 0.1
		done
	done
}
# Ends a program in order and keeps its status.
stop() { # NAME PID [SIGNAL]
	kill -s "${3:-TERM}" "$2"
	wait "$2"
	status "$1" $?
}
# A client that is slow in the middle of its request: does the subject sleep meanwhile?
idle() { $PEER idle "$1" "$v" "${2:-http}" >$W/idle; }

mkdir -p $W/out $W/www
chmod 1777 $W $W/out $W/www
cd $W || exit 91
ln -s $BLOB $W/www/blob
: >$W/log
chmod 666 $W/log
. "/matrix/rows/$row"
row

# SPDX-License-Identifier: MIT OR Apache-2.0
# program: postgresql
# role: client
# note: psql (libpq): own BIO; clear SSLRequest first
# rules: R1 R4 R15 R22
row() {
	pg; setpriv --reuid postgres --regid postgres --clear-groups $PG/postgres -D $W/d >err 2>&1 & server=$!
	ready $P
	PSQL="$SUBJECT psql -X -q -h 127.0.0.1 -p $P -U postgres"; export PGSSLMODE=require
	$PSQL -c 'create table t(x text)'; status create $?
	$PSQL -c "\\copy t from $BLOB"; status in $?
	$PSQL -At -c 'select x from t' >out/select; status out $?
	kill -INT $server; wait $server
}

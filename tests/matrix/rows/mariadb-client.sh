# SPDX-License-Identifier: MIT OR Apache-2.0
# program: mariadb-client
# role: client
# note: mariadb, linked with OpenSSL
# rules: R16 R17 R22
row() {
	my; mariadbd $MY >err 2>&1 & server=$!
	ready $P
	SQL="$SUBJECT mariadb --no-defaults -h 127.0.0.1 -P $P -u root --ssl --tls-version=TLSv$v"
	{ printf "create database d; use d; create table t(x longtext); insert into t values ('"; cat $BLOB; echo "');"; } | $SQL; status in $?
	$SQL -N -e 'select x from d.t' >out/select; status out $?
	stop mariadb $server
}

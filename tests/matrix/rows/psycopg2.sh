# SPDX-License-Identifier: MIT OR Apache-2.0
# program: python3-psycopg2
# role: client
# note: libpq inside Python
# rules: R4 R15
row() {
	pg; setpriv --reuid postgres --regid postgres --clear-groups $PG/postgres -D $W/d >err 2>&1 & server=$!
	ready $P
	cat >t.py <<-END
		import psycopg2
		c = psycopg2.connect(host="127.0.0.1", port=$P, user="postgres", dbname="postgres", sslmode="require").cursor()
		c.execute("select %s || 'x'", (open("$BLOB").read(),))
		open("out/select", "w").write(c.fetchone()[0])
	END
	$SUBJECT python3 t.py; status python $?
	kill -INT $server; wait $server
}

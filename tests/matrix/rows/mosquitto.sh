# SPDX-License-Identifier: MIT OR Apache-2.0
# program: mosquitto
# role: server
# note: broker: reads of one byte, writes of 1.5 MB
# rules: R8 R16 R17
row() {
	cat >c <<-END
		listener $P 127.0.0.1
		certfile $CERT
		keyfile $KEY
		tls_version tlsv$v
		allow_anonymous true
		user mosquitto
	END
	$SUBJECT mosquitto -c c >err 2>&1 & server=$!
	ready $P
	T="-h localhost -p $P --cafile $CERT --tls-version tlsv$v -q 1 -t t"
	mosquitto_pub $T -r -f $BLOB; status pub $?
	mosquitto_sub $T -C 1 -N >out/sub; status sub $?
	stop mosquitto $server
}

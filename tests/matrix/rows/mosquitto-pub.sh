# SPDX-License-Identifier: MIT OR Apache-2.0
# program: mosquitto-clients
# role: client
# note: mosquitto_pub and mosquitto_sub
# rules: R16 R17
row() {
	printf '%s\n' "listener $P 127.0.0.1" "certfile $CERT" "keyfile $KEY" "tls_version tlsv$v" "allow_anonymous true" "user mosquitto" >c
	mosquitto -c c >err 2>&1 & server=$!
	ready $P
	T="-h localhost -p $P --cafile $CERT --tls-version tlsv$v -q 1 -t t"
	$SUBJECT mosquitto_pub $T -r -f $BLOB; status pub $?
	$SUBJECT mosquitto_sub $T -C 1 -N >out/sub; status sub $?
	kill $server
}

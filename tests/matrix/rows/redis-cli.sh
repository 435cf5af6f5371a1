# SPDX-License-Identifier: MIT OR Apache-2.0
# program: redis-server
# role: client
# note: redis-cli
# rules: R16 R17
row() {
	redis-server --port 0 --bind 127.0.0.1 --tls-port $P --tls-cert-file $CERT --tls-key-file $KEY --tls-ca-cert-file $CERT --tls-auth-clients no --tls-protocols TLSv$v --save "" >err & server=$!
	ready $P
	CLI="$SUBJECT redis-cli -h 127.0.0.1 -p $P --tls --insecure"
	$CLI -x set k <$BLOB >out/set; status set $?
	$CLI get k >out/get; status get $?
	stop redis $server
}

# SPDX-License-Identifier: MIT OR Apache-2.0
# program: redis-server
# role: client
# note: a replica: reads byte by byte while it syncs
# rules: R17
row() {
	T="--tls-cert-file $CERT --tls-key-file $KEY --tls-ca-cert-file $CERT --tls-auth-clients no --bind 127.0.0.1"
	redis-server --port 0 --tls-port $P $T --tls-protocols TLSv$v --dbfilename a --repl-diskless-sync-delay 0 --rdbcompression no >err & server=$!
	ready $P
	redis-cli -h 127.0.0.1 -p $P --tls --insecure -x set k <$BLOB >out/set; status set $?
	$SUBJECT redis-server --port $Q $T --tls-replication yes --replicaof "127.0.0.1 $P" --dbfilename b >err2 & replica=$!
	ready $Q
	n=0; until redis-cli -p $Q get k >out/get && [ "$(stat -c %s out/get)" -gt 1000000 ]; do sleep 0.3; n=$((n + 1)); [ $n -lt 100 ] || exit 92; done
	redis-cli -p $Q get k >out/get
	stop replica $replica
	kill $server
}

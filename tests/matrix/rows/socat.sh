# SPDX-License-Identifier: MIT OR Apache-2.0
# program: socat
# role: server
# note: blocking; mode 0
# rules: R8 R19
row() {
	[ $v = 1.2 ] && max=openssl-max-proto-version=TLS1.2 || max=openssl-min-proto-version=TLS1.3
	$PEER echo $Q & peer=$!
	$SUBJECT socat OPENSSL-LISTEN:$P,fork,reuseaddr,bind=127.0.0.1,cert=$BOTH,verify=0,$max TCP:127.0.0.1:$Q & server=$!
	ready $P $Q
	$PEER talk $P $v >out/echo; status talk $?
	idle $P echo
	stop socat $server
	kill $peer
}

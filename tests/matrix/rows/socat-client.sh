# SPDX-License-Identifier: MIT OR Apache-2.0
# program: socat
# role: client
# note: blocking; mode 0
# rules: R19
row() {
	$PEER http $Q $v & peer=$!
	$SUBJECT socat TCP-LISTEN:$P,fork,reuseaddr,bind=127.0.0.1 OPENSSL:127.0.0.1:$Q,verify=0 & server=$!
	ready $P $Q
	in_clear
	stop socat $server
	kill $peer
}

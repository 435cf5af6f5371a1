# SPDX-License-Identifier: MIT OR Apache-2.0
# program: stunnel4
# role: server
# rules: R17
row() {
	cat >c <<-END
		foreground = yes
		pid =
		[srv]
		accept = 127.0.0.1:$P
		connect = 127.0.0.1:$Q
		cert = $BOTH
		sslVersion = TLSv$v
	END
	$PEER echo $Q & peer=$!
	$SUBJECT stunnel4 c 2>err & server=$!
	ready $P $Q
	$PEER talk $P $v >out/echo; status talk $?
	idle $P echo
	stop stunnel $server
	kill $peer
}

# SPDX-License-Identifier: MIT OR Apache-2.0
# program: stunnel4
# role: client
# rules: R17
row() {
	cat >c <<-END
		foreground = yes
		pid =
		[cli]
		client = yes
		accept = 127.0.0.1:$P
		connect = 127.0.0.1:$Q
		sslVersion = TLSv$v
	END
	$PEER http $Q $v & peer=$!
	$SUBJECT stunnel4 c 2>err & server=$!
	ready $P $Q
	in_clear
	stop stunnel $server
	kill $peer
}

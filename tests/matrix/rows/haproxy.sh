# SPDX-License-Identifier: MIT OR Apache-2.0
# program: haproxy
# role: server
# note: own BIO, two threads
# rules: R4 R20 R25
row() {
	cat >c <<-END
		global
		 nbthread 2
		 ssl-default-bind-options ssl-min-ver TLSv$v ssl-max-ver TLSv$v
		$HAPROXY_DEFAULTS
		listen a
		 bind 127.0.0.1:$P ssl crt $BOTH alpn h2,http/1.1
		 server s 127.0.0.1:$Q
	END
	$PEER http $Q & peer=$!
	$SUBJECT haproxy -db -f c >log.haproxy 2>&1 & server=$!
	ready $P $Q
	$CURL --http1.1 -o out/get https://localhost:$P/blob; status get $?
	$CURL --http1.1 -o out/post --data-binary @$BLOB https://localhost:$P/post; status post $?
	$CURL --http2 -o out/post2 --data-binary @$BLOB https://localhost:$P/post; status post2 $?
	idle $P
	stop haproxy $server USR1
	kill $peer
}

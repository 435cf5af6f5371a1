# SPDX-License-Identifier: MIT OR Apache-2.0
# program: haproxy
# role: client
# note: own BIO; backend connections used again
# rules: R4 R20 R23
row() {
	cat >c <<-END
		global
		 nbthread 2
		 ssl-server-verify none
		 ssl-default-server-options ssl-min-ver TLSv$v ssl-max-ver TLSv$v
		defaults
		 mode http
		 timeout client 100s
		 timeout server 100s
		 timeout connect 100s
		listen a
		 bind 127.0.0.1:$P
		 server s 127.0.0.1:$Q ssl verify none
	END
	$PEER http $Q $v & peer=$!
	$SUBJECT haproxy -db -f c >log.haproxy 2>&1 & server=$!
	ready $P $Q
	curl -sS -o out/get http://127.0.0.1:$P/blob; status get $?
	curl -sS -o out/post --data-binary @$BLOB http://127.0.0.1:$P/post; status post $?
	stop haproxy $server USR1
	kill $peer
}

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
		$HAPROXY_DEFAULTS
		listen a
		 bind 127.0.0.1:$P
		 server s 127.0.0.1:$Q ssl verify none
	END
	$PEER http $Q $v & peer=$!
	$SUBJECT haproxy -db -f c >log.haproxy 2>&1 & server=$!
	ready $P $Q
	in_clear
	stop haproxy $server USR1
	kill $peer
}

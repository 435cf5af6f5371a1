# SPDX-License-Identifier: MIT OR Apache-2.0
# program: apache2
# role: client
# note: mod_proxy to a TLS upstream
# rules: R2 R3 R5 R6
row() {
	apache_conf <<-END
		SSLProxyEngine on
		SSLProxyVerify none
		SSLProxyCheckPeerName off
		SSLProxyCheckPeerExpire off
		SSLProxyProtocol -all +TLSv$v
		ProxyPass /px/ https://127.0.0.1:$Q/
	END
	$PEER http $Q $v & peer=$!
	$SUBJECT apache2 -DFOREGROUND -f $W/c & server=$!
	ready $P $Q
	curl -sS -o out/get http://127.0.0.1:$P/px/blob; status get $?
	curl -sS -o out/post --data-binary @$BLOB http://127.0.0.1:$P/px/; status post $?
	stop apache $server WINCH
	kill $peer
}

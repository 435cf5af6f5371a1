# SPDX-License-Identifier: MIT OR Apache-2.0
# program: lighttpd
# role: server
# note: as it comes: switches on OpenSSL's own kernel TLS
# rules: R14
# outside: `openssl-ktls`
row() {
	cat >c <<-END
		server.modules = ( "mod_openssl", "mod_proxy" )
		server.document-root = "$W/www"
		server.bind = "127.0.0.1"
		server.port = $P
		server.errorlog = "$W/err"
		server.upload-dirs = ( "$W" )
		ssl.engine = "enable"
		ssl.pemfile = "$BOTH"
		ssl.openssl.ssl-conf-cmd = ( "MinProtocol" => "TLSv$v", "MaxProtocol" => "TLSv$v" )
		\$HTTP["url"] =~ "^/px/" { proxy.server = ( "" => ( ( "host" => "127.0.0.1", "port" => $Q ) ) ) }
	END
	$PEER http $Q & peer=$!
	$SUBJECT lighttpd -D -f c & server=$!
	ready $P $Q
	$CURL -o out/get https://localhost:$P/blob; status get $?
	$CURL -o out/post --data-binary @$BLOB https://localhost:$P/px/; status post $?
	idle $P
	stop lighttpd $server
	kill $peer
}

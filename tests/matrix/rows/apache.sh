# SPDX-License-Identifier: MIT OR Apache-2.0
# program: apache2
# role: server
# note: own BIOs in front of bucket brigades
# rules: R2 R3 R5 R6 R18 R19 R23
row() {
	apache_conf <<-END
		SSLEngine on
		SSLCertificateFile $CERT
		SSLCertificateKeyFile $KEY
		SSLProtocol -all +TLSv$v
		ProxyPass /px/ http://127.0.0.1:$Q/
	END
	$PEER http $Q & peer=$!
	$SUBJECT apache2 -DFOREGROUND -f $W/c & server=$!
	ready $P $Q
	$CURL -o out/get https://localhost:$P/blob; status get $?
	$CURL -o out/post --data-binary @$BLOB https://localhost:$P/px/; status post $?
	idle $P
	stop apache $server WINCH
	kill $peer
}

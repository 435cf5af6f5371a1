# SPDX-License-Identifier: MIT OR Apache-2.0
# program: apache2
# role: server
# note: a client's certificate for one place: renegotiation in TLS 1.2, after the handshake in 1.3
# rules: R18
row() {
	apache_conf <<-END
		SSLEngine on
		SSLCertificateFile $CERT
		SSLCertificateKeyFile $KEY
		SSLCACertificateFile $CERT
		SSLProtocol -all +TLSv$v
		<Location /secret>
		SSLVerifyClient require
		SSLVerifyDepth 1
		</Location>
	END
	mkdir www/secret && ln -s $BLOB www/secret/blob
	$SUBJECT apache2 -DFOREGROUND -f $W/c & server=$!
	ready $P
	WITH="--http1.1 --cert $CERT --key $KEY"
	# In one connection: before the certificate is asked for, and after that.
	$CURL $WITH -o out/open https://localhost:$P/blob -o out/secret https://localhost:$P/secret/blob; status with $?
	$CURL --http1.1 -o out/refused https://localhost:$P/secret/blob; status without $(($? != 0 ? 0 : 1))
	stop apache $server WINCH
}

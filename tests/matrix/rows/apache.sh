# SPDX-License-Identifier: MIT OR Apache-2.0
# program: apache2
# role: server
# note: own BIOs in front of bucket brigades
# rules: R2 R3 R5 R6 R18 R19 R23
row() {
	cat >c <<-END
		ServerRoot $W
		PidFile $W/pid
		ServerName localhost
		Listen 127.0.0.1:$P
		DefaultRuntimeDir $W
		User www-data
		Group www-data
		ErrorLog $W/err
		DocumentRoot $W/www
		$(for m in mpm_event authz_core mime socache_shmcb ssl proxy proxy_http; do
			echo "LoadModule ${m}_module /usr/lib/apache2/modules/mod_$m.so"; done)
		TypesConfig /dev/null
		<Directory $W/www>
		Options FollowSymLinks
		</Directory>
		StartServers 1
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

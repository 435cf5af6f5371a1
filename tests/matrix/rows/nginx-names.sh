# SPDX-License-Identifier: MIT OR Apache-2.0
# program: nginx
# role: server
# note: server blocks by name (SNI), each with a certificate of its own
# rules: R25
row() {
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=other.test \
		-addext subjectAltName=DNS:other.test -keyout other.key -out other.pem 2>err.cert
	cat >c <<-END
		daemon off; worker_processes 1; pid $W/pid; error_log $W/err;
		events {}
		http { access_log off; sendfile on;
		client_body_temp_path $W/t1; proxy_temp_path $W/t2; fastcgi_temp_path $W/t3; uwsgi_temp_path $W/t4; scgi_temp_path $W/t5;
		ssl_protocols TLSv$v;
		server { listen 127.0.0.1:$P ssl default_server; server_name first.test; ssl_certificate $CERT; ssl_certificate_key $KEY; location / { return 404; } }
		server { listen 127.0.0.1:$P ssl; server_name other.test; ssl_certificate $W/other.pem; ssl_certificate_key $W/other.key; root $W/www; } }
	END
	$SUBJECT nginx -c $W/c 2>err.start & server=$!
	ready $P
	NAMES="--resolve other.test:$P:127.0.0.1 --resolve first.test:$P:127.0.0.1"
	$CURL $NAMES --cacert $W/other.pem -o out/other https://other.test:$P/blob; status other $?
	$CURL $NAMES -k -o out/first https://first.test:$P/blob; status first $?
	stop nginx $server QUIT
}

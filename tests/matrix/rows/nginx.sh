# SPDX-License-Identifier: MIT OR Apache-2.0
# program: nginx
# role: server
# rules: R2 R8 R12 R13 R25 R26
row() {
	mkdir -p up; chmod 777 up
	cat >c <<-END
		daemon off; worker_processes 1; pid $W/pid; error_log $W/err;
		events {}
		http { access_log off; sendfile on; client_max_body_size 0;
		client_body_temp_path $W/t1; proxy_temp_path $W/t2; fastcgi_temp_path $W/t3; uwsgi_temp_path $W/t4; scgi_temp_path $W/t5;
		server { listen 127.0.0.1:$P ssl http2; ssl_certificate $CERT; ssl_certificate_key $KEY; ssl_protocols TLSv$v; root $W/www;
		location /up/ { root $W; dav_methods PUT; } } }
	END
	$SUBJECT nginx -c $W/c 2>err.start & server=$!
	ready $P
	$CURL --http1.1 -o out/h1 https://localhost:$P/blob; status get $?
	$CURL --http2 -o out/h2 https://localhost:$P/blob; status get2 $?
	$CURL --http1.1 -T $BLOB https://localhost:$P/up/x; status put $?
	idle $P
	cp up/x out/put
	stop nginx $server QUIT
}

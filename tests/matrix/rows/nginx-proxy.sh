# SPDX-License-Identifier: MIT OR Apache-2.0
# program: nginx
# role: client
# note: proxy_pass to a TLS upstream
# rules: R24
row() {
	cat >c <<-END
		daemon off; worker_processes 1; pid $W/pid; error_log $W/err;
		events {}
		http { access_log off; client_max_body_size 0;
		client_body_temp_path $W/t1; proxy_temp_path $W/t2; fastcgi_temp_path $W/t3; uwsgi_temp_path $W/t4; scgi_temp_path $W/t5;
		server { listen 127.0.0.1:$P; location / { proxy_pass https://127.0.0.1:$Q; proxy_ssl_protocols TLSv$v; proxy_http_version 1.1; } } }
	END
	$PEER http $Q $v & peer=$!
	$SUBJECT nginx -c $W/c 2>err.start & server=$!
	ready $P $Q
	in_clear
	stop nginx $server QUIT
	kill $peer
}

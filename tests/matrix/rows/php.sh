# SPDX-License-Identifier: MIT OR Apache-2.0
# program: php-cli
# role: server
# note: streams
# rules: R16
row() {
	cat >t.php <<-END
		<?php
		\$c = stream_context_create(["ssl" => ["local_cert" => "$BOTH", "crypto_method" => STREAM_CRYPTO_METHOD_TLSv${V_}_SERVER]]);
		\$l = stream_socket_server("ssl://127.0.0.1:$P", \$e, \$m, STREAM_SERVER_BIND | STREAM_SERVER_LISTEN, \$c);
		while (true) { \$s = @stream_socket_accept(\$l, 600); if (!\$s) continue;
		  while (!feof(\$s)) { \$d = fread(\$s, 65536); for (\$o = 0; \$o < strlen(\$d);) \$o += fwrite(\$s, substr(\$d, \$o)); } fclose(\$s); }
	END
	$SUBJECT php -n t.php & server=$!
	ready $P
	$PEER talk $P $v >out/echo; status talk $?
	idle $P echo
	stop php $server
}

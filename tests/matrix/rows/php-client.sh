# SPDX-License-Identifier: MIT OR Apache-2.0
# program: php-cli
# role: client
# note: streams (file_get_contents)
# rules: R16
row() {
	cat >t.php <<-END
		<?php
		\$s = ["cafile" => "$CERT", "peer_name" => "localhost", "crypto_method" => STREAM_CRYPTO_METHOD_TLSv${V_}_CLIENT];
		\$get = stream_context_create(["ssl" => \$s]);
		\$post = stream_context_create(["ssl" => \$s, "http" => ["method" => "POST", "header" => "Content-Type: text/plain", "content" => file_get_contents("$BLOB")]]);
		file_put_contents("out/get", file_get_contents("https://127.0.0.1:$P/blob", false, \$get));
		file_put_contents("out/post", file_get_contents("https://127.0.0.1:$P/", false, \$post));
	END
	$PEER http $P $v & peer=$!
	ready $P
	$SUBJECT php -n t.php; status php $?
	kill $peer
}

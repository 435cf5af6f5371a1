# SPDX-License-Identifier: MIT OR Apache-2.0
# program: php-curl
# role: client
# note: calls past the preload
# rules: R10
# outside: `own-bio-hidden`
row() {
	cat >t.php <<-END
		<?php
		\$c = curl_init("https://localhost:$P/");
		curl_setopt_array(\$c, [CURLOPT_CAINFO => "$CERT", CURLOPT_POSTFIELDS => file_get_contents("$BLOB"), CURLOPT_RETURNTRANSFER => true, CURLOPT_HTTPHEADER => ["Expect:", "Content-Type: text/plain"]]);
		file_put_contents("out/post", curl_exec(\$c));
	END
	$PEER http $P $v & peer=$!
	ready $P
	$SUBJECT php -n -d extension_dir="$(echo /usr/lib/php/2*)" -d extension=curl t.php; status php $?
	kill $peer
}

# SPDX-License-Identifier: MIT OR Apache-2.0
# program: libio-socket-ssl-perl
# role: server
# note: IO::Socket::SSL
# rules: R17
row() {
	cat >t.pl <<-END
		use IO::Socket::SSL;
		my \$l = IO::Socket::SSL->new(LocalAddr => "127.0.0.1:$P", Listen => 5, ReuseAddr => 1, SSL_cert_file => "$CERT", SSL_key_file => "$KEY", SSL_version => "TLSv$V_") or die "\$SSL_ERROR";
		while (my \$s = \$l->accept) { my \$d; while (sysread(\$s, \$d, 65536)) { print \$s \$d; } close \$s; }
	END
	$SUBJECT perl t.pl & server=$!
	ready $P
	$PEER talk $P $v >out/echo; status talk $?
	idle $P echo
	stop perl $server
}

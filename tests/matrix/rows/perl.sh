# SPDX-License-Identifier: MIT OR Apache-2.0
# program: libio-socket-ssl-perl
# role: client
# note: IO::Socket::SSL, line by line: a peek for each
# rules: R17
row() {
	cat >t.pl <<-END
		use IO::Socket::SSL;
		my \$s = IO::Socket::SSL->new(PeerAddr => "127.0.0.1:$P", SSL_hostname => "localhost", SSL_ca_file => "$CERT", SSL_version => "TLSv$V_") or die "\$SSL_ERROR";
		open F, "$BLOB"; local \$/; my \$b = <F>;
		\$b =~ s/(.{79})/\$1\n/g;
		print \$s "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ".length(\$b)."\r\n\r\n", \$b;
		\$/ = "\n"; my \$body = 0;
		while (<\$s>) { print if \$body; \$body = 1 if /^\r\n/; }
	END
	$PEER http $P $v & peer=$!
	ready $P
	$SUBJECT perl t.pl >out/post; status perl $?
	kill $peer
}

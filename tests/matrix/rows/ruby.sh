# SPDX-License-Identifier: MIT OR Apache-2.0
# program: ruby
# role: server
# note: OpenSSL::SSL::SSLServer
# rules: R15
row() {
	cat >t.rb <<-END
		require "socket"; require "openssl"
		trap("TERM") { exit }
		c = OpenSSL::SSL::SSLContext.new
		c.cert = OpenSSL::X509::Certificate.new(File.read("$CERT"))
		c.key = OpenSSL::PKey.read(File.read("$KEY"))
		c.min_version = c.max_version = OpenSSL::SSL::TLS${V_}_VERSION
		s = OpenSSL::SSL::SSLServer.new(TCPServer.new("127.0.0.1", $P), c)
		loop { Thread.new(s.accept) { |x| begin; while d = x.readpartial(65536); x.write(d); end; rescue EOFError, SystemCallError, OpenSSL::SSL::SSLError; end; x.close } }
	END
	$SUBJECT ruby t.rb & server=$!
	ready $P
	$PEER talk $P $v >out/echo; status talk $?
	idle $P echo
	stop ruby $server
}

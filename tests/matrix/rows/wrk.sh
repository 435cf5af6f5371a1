# SPDX-License-Identifier: MIT OR Apache-2.0
# program: wrk
# role: client
# note: sets the descriptor again at each attempt to connect
# tls: 1.3
# rules: R9
row() {
	cat >s.lua <<-END
		wrk.method = "POST"
		wrk.body = io.open("/matrix/blob"):read("*a")
		good = 0
		bad = 0
		function response(status, headers, body)
		  if status == 200 and body == wrk.body then good = good + 1 else bad = bad + 1 end
		end
		function setup(thread) t = thread end
		function done() io.open("$W/out/figures", "w"):write(t:get("bad"), t:get("good") > 0 and " some" or " none", "\n") end
	END
	$PEER http $P $v & peer=$!
	ready $P
	$SUBJECT wrk -t 1 -c 2 -d 6s --timeout 60s -s s.lua https://127.0.0.1:$P/post >wrk; status wrk $?
	kill $peer
}

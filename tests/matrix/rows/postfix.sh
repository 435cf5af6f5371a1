# SPDX-License-Identifier: MIT OR Apache-2.0
# program: postfix
# role: server
# note: smtpd; clear SMTP first; keys of tickets come over AF_UNIX inside SSL_accept
# rules: R1 R22 R24
row() {
	mail_root
	cat >>etc/master.cf <<-END
		127.0.0.1:$P inet n - n - - smtpd
	END
	$SUBJECT /usr/lib/postfix/sbin/master -d -c $W/etc & server=$!
	ready $P
	{ printf 'Subject: x\r\n\r\n'; fold -w 100 $BLOB | sed 's/$/\r/'; } >mail
	$CURL --ssl-reqd --mail-from a@localhost --mail-rcpt alice@localhost -T mail smtp://localhost:$P; status mail $?
	n=0; until [ -s box/alice ] ; do sleep 0.2; n=$((n + 1)); [ $n -lt 200 ] || exit 93; done
	sleep 1
	sed '1,/^$/d' box/alice >out/mail
	kill $server; wait $server || : # which ends with 1, always
}

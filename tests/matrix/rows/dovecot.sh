# SPDX-License-Identifier: MIT OR Apache-2.0
# program: dovecot-imapd
# role: server
# note: moves the records itself (imap-login proxies)
# rules: R1
# outside: `no-fd`
row() {
	mkdir -p mail/new mail/cur mail/tmp b
	{ printf 'Subject: x\n\n'; fold -w 100 $BLOB; } >mail/new/1
	chown -R alice mail
	cat >c <<-END
		base_dir = $W/b
		log_path = $W/err
		protocols = imap
		ssl = yes
		ssl_cert = <$CERT
		ssl_key = <$KEY
		ssl_min_protocol = TLSv$v
		ssl_dh =
		import_environment = TZ LD_PRELOAD KTLSSHIM_LOG MATRIX_SUBJECT
		mail_location = maildir:$W/mail
		default_internal_user = dovecot
		default_login_user = dovenull
		service imap-login {
		 chroot =
		 inet_listener imap {
		  port = 0
		 }
		 inet_listener imaps {
		  address = 127.0.0.1
		  port = $P
		 }
		}
		service anvil {
		 chroot =
		}
		passdb {
		 driver = static
		 args = password=x
		}
		userdb {
		 driver = static
		 args = uid=alice gid=alice home=$W/mail
		}
	END
	sed -i '/ssl_dh/d' c
	$SUBJECT dovecot -F -c c & server=$!
	ready $P
	$CURL -u alice:x -o out/mail "imaps://localhost:$P/INBOX;MAILINDEX=1"; status mail $?
	stop dovecot $server
}

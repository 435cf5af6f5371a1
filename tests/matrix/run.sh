#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# run.sh ROW VERSION plain|shim - one exchange of one row of the matrix, inside the release's root.
#
# ROW is a shell file: a head of comments, and a function `row` that starts the program under test
# by `$SUBJECT` (which preloads the shim, or does not), moves data through it and leaves in out/ what
# has to be the same both times: what arrived, and exit statuses (`status NAME NUMBER`).
# The other end of each connection is another program, without the shim.
set -u
row=$1 v=$2 mode=$3
W=/tmp/w
export HOME=/root LC_ALL=C W
M=/matrix BLOB=/matrix/blob CERT=/matrix/cert.pem KEY=/matrix/key.pem BOTH=/matrix/both.pem
P=4433 Q=4434
N=$(stat -c %s $BLOB)
V_=1_${v#1.}
PEER="python3 /matrix/peer.py"
CURL="curl -sS --max-time 100 --tlsv$v --tls-max $v --cacert $CERT --resolve localhost:$P:127.0.0.1"
SUBJECT="env MATRIX_SUBJECT=$MATRIX_ROW"
[ "$mode" = plain ] || SUBJECT="$SUBJECT LD_PRELOAD=/matrix/libktlsshim.so KTLSSHIM_LOG=$W/log"
# The subject as another user than root.
as() { # USER COMMAND...
	user=$1; shift
	setpriv --reuid "$user" --regid "$user" --clear-groups "$@"
}
status() { echo "$1 $2" >>$W/out/status; }
# Waits until a port is listened on, without a connection that would be counted.
ready() {
	for port in "$@"; do
		hex=$(printf ':%04X 00000000:0000 0A' "$port")
		hex6=$(printf ':%04X 00000000000000000000000000000000:0000 0A' "$port")
		n=0
		until grep -q -e "$hex" -e "$hex6" /proc/net/tcp /proc/net/tcp6 2>/dev/null; do
			n=$((n + 1))
			[ $n -lt 600 ] || { echo "nobody listens on $port" >&2; exit 90; }
			sleep 0.1
		done
	done
}
# Ends a program in order and keeps its status.
stop() { # NAME PID [SIGNAL]
	kill -s "${3:-TERM}" "$2"
	wait "$2"
	status "$1" $?
}
# A client that is slow in the middle of its request: does the subject sleep meanwhile?
idle() { $PEER idle "$1" "$v" "${2:-http}" >$W/idle; }

# A data directory $W/d, made once in this machine by COMMAND and then copied.
made() { # NAME OWNER COMMAND...
	cache=/matrix/made-$1 owner=$2
	shift 2
	(
		flock 9
		if [ ! -d "$cache" ]; then
			mkdir d && chown "$owner" d && "$@" >made 2>&1 && cp -a d "$cache.new" && rm -r d && mv "$cache.new" "$cache"
		fi
	) 9>"$cache.lock"
	cp -a "$cache" d
}
# A PostgreSQL cluster for the rows, made without the shim: $PG and $W/d.
pg() {
	PG=$(echo /usr/lib/postgresql/*/bin)
	PATH=$PG:$PATH
	cp $CERT $KEY .
	chown postgres cert.pem key.pem; chmod 600 key.pem
	made pg postgres as postgres $PG/initdb -D $W/d -A trust -U postgres --no-sync
	cat >>d/postgresql.conf <<-END
		listen_addresses = '127.0.0.1'
		port = $P
		unix_socket_directories = ''
		fsync = off
		ssl = on
		ssl_cert_file = '$W/cert.pem'
		ssl_key_file = '$W/key.pem'
		ssl_min_protocol_version = 'TLSv$v'
		ssl_max_protocol_version = 'TLSv$v'
	END
}
# The same for MariaDB: $MY.
my() {
	MY="--no-defaults --datadir=$W/d --socket=$W/s --bind-address=127.0.0.1 --port=$P --ssl-cert=$CERT --ssl-key=$KEY --user=mysql --tls-version=TLSv$v --max-allowed-packet=64M --pid-file=$W/pid"
	made my mysql mariadb-install-db --no-defaults --datadir=$W/d --user=mysql --auth-root-authentication-method=normal --skip-test-db
}

# Asks a proxy, whose other side is TLS, in clear text.
in_clear() {
	curl -sS -o out/get http://127.0.0.1:$P/blob; status get $?
	curl -sS -o out/post --data-binary @$BLOB http://127.0.0.1:$P/post; status post $?
}
# An FTP server's tree, and vsftpd's configuration in c.
ftp_root() {
	mkdir -p ftp/up empty; chown ftp ftp/up; cp $BLOB ftp/blob; chmod 644 ftp/blob
	cat >c <<-END
		listen=YES
		listen_address=127.0.0.1
		listen_port=$P
		background=NO
		anonymous_enable=YES
		anon_root=$W/ftp
		anon_upload_enable=YES
		write_enable=YES
		secure_chroot_dir=$W/empty
		ssl_enable=YES
		allow_anon_ssl=YES
		force_anon_data_ssl=YES
		force_anon_logins_ssl=YES
		require_ssl_reuse=NO
		ssl_ciphers=HIGH
		seccomp_sandbox=NO
		pasv_address=127.0.0.1
		rsa_cert_file=$CERT
		rsa_private_key_file=$KEY
	END
}
# Apache's configuration in c: what all rows have, then stdin.
apache_conf() {
	cat >c <<-END
		ServerRoot $W
		PidFile $W/pid
		ServerName localhost
		Listen 127.0.0.1:$P
		DefaultRuntimeDir $W
		User www-data
		Group www-data
		ErrorLog $W/err
		DocumentRoot $W/www
		$(for m in mpm_event authz_core mime socache_shmcb ssl proxy proxy_http; do
			echo "LoadModule ${m}_module /usr/lib/apache2/modules/mod_$m.so"; done)
		TypesConfig /dev/null
		<Directory $W/www>
		Options FollowSymLinks
		</Directory>
		StartServers 1
	END
	cat >>c
}
# lighttpd with these further ssl-conf-cmd.
lighttpd_row() {
	cat >c <<-END
		server.modules = ( "mod_openssl", "mod_proxy" )
		server.document-root = "$W/www"
		server.bind = "127.0.0.1"
		server.port = $P
		server.errorlog = "$W/err"
		server.upload-dirs = ( "$W" )
		ssl.engine = "enable"
		ssl.pemfile = "$BOTH"
		ssl.openssl.ssl-conf-cmd = ( "MinProtocol" => "TLSv$v", "MaxProtocol" => "TLSv$v"$1 )
		\$HTTP["url"] =~ "^/px/" { proxy.server = ( "" => ( ( "host" => "127.0.0.1", "port" => $Q ) ) ) }
	END
	$PEER http $Q & peer=$!
	$SUBJECT lighttpd -D -f c & server=$!
	ready $P $Q
	$CURL -o out/get https://localhost:$P/blob; status get $?
	$CURL -o out/post --data-binary @$BLOB https://localhost:$P/px/; status post $?
	idle $P
	stop lighttpd $server
	kill $peer
}
HAPROXY_DEFAULTS="
defaults
 mode http
 timeout client 100s
 timeout server 100s
 timeout connect 100s
"

# A Postfix that delivers to $W/box; rows add their lines to etc/master.cf and etc/main.cf.
mail_root() {
	mkdir -p etc q lib box
	chown postfix lib; chmod 1777 box
	cat >etc/main.cf <<-END
		compatibility_level = 3.6
		queue_directory = $W/q
		data_directory = $W/lib
		daemon_directory = /usr/lib/postfix/sbin
		command_directory = /usr/sbin
		mail_owner = postfix
		setgid_group = postdrop
		myhostname = localhost
		mydestination = localhost
		inet_interfaces = 127.0.0.1
		alias_maps =
		alias_database =
		local_recipient_maps =
		mail_spool_directory = $W/box
		mailbox_size_limit = 0
		message_size_limit = 0
		maillog_file = $W/box/maillog
		maillog_file_prefixes = $W
		import_environment = LD_PRELOAD KTLSSHIM_LOG MATRIX_SUBJECT MAIL_CONFIG
		smtpd_tls_security_level = may
		smtpd_tls_cert_file = $CERT
		smtpd_tls_key_file = $KEY
		smtpd_tls_protocols = >=TLSv$v, <=TLSv$v
		smtp_tls_protocols = >=TLSv$v, <=TLSv$v
		smtpd_relay_restrictions = permit_mynetworks reject
	END
	sed -e '/^smtp  *inet/d' -e 's/^\([a-z]*  *[a-z]*  *[-ny]  *[-ny]  *\)y /\1n /' -e 's/^\([a-z]*  *[a-z]*  *[-ny]  *[-ny]  *\)- /\1n /' /usr/share/postfix/master.cf.dist >etc/master.cf
	mkdir -p q/pid q/active q/bounce q/corrupt q/defer q/deferred q/flush q/hold q/incoming q/maildrop q/private q/public q/saved q/trace
	chown postfix q/*; chown root q/pid; chgrp postdrop q/public q/maildrop; chmod 730 q/maildrop; chmod 710 q/public
}

mkdir -p $W/out $W/www
chmod 1777 $W $W/out $W/www
cd $W || exit 91
ln -s $BLOB $W/www/blob
: >$W/log
chmod 666 $W/log
. "/matrix/rows/$row"
row

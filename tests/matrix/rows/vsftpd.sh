# SPDX-License-Identifier: MIT OR Apache-2.0
# program: vsftpd
# role: server
# note: FTPS; data on descriptors that other processes passed
# rules: R17 R22 R27
row() {
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
		seccomp_sandbox=NO
		pasv_address=127.0.0.1
		rsa_cert_file=$CERT
		rsa_private_key_file=$KEY
	END
	$SUBJECT vsftpd c & server=$!
	ready $P
	F="$CURL --ssl-reqd --disable-epsv"
	$F -o out/get ftp://localhost:$P/blob; status get $?
	$F -T $BLOB ftp://localhost:$P/up/x; status put $?
	cp ftp/up/x out/put
	stop vsftpd $server
}

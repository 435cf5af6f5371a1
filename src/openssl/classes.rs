//! Every function of libssl, from 1.1.1 to 4.0, that takes an `SSL *`, and what the
//! shim does about it. A new OpenSSL brings new functions; one that is in nobody's
//! list fails the test below, so that somebody decides before a user finds out.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Exported by us.
    Hook,
    /// Goes straight to OpenSSL, and that is right.
    Pass,
    /// Belongs to objects that we never touch.
    Refuse,
}

pub struct Group {
    pub class: Class,
    pub why: &'static str,
    pub names: &'static [&'static str],
}

#[rustfmt::skip]
pub const GROUPS: &[Group] = &[
    Group { class: Class::Hook, why: "Moves records, changes keys, changes where records go, or must count what we hold.", names: &[
        "SSL_accept", "SSL_clear", "SSL_connect", "SSL_set_accept_state", "SSL_set_connect_state", "SSL_ctrl", "SSL_do_handshake", "SSL_dup",
        "SSL_get_error", "SSL_has_pending", "SSL_key_update", "SSL_net_read_desired",
        "SSL_net_write_desired", "SSL_new_session_ticket", "SSL_peek", "SSL_peek_ex", "SSL_pending",
        "SSL_read", "SSL_read_early_data", "SSL_read_ex", "SSL_renegotiate", "SSL_renegotiate_abbreviated",
        "SSL_sendfile", "SSL_set0_rbio", "SSL_set0_wbio", "SSL_set_SSL_CTX", "SSL_set_bio",
        "SSL_set_block_padding", "SSL_set_block_padding_ex", "SSL_set_fd",
        "SSL_set_record_padding_callback", "SSL_set_rfd", "SSL_set_wfd", "SSL_shutdown", "SSL_shutdown_ex",
        "SSL_stateless", "SSL_verify_client_post_handshake", "SSL_want", "SSL_write",
        "SSL_write_early_data", "SSL_write_ex", "SSL_write_ex2",
    ] },
    Group { class: Class::Pass, why: "Reads state that OpenSSL itself keeps true: its state machine sees every handshake and control record.", names: &[
        "SRP_Calc_A_param", "SSL_CIPHER_find", "SSL_bytes_to_cipher_list", "SSL_check_chain",
        "SSL_check_private_key", "SSL_client_hello_get0_ciphers",
        "SSL_client_hello_get0_compression_methods", "SSL_client_hello_get0_ext",
        "SSL_client_hello_get0_legacy_version", "SSL_client_hello_get0_session_id",
        "SSL_client_hello_get1_extensions_present", "SSL_client_hello_get_extension_order",
        "SSL_client_hello_isv2", "SSL_client_version", "SSL_ct_is_enabled", "SSL_ech_get1_retry_config",
        "SSL_ech_get1_status", "SSL_get0_CA_list", "SSL_get0_alpn_protos", "SSL_get0_alpn_selected",
        "SSL_get0_client_cert_type", "SSL_get0_dane", "SSL_get0_dane_authority", "SSL_get0_dane_tlsa",
        "SSL_get0_group_name", "SSL_get0_next_proto_negotiated", "SSL_get0_param", "SSL_get0_peer_CA_list",
        "SSL_get0_peer_certificate", "SSL_get0_peer_rpk", "SSL_get0_peer_scts", "SSL_get0_peername",
        "SSL_get0_security_ex_data", "SSL_get0_server_cert_type", "SSL_get0_shared_sigalg",
        "SSL_get0_sigalg", "SSL_get0_verified_chain", "SSL_get1_compressed_cert", "SSL_get1_echstore",
        "SSL_get1_peer_certificate", "SSL_get1_session", "SSL_get1_supported_ciphers", "SSL_get_SSL_CTX",
        "SSL_get_certificate", "SSL_get_cipher_list", "SSL_get_ciphers", "SSL_get_client_CA_list",
        "SSL_get_client_ciphers", "SSL_get_current_cipher", "SSL_get_current_compression",
        "SSL_get_current_expansion", "SSL_get_default_passwd_cb", "SSL_get_default_passwd_cb_userdata",
        "SSL_get_default_timeout", "SSL_get_early_data_status", "SSL_get_ex_data", "SSL_get_handshake_rtt",
        "SSL_get_info_callback", "SSL_get_key_update_type", "SSL_get_max_early_data",
        "SSL_get_negotiated_client_cert_type", "SSL_get_negotiated_server_cert_type", "SSL_get_num_tickets",
        "SSL_get_options", "SSL_get_peer_cert_chain", "SSL_get_peer_certificate",
        "SSL_get_peer_signature_type_nid", "SSL_get_pending_cipher", "SSL_get_privatekey",
        "SSL_get_psk_identity", "SSL_get_psk_identity_hint", "SSL_get_quiet_shutdown", "SSL_get_read_ahead",
        "SSL_get_record_padding_callback_arg", "SSL_get_recv_max_early_data", "SSL_get_security_callback",
        "SSL_get_security_level", "SSL_get_selected_srtp_profile", "SSL_get_servername",
        "SSL_get_servername_type", "SSL_get_session", "SSL_get_shared_ciphers", "SSL_get_shared_sigalgs",
        "SSL_get_shutdown", "SSL_get_sigalgs", "SSL_get_signature_type_nid", "SSL_get_srp_N",
        "SSL_get_srp_g", "SSL_get_srp_userinfo", "SSL_get_srp_username", "SSL_get_srtp_profiles",
        "SSL_get_ssl_method", "SSL_get_state", "SSL_get_verify_callback", "SSL_get_verify_depth",
        "SSL_get_verify_mode", "SSL_get_verify_result", "SSL_get_version", "SSL_group_to_name",
        "SSL_has_matching_session_id", "SSL_in_before", "SSL_in_init", "SSL_is_dtls",
        "SSL_is_init_finished", "SSL_is_quic", "SSL_is_server", "SSL_is_tls", "SSL_renegotiate_pending",
        "SSL_rstate_string", "SSL_rstate_string_long", "SSL_session_reused", "SSL_state_string",
        "SSL_state_string_long", "SSL_version",
    ] },
    Group { class: Class::Pass, why: "Configures what a handshake will use. Moves no record and changes no key of a running connection.", names: &[
        "SSL_CONF_CTX_set_ssl", "SSL_SRP_CTX_free", "SSL_SRP_CTX_init", "SSL_add1_dnsname", "SSL_add1_host",
        "SSL_add1_ipaddr", "SSL_add1_to_CA_list", "SSL_add_client_CA", "SSL_add_expected_rpk",
        "SSL_callback_ctrl", "SSL_certs_clear", "SSL_clear_options", "SSL_compress_certs", "SSL_config",
        "SSL_dane_clear_flags", "SSL_dane_enable", "SSL_dane_set_flags", "SSL_dane_tlsa_add",
        "SSL_ech_set1_grease_suite", "SSL_ech_set1_outer_alpn_protos", "SSL_ech_set1_outer_server_name",
        "SSL_ech_set1_server_names", "SSL_ech_set_grease_type", "SSL_enable_ct", "SSL_set0_CA_list",
        "SSL_set0_security_ex_data", "SSL_set0_tmp_dh_pkey", "SSL_set1_cert_comp_preference",
        "SSL_set1_client_cert_type", "SSL_set1_compressed_cert", "SSL_set1_dnsname",
        "SSL_set1_ech_config_list", "SSL_set1_echstore", "SSL_set1_host", "SSL_set1_ipaddr",
        "SSL_set1_param", "SSL_set1_server_cert_type", "SSL_set_alpn_protos", "SSL_set_cipher_list",
        "SSL_set_ciphersuites", "SSL_set_client_CA_list", "SSL_set_ex_data", "SSL_set_generate_session_id",
        "SSL_set_hostflags", "SSL_set_max_early_data", "SSL_set_num_tickets", "SSL_set_options",
        "SSL_set_post_handshake_auth", "SSL_set_purpose", "SSL_set_recv_max_early_data",
        "SSL_set_security_level", "SSL_set_session_id_context", "SSL_set_session_ticket_ext",
        "SSL_set_srp_server_param", "SSL_set_srp_server_param_pw", "SSL_set_tlsext_max_fragment_length",
        "SSL_set_tlsext_use_srtp", "SSL_set_trust", "SSL_set_verify", "SSL_set_verify_depth",
        "SSL_set_verify_result", "SSL_srp_server_param_with_username", "SSL_use_PrivateKey",
        "SSL_use_PrivateKey_ASN1", "SSL_use_PrivateKey_file", "SSL_use_RSAPrivateKey",
        "SSL_use_RSAPrivateKey_ASN1", "SSL_use_RSAPrivateKey_file", "SSL_use_cert_and_key",
        "SSL_use_certificate", "SSL_use_certificate_ASN1", "SSL_use_certificate_chain_file",
        "SSL_use_certificate_file", "SSL_use_psk_identity_hint",
    ] },
    Group { class: Class::Pass, why: "Changes OpenSSL's own state flags or session, which every call of ours reads afresh before it decides.", names: &[
        "SSL_copy_session_id", "SSL_set_debug",
        "SSL_set_quiet_shutdown", "SSL_set_session", "SSL_set_shutdown", "SSL_set_ssl_method",
    ] },
    Group { class: Class::Pass, why: "OpenSSL's own buffers. What they hold shows in SSL_has_pending and in the byte counters, which gate a change of lanes.", names: &[
        "SSL_alloc_buffers", "SSL_free_buffers", "SSL_set_default_read_buffer_len", "SSL_set_read_ahead",
        "SSL_set_record_padding_callback_arg",
    ] },
    Group { class: Class::Pass, why: "Names what to wait for. A readable TCP socket means the same with and without the kernel's records.", names: &[
        "SSL_get_all_async_fds", "SSL_get_async_status", "SSL_get_changed_async_fds",
        "SSL_get_event_timeout", "SSL_get_fd", "SSL_get_rbio", "SSL_get_rfd", "SSL_get_rpoll_descriptor",
        "SSL_get_wbio", "SSL_get_wfd", "SSL_get_wpoll_descriptor", "SSL_handle_events",
        "SSL_waiting_for_async",
    ] },
    Group { class: Class::Pass, why: "Sets a callback of the handshake, which OpenSSL goes on to run.", names: &[
        "SSL_ech_set_callback", "SSL_set_allow_early_data_cb", "SSL_set_async_callback",
        "SSL_set_async_callback_arg", "SSL_set_cert_cb", "SSL_set_ct_validation_callback",
        "SSL_set_default_passwd_cb", "SSL_set_default_passwd_cb_userdata",
        "SSL_set_not_resumable_session_callback", "SSL_set_psk_client_callback",
        "SSL_set_psk_find_session_callback", "SSL_set_psk_server_callback",
        "SSL_set_psk_use_session_callback", "SSL_set_security_callback", "SSL_set_session_secret_cb",
        "SSL_set_session_ticket_ext_cb", "SSL_set_tmp_dh_callback",
    ] },
    Group { class: Class::Pass, why: "Observes messages. Application records in the kernel are not reported: a documented limit.", names: &[
        "SSL_set_info_callback", "SSL_set_msg_callback", "SSL_trace",
    ] },
    Group { class: Class::Pass, why: "Derived from the handshake, which OpenSSL ran.", names: &[
        "SSL_client_hello_get0_random", "SSL_export_keying_material", "SSL_export_keying_material_early",
        "SSL_get_client_random", "SSL_get_finished", "SSL_get_peer_finished", "SSL_get_server_random",
    ] },
    Group { class: Class::Pass, why: "A reference. Our state goes with the ex_data free callback, at the last one.", names: &[
        "SSL_free", "SSL_up_ref",
    ] },
    Group { class: Class::Refuse, why: "DTLS: no state is ever made for such an object.", names: &[
        "DTLS_get_data_mtu", "DTLS_set_timer_cb", "DTLSv1_listen",
    ] },
    Group { class: Class::Refuse, why: "QUIC: no state is ever made for such an object.", names: &[
        "SSL_accept_connection", "SSL_accept_stream", "SSL_get0_connection", "SSL_get0_domain",
        "SSL_get0_listener", "SSL_get_accept_connection_queue_len", "SSL_get_accept_stream_queue_len",
        "SSL_get_blocking_mode", "SSL_get_conn_close_info", "SSL_get_domain_flags", "SSL_get_peer_addr",
        "SSL_get_stream_id", "SSL_get_stream_read_error_code", "SSL_get_stream_read_state",
        "SSL_get_stream_type", "SSL_get_stream_write_error_code", "SSL_get_stream_write_state",
        "SSL_get_value_uint", "SSL_inject_net_dgram", "SSL_is_connection", "SSL_is_domain",
        "SSL_is_listener", "SSL_is_stream_local", "SSL_listen", "SSL_listen_ex", "SSL_new_from_listener",
        "SSL_new_listener_from", "SSL_new_stream", "SSL_set1_initial_peer_addr", "SSL_set_blocking_mode",
        "SSL_set_default_stream_mode", "SSL_set_incoming_stream_policy", "SSL_set_quic_tls_cbs",
        "SSL_set_quic_tls_early_data_enabled", "SSL_set_quic_tls_transport_params", "SSL_set_value_uint",
        "SSL_stream_conclude", "SSL_stream_reset",
    ] },
];

pub fn class(name: &str) -> Option<Class> {
    GROUPS
        .iter()
        .find(|g| g.names.contains(&name))
        .map(|g| g.class)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // A test may fail loudly.
#[path = "classes_test.rs"]
mod tests;

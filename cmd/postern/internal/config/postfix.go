package config

import (
	"fmt"
	"slices"
)

// A postfixOption is an option of main.cf or master.cf, and what replaces it.
type postfixOption struct {
	name string
	keys []string // the most likely one first; as in allKeys
	note string   // what postern does, if there is no key
}

// postfixOptions is the relation between Postfix's options and the keys of the file. The
// hints in errors are made from it. The comments of config.toml.example and the tables in
// docs are tested against it.
func postfixOptions() []postfixOption {
	key := func(name string, keys ...string) postfixOption { return postfixOption{name: name, keys: keys} }
	none := func(name, note string) postfixOption { return postfixOption{name: name, note: note} }
	return []postfixOption{
		key("myhostname", "server.hostname"),
		key("myorigin", "server.origin"),
		key("mail_owner", "server.user"),
		key("message_size_limit", "server.message_size_limit"),
		key("smtpd_hide_client_session", "server.hide_client"),
		key("smtpd_forbid_bare_newline", "server.bare_newline"),
		key("smtpd_upstream_proxy_protocol", "server.proxy_trusted"),
		key("maxproc", "server.limits.connections"),
		key("default_process_limit", "server.limits.connections"),
		key("smtpd_client_connection_count_limit", "server.limits.connections_per_client"),
		key("smtpd_recipient_limit", "server.limits.recipients"),
		key("smtpd_recipient_overshoot_limit", "server.limits.recipient_overshoot"),
		key("smtpd_hard_error_limit", "server.limits.refused_commands"),
		key("smtpd_junk_command_limit", "server.limits.junk_commands"),
		key("smtpd_timeout", "server.limits.command_timeout", "server.limits.login_command_timeout", "server.limits.data_timeout"),
		none("smtpd_delay_reject", "it always evaluates the restrictions when a recipient is named"),
		none("smtpd_forbidden_commands", "it always closes connections that send HTTP, SSH or header fields"),
		none("strict_rfc821_envelopes", "it accepts addresses as Postfix does by default"),
		none("append_at_myorigin", "it always completes addresses without a domain"),
		none("disable_vrfy_command", "it answers VRFY with 252"),
		none("broken_sasl_auth_clients", "it does not send AUTH= to old clients"),

		key("inet_interfaces", "listener[].address"),
		key("smtpd_tls_security_level", "listener[].mode"),
		key("smtpd_tls_wrappermode", "listener[].mode"),
		key("smtpd_sasl_auth_enable", "listener[].require_auth"),
		key("smtpd_discard_ehlo_keywords", "listener[].discard_ehlo_keywords"),

		none("smtpd_tls_auth_only", "it never offers AUTH without TLS"),
		none("smtpd_tls_mandatory_ciphers", "it uses the cipher suites of Go"),
		key("smtpd_tls_mandatory_protocols", "tls.min_version"),
		key("smtpd_tls_session_cache_timeout", "tls.session_tickets"),
		key("tls_ssl_options", "tls.session_tickets"),
		key("smtpd_tls_chain_files", "tls.certificates[].cert"),
		key("smtpd_tls_cert_file", "tls.certificates[].cert"),
		key("smtpd_tls_key_file", "tls.certificates[].key"),
		key("tls_server_sni_maps", "tls.certificates[].cert"),

		key("smtpd_sasl_type", "auth.stores[].kind"),
		key("smtpd_sasl_path", "auth.stores[].path"),
		key("smtpd_sasl_service", "auth.stores[].service"),
		key("smtpd_sasl_local_domain", "auth.realm"),
		key("smtpd_sasl_security_options", "auth.security_options"),
		key("smtpd_sasl_tls_security_options", "auth.security_options"),
		key("smtpd_sasl_mechanism_filter", "auth.mechanisms"),
		key("smtpd_client_auth_rate_limit", "auth.penalty_wait"),
		key("smtpd_error_sleep_time", "auth.penalty_wait"),
		key("smtpd_client_event_limit_exceptions", "auth.penalty_exempt"),

		key("smtpd_client_restrictions", "policy.client"),
		key("smtpd_helo_restrictions", "policy.helo"),
		key("smtpd_sender_restrictions", "policy.sender"),
		key("smtpd_relay_restrictions", "policy.relay"),
		key("smtpd_recipient_restrictions", "policy.recipient"),
		key("smtpd_data_restrictions", "policy.data"),
		key("smtpd_end_of_data_restrictions", "policy.end_of_data"),
		key("mynetworks", "policy.mynetworks"),
		key("relay_domains", "policy.relay_domains"),
		key("mydestination", "policy.local_domains"),
		key("virtual_mailbox_domains", "policy.local_domains"),
		key("virtual_alias_domains", "policy.local_domains"),

		key("relayhost", "relay.next_hops"),
		key("smtp_fallback_relay", "relay.next_hops"),
		key("smtp_helo_name", "relay.helo_name"),
		key("smtp_sasl_auth_enable", "relay.credentials"),
		key("smtp_sasl_password_maps", "relay.credentials"),
		key("smtp_tls_CAfile", "relay.ca_file"),
		key("smtp_tls_security_level", "relay.verify"),
		key("smtp_connect_timeout", "relay.connect_timeout"),
		key("smtp_helo_timeout", "relay.connect_timeout"),
		key("smtp_mail_timeout", "relay.command_timeout"),
		key("smtp_rcpt_timeout", "relay.command_timeout"),
		key("smtp_data_xfer_timeout", "relay.data_timeout"),
		key("smtp_data_done_timeout", "relay.data_timeout"),
		key("smtp_destination_concurrency_limit", "relay.pool.connections"),
		key("smtp_connection_cache_time_limit", "relay.pool.idle_time"),
		key("smtp_connection_reuse_count_limit", "relay.pool.messages"),
		key("smtpd_milters", "relay.dkim[].key"),
		key("queue_directory", "relay.spool"),
		key("maximal_queue_lifetime", "relay.spool_lifetime"),
		key("bounce_queue_lifetime", "relay.spool_lifetime"),
		key("qmgr_message_active_limit", "relay.spool_messages"),
		key("queue_minfree", "relay.spool_size"),
		none("delay_warning_time", "it reports a delay after 4 hours to senders that ask for it"),
		none("notify_classes", "it sends no copies to the postmaster"),

		key("syslog_name", "log.syslog_name", "listener[].name"),
		key("maillog_file", "log.destination"),
		key("syslog_facility", "log.destination"),
		key("debug_peer_level", "log.level"),
		key("smtpd_tls_loglevel", "log.level"),
	}
}

// postfixHint returns the hint for a key that is an option of Postfix, or "".
func postfixHint(name string) string {
	all := postfixOptions()
	i := slices.IndexFunc(all, func(o postfixOption) bool { return o.name == name })
	switch {
	case i < 0:
		return ""
	case len(all[i].keys) == 0:
		return fmt.Sprintf("that is Postfix's name, and postern has no key for it: %s; remove the line", all[i].note)
	}
	at, key := cutLast(all[i].keys[0])
	if key == name { // the same name in another section
		return ""
	}
	return fmt.Sprintf("that is Postfix's name; here it is %s in %s", key, section(at))
}

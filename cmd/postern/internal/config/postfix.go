package config

import (
	"fmt"
	"slices"
)

// A postfixOption is an option of main.cf or master.cf, and what replaces it.
type postfixOption struct {
	name string
	keys keys   // the most likely one first; as in allKeys
	note string // what postern does, if there is no key
}

type keys []string

// postfixOptions is the relation between Postfix's options and the keys of the file. The
// hints in errors are made from it. The comments of config.toml.example and the tables in
// docs are tested against it.
var postfixOptions = []postfixOption{
	{"myhostname", keys{"server.hostname"}, ""},
	{"myorigin", keys{"server.origin"}, ""},
	{"mail_owner", keys{"server.user"}, ""},
	{"data_directory", keys{"server.state_dir"}, ""},
	{"message_size_limit", keys{"server.message_size_limit"}, ""},
	{"smtpd_hide_client_session", keys{"server.hide_client"}, ""},
	{"smtpd_forbid_bare_newline", keys{"server.bare_newline"}, ""},
	{"smtpd_upstream_proxy_protocol", keys{"server.proxy_trusted"}, ""},
	{"maxproc", keys{"server.limits.connections"}, ""},
	{"default_process_limit", keys{"server.limits.connections"}, ""},
	{"smtpd_client_connection_count_limit", keys{"server.limits.connections_per_client"}, ""},
	{"smtpd_recipient_limit", keys{"server.limits.recipients"}, ""},
	{"smtpd_recipient_overshoot_limit", keys{"server.limits.recipient_overshoot"}, ""},
	{"smtpd_hard_error_limit", keys{"server.limits.refused_commands"}, ""},
	{"smtpd_junk_command_limit", keys{"server.limits.junk_commands"}, ""},
	{"smtpd_timeout", keys{"server.limits.command_timeout", "server.limits.login_command_timeout", "server.limits.data_timeout"}, ""},
	{"smtpd_min_data_rate", keys{"server.limits.min_data_rate"}, ""},
	{"smtpd_per_request_deadline", nil, "it always has deadlines for commands, and server.limits.min_data_rate for messages"},
	{"smtpd_delay_reject", nil, "it always evaluates the restrictions when a recipient is named"},
	{"smtpd_forbidden_commands", nil, "it always closes connections that send HTTP, SSH or header fields"},
	{"strict_rfc821_envelopes", nil, "it accepts addresses as Postfix does by default"},
	{"append_at_myorigin", nil, "it always completes addresses without a domain"},
	{"disable_vrfy_command", nil, "it answers VRFY with 252"},
	{"broken_sasl_auth_clients", nil, "it does not send AUTH= to old clients"},

	{"inet_interfaces", keys{"listener[].address"}, ""},
	{"smtpd_tls_security_level", keys{"listener[].mode"}, ""},
	{"smtpd_tls_wrappermode", keys{"listener[].mode"}, ""},
	{"smtpd_sasl_auth_enable", keys{"listener[].require_auth"}, ""},
	{"smtpd_discard_ehlo_keywords", keys{"listener[].discard_ehlo_keywords"}, ""},

	{"smtpd_tls_auth_only", nil, "it never offers AUTH without TLS"},
	{"smtpd_tls_mandatory_ciphers", nil, "it uses the cipher suites of Go"},
	{"smtpd_tls_mandatory_protocols", keys{"tls.min_version"}, ""},
	{"smtpd_tls_session_cache_timeout", keys{"tls.session_tickets"}, ""},
	{"tls_ssl_options", keys{"tls.session_tickets"}, ""},
	{"smtpd_tls_chain_files", keys{"tls.certificates[].cert"}, ""},
	{"smtpd_tls_cert_file", keys{"tls.certificates[].cert"}, ""},
	{"smtpd_tls_key_file", keys{"tls.certificates[].key"}, ""},
	{"tls_server_sni_maps", keys{"tls.certificates[].cert"}, ""},

	{"smtpd_sasl_type", keys{"auth.stores[].kind"}, ""},
	{"smtpd_sasl_path", keys{"auth.stores[].path"}, ""},
	{"smtpd_sasl_service", keys{"auth.stores[].service"}, ""},
	{"smtpd_sasl_local_domain", keys{"auth.realm"}, ""},
	{"smtpd_sasl_security_options", keys{"auth.security_options"}, ""},
	{"smtpd_sasl_tls_security_options", keys{"auth.security_options"}, ""},
	{"smtpd_sasl_mechanism_filter", keys{"auth.mechanisms"}, ""},
	{"smtpd_client_auth_rate_limit", keys{"auth.penalty_wait"}, ""},
	{"smtpd_error_sleep_time", keys{"auth.penalty_wait"}, ""},
	{"smtpd_client_event_limit_exceptions", keys{"auth.penalty_exempt"}, ""},

	{"smtpd_client_restrictions", keys{"policy.client"}, ""},
	{"smtpd_helo_restrictions", keys{"policy.helo"}, ""},
	{"smtpd_sender_restrictions", keys{"policy.sender"}, ""},
	{"smtpd_relay_restrictions", keys{"policy.relay"}, ""},
	{"smtpd_recipient_restrictions", keys{"policy.recipient"}, ""},
	{"smtpd_data_restrictions", keys{"policy.data"}, ""},
	{"smtpd_end_of_data_restrictions", keys{"policy.end_of_data"}, ""},
	{"mynetworks", keys{"policy.mynetworks"}, ""},
	{"relay_domains", keys{"policy.relay_domains"}, ""},
	{"mydestination", keys{"policy.local_domains"}, ""},
	{"virtual_mailbox_domains", keys{"policy.local_domains"}, ""},
	{"virtual_alias_domains", keys{"policy.local_domains"}, ""},

	{"relayhost", keys{"relay.next_hops"}, ""},
	{"smtp_fallback_relay", keys{"relay.next_hops"}, ""},
	{"smtp_helo_name", keys{"relay.helo_name"}, ""},
	{"smtp_sasl_auth_enable", keys{"relay.credentials"}, ""},
	{"smtp_sasl_password_maps", keys{"relay.credentials"}, ""},
	{"smtp_tls_CAfile", keys{"relay.ca_file"}, ""},
	{"smtp_tls_security_level", keys{"relay.verify"}, ""},
	{"smtp_connect_timeout", keys{"relay.connect_timeout"}, ""},
	{"smtp_helo_timeout", keys{"relay.connect_timeout"}, ""},
	{"smtp_mail_timeout", keys{"relay.command_timeout"}, ""},
	{"smtp_rcpt_timeout", keys{"relay.command_timeout"}, ""},
	{"smtp_data_xfer_timeout", keys{"relay.data_timeout"}, ""},
	{"smtp_data_done_timeout", keys{"relay.data_timeout"}, ""},
	{"smtp_destination_concurrency_limit", keys{"relay.pool.connections"}, ""},
	{"smtp_connection_cache_time_limit", keys{"relay.pool.idle_time"}, ""},
	{"smtp_connection_reuse_count_limit", keys{"relay.pool.messages"}, ""},
	{"smtpd_milters", keys{"relay.dkim[].key"}, ""},
	{"queue_directory", keys{"relay.spool"}, ""},
	{"maximal_queue_lifetime", keys{"relay.spool_lifetime"}, ""},
	{"bounce_queue_lifetime", keys{"relay.spool_lifetime"}, ""},
	{"qmgr_message_active_limit", keys{"relay.spool_messages"}, ""},
	{"queue_minfree", keys{"relay.spool_size"}, ""},
	{"delay_warning_time", nil, "it reports a delay after 4 hours to senders that ask for it"},
	{"notify_classes", nil, "it sends no copies to the postmaster"},

	{"syslog_name", keys{"log.syslog_name", "listener[].name"}, ""},
	{"maillog_file", keys{"log.destination"}, ""},
	{"syslog_facility", keys{"log.destination"}, ""},
	{"debug_peer_level", keys{"log.level"}, ""},
	{"smtpd_tls_loglevel", keys{"log.level"}, ""},
}

// postfixHint returns the hint for a key that is an option of Postfix, or "".
func postfixHint(name string) string {
	i := slices.IndexFunc(postfixOptions, func(o postfixOption) bool { return o.name == name })
	switch {
	case i < 0:
		return ""
	case len(postfixOptions[i].keys) == 0:
		return fmt.Sprintf("that is Postfix's name, and postern has no key for it: %s; remove the line", postfixOptions[i].note)
	}
	at, key := cutLast(postfixOptions[i].keys[0])
	if key == name { // the same name in another section
		return ""
	}
	return fmt.Sprintf("that is Postfix's name; here it is %s in %s", key, section(at))
}

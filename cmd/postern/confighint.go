package main

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"postern/internal/text"
)

// hintForKey says what an unknown key may have been meant to be: a parameter of
// Postfix, a key of the same section, or a key of another one.
func hintForKey(path, key string, known []string) string {
	if ours := oursForPostfix[key]; ours != "" {
		at, name := cutLast(ours)
		return fmt.Sprintf("that is Postfix's name; here it is %s in %s", name, section(at))
	}
	if near := text.Nearest(key, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if home := homeOf(key); home != "" {
		return fmt.Sprintf("%q belongs in %s", key, home)
	}
	return fmt.Sprintf("%s takes %s", sectionOrFile(path), strings.Join(known, ", "))
}

func sectionOrFile(path string) string {
	if path == "" {
		return "the file"
	}
	return section(path)
}

// homeOf finds the sections that know key.
func homeOf(key string) string {
	var homes []string
	for _, path := range allKeys() {
		if at, last := cutLast(path); last == key {
			homes = append(homes, section(at))
		}
	}
	return strings.Join(homes, " or ")
}

// allKeys lists the path of every key that a file can have. Arrays of tables
// have [] behind their names.
func allKeys() []string {
	keys := keysOf("", reflect.TypeFor[Config]())
	slices.Sort(keys)
	return keys
}

func keysOf(path string, t reflect.Type) (keys []string) {
	if self, ok := reflect.New(t).Interface().(selfDecoder); ok {
		return self.keys(path)
	}
	switch {
	case isLeaf(t):
		return []string{path}
	case t.Kind() == reflect.Pointer:
		return keysOf(path, t.Elem())
	case t.Kind() == reflect.Slice:
		return keysOf(path+"[]", t.Elem())
	}
	for key, f := range fieldsOf(reflect.New(t).Elem()) {
		keys = append(keys, keysOf(join(path, key), f.Type())...)
	}
	return keys
}

func cutLast(path string) (before, last string) {
	i := strings.LastIndexByte(path, '.')
	return path[:max(i, 0)], path[i+1:]
}

var (
	bareText   = regexp.MustCompile(`^\s*[\w."-]+\s*=\s*([A-Za-z/][^"#]*)`)
	bareBool   = regexp.MustCompile(`(?i)=\s*(yes|no|on|off|true|false)\s*(#|$)`)
	colonPair  = regexp.MustCompile(`^\s*[\w.-]+\s*:`)
	openTable  = regexp.MustCompile(`^\s*\[[^\]]*$`)
	iniComment = regexp.MustCompile(`^\s*;`)
	noEquals   = regexp.MustCompile(`^[^=#]*$`)
)

// hintForSyntax looks at a line that is not TOML for what people write
// instead.
func hintForSyntax(line string) string {
	switch {
	case iniComment.MatchString(line):
		return "a comment begins with #"
	case colonPair.MatchString(line):
		return "a key and its value have = between them, not a colon"
	case openTable.MatchString(line):
		return "the name of a section ends with ]"
	case bareBool.MatchString(line):
		return "write true or false"
	case bareText.MatchString(line):
		return `text stands in quotes, as in key = "value"`
	case strings.Count(line, `"`)%2 == 1:
		return `a quote (") is missing or one too many`
	case noEquals.MatchString(line):
		return `a line is key = value, or [section]`
	}
	return ""
}

// oursForPostfix tells those who write what they know from main.cf where it
// has gone.
var oursForPostfix = map[string]string{
	"myhostname":                          "server.hostname",
	"myorigin":                            "server.origin",
	"mail_owner":                          "server.user",
	"smtpd_hide_client_session":           "server.hide_client",
	"smtpd_forbid_bare_newline":           "server.bare_newline",
	"smtpd_upstream_proxy_protocol":       "server.proxy_trusted",
	"smtpd_client_connection_count_limit": "server.limits.connections_per_client",
	"smtpd_recipient_limit":               "server.limits.recipients",
	"smtpd_recipient_overshoot_limit":     "server.limits.recipient_overshoot",
	"smtpd_hard_error_limit":              "server.limits.refused_commands",
	"smtpd_junk_command_limit":            "server.limits.junk_commands",
	"smtpd_discard_ehlo_keywords":         "listener[0].discard_ehlo_keywords",
	"smtpd_timeout":                       "server.limits.command_timeout",
	"inet_interfaces":                     "listener[0].address",
	"smtpd_tls_security_level":            "listener[0].mode",
	"smtpd_tls_wrappermode":               "listener[0].mode",
	"smtpd_sasl_auth_enable":              "listener[0].require_auth",
	"smtpd_tls_mandatory_protocols":       "tls.min_version",
	"smtpd_tls_session_cache_timeout":     "tls.session_tickets",
	"smtpd_tls_chain_files":               "tls.certificates[0].cert",
	"smtpd_tls_cert_file":                 "tls.certificates[0].cert",
	"smtpd_tls_key_file":                  "tls.certificates[0].key",
	"tls_server_sni_maps":                 "tls.certificates[0].cert",
	"smtpd_client_event_limit_exceptions": "auth.penalty_exempt",
	"smtpd_sasl_type":                     "auth.stores[0].kind",
	"smtpd_sasl_path":                     "auth.stores[0].path",
	"smtpd_sasl_local_domain":             "auth.realm",
	"smtpd_sasl_security_options":         "auth.security_options",
	"smtpd_sasl_mechanism_filter":         "auth.mechanisms",
	"smtpd_client_restrictions":           "policy.client",
	"smtpd_helo_restrictions":             "policy.helo",
	"smtpd_sender_restrictions":           "policy.sender",
	"smtpd_relay_restrictions":            "policy.relay",
	"smtpd_recipient_restrictions":        "policy.recipient",
	"smtpd_data_restrictions":             "policy.data",
	"smtpd_end_of_data_restrictions":      "policy.end_of_data",
	"mydestination":                       "policy.local_domains",
	"relayhost":                           "relay.next_hops",
	"smtp_fallback_relay":                 "relay.next_hops",
	"smtp_helo_name":                      "relay.helo_name",
	"smtp_sasl_password_maps":             "relay.credentials",
	"smtp_tls_CAfile":                     "relay.ca_file",
	"smtp_tls_security_level":             "relay.verify",
	"smtp_connect_timeout":                "relay.connect_timeout",
	"smtp_rcpt_timeout":                   "relay.command_timeout",
	"smtp_data_done_timeout":              "relay.data_timeout",
	"smtp_destination_concurrency_limit":  "relay.pool.connections",
	"smtp_connection_cache_time_limit":    "relay.pool.idle_time",
	"smtp_connection_reuse_count_limit":   "relay.pool.messages",
	"smtpd_milters":                       "relay.dkim[0].key",
	"queue_directory":                     "relay.spool",
	"maximal_queue_lifetime":              "relay.spool_lifetime",
	"bounce_queue_lifetime":               "relay.spool_lifetime",
	"maillog_file":                        "log.destination",
}

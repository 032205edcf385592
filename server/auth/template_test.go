package auth

import (
	"strings"
	"testing"
)

func TestLoginTemplate(t *testing.T) {
	const (
		noDomain = "the login has no domain, and auth.realm is empty"
		noLocal  = "the login is empty before its domain"
		foreign  = "the domain of the login is not auth.realm, and the template drops the domain"
	)
	tests := []struct{ template, realm, login, expanded, why string }{
		{"", "", "foo", "foo", ""},
		{"{user}", "", "foo@example.org", "foo@example.org", ""},
		{"{user}", "", "foo", "foo", ""},
		{"{user}", "example.org", "foo", "foo@example.org", ""},
		{"{user}", "example.org", "foo@example.net", "foo@example.net", ""},
		{"{user}", "example.org", "@example.org", "@example.org", ""},
		{"{local}", "", "foo", "foo", ""},
		{"{local}", "", "foo@example.net", "foo", ""},
		{"{local}", "", "a@b@example.net", "a@b", ""},
		{"{local}", "", "@example.org", "", noLocal},
		{"{local}", "example.org", "foo", "foo", ""},
		{"{local}", "example.org", "foo@EXAMPLE.org", "foo", ""},
		{"{local}", "example.org", "foo@example.net", "", foreign},
		{"{local}", "example.org", "foo@", "", foreign},
		{"{local}@mail.example.org", "example.org", "foo@example.net", "", foreign},
		{"{local}@mail.example.org", "", "foo@example.net", "foo@mail.example.org", ""},
		{"{local}+{domain}", "", "foo@example.net", "foo+example.net", ""},
		{"{local}+{domain}", "", "foo", "", noDomain},
		{"{local}+{domain}", "", "foo@", "", noDomain},
		{"{local}+{domain}", "example.org", "foo", "foo+example.org", ""},
		{`{domain}\{local}`, "example.org", "foo", `example.org\foo`, ""},
		{"{user}", "", "{local}{domain}@{user}", "{local}{domain}@{user}", ""},
		{"{local}", "", "{domain}@example.org", "{domain}", ""},
	}
	for _, tt := range tests {
		expanded, why := LoginTemplate(tt.template).expand(tt.login, tt.realm)
		if expanded != tt.expanded || why != tt.why {
			t.Errorf("%q for %q with realm %q: %q, %q; want %q, %q", tt.template, tt.login, tt.realm, expanded, why, tt.expanded, tt.why)
		}
	}
}

func TestLoginTemplateErrorsHaveHints(t *testing.T) {
	tests := map[string]string{
		"":                                  "does not name the user",
		"{domain}":                          "does not name the user",
		"postmaster":                        "does not name the user",
		"{local":                            `"{local" is unknown`,
		"{user}}":                           `"}" is unknown`,
		"{{user}}":                          `"{" is unknown`,
		"{User}":                            `"{User}" is unknown`,
		"%u":                                "does not name the user",
		"{user}\n":                          "printable text",
		"{user}\xff":                        "printable text",
		"{user}" + strings.Repeat("x", 300): "256 bytes",
	}
	for text, want := range tests {
		var l LoginTemplate
		err := l.UnmarshalText([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want ...%s...", text, err, want)
		}
		if l != "" {
			t.Errorf("%q: was set despite the error", text)
		}
	}
}

func FuzzLoginTemplate(f *testing.F) {
	f.Add("{user}", "foo", "example.org")
	f.Add("{local}@{domain}", "foo@example.net", "")
	f.Add("a{local}{local}", "{local}@{domain}", "example.org")
	f.Add("{", "@", "")
	f.Fuzz(func(t *testing.T, text, login, realm string) {
		var l LoginTemplate
		if l.UnmarshalText([]byte(text)) != nil {
			return
		}
		expanded, why := l.expand(login, realm)
		if why != "" && expanded != "" || why == "" && expanded == "" && login != "" {
			t.Errorf("%q for %q: %q, why %q", text, login, expanded, why)
		}
		if why != "" || login == "" {
			return
		}
		local, _, _ := strings.Cut(login, "@")
		if at := strings.LastIndexByte(login, '@'); at >= 0 {
			local = login[:at]
		}
		if !strings.Contains(expanded, local) {
			t.Errorf("%q for %q gives another user: %q", text, login, expanded)
		}
	})
}

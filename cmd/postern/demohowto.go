package main

import (
	"io"
	"strings"
	"text/template"
)

// A howto is what the demo tells the person in front of it.
type howto struct {
	Folder         demoFolder
	Mail           string // where the mail goes
	Ports          demoPorts
	User, Password string
	Cert, Config   string // files, as words of a shell
}

func (h howto) print(w io.Writer) error {
	return howtoText.Execute(w, h)
}

// The password stands in these command lines because it opens nothing but this
// demo; a real client reads it from somewhere else.
var howtoText = template.Must(template.New("howto").Parse(strings.TrimLeft(`
postern listens on this machine only, on port {{.Ports.Submission}} (STARTTLS) and {{.Ports.Submissions}} (TLS).
{{- with .Ports.Why}}
{{.}}{{end}}
Everything is in {{.Folder.Dir}}; mail goes to {{.Mail}}.

With swaks:

  swaks --server localhost:{{.Ports.Submission}} --tls --auth PLAIN --auth-user {{.User}} --auth-password {{.Password}} \
    --from demo@example.org --to you@example.com

  swaks --server localhost:{{.Ports.Submissions}} --tls-on-connect --auth LOGIN --auth-user {{.User}} --auth-password {{.Password}} \
    --from demo@example.org --to you@example.com

With curl:

  printf 'From: demo@example.org\nTo: you@example.com\nSubject: hello\n\nhello\n' |
    curl --url smtp://localhost:{{.Ports.Submission}} --ssl-reqd --cacert {{.Cert}} --user {{.User}}:{{.Password}} \
      --mail-from demo@example.org --mail-rcpt you@example.com --crlf --upload-file -

With Thunderbird: Account Settings, Outgoing Server (SMTP), Add:

  Server name            localhost
  Port                   {{.Ports.Submission}}              or {{.Ports.Submissions}}
  Connection security    STARTTLS          or SSL/TLS
  Authentication method  Normal password
  User name              {{.User}}
  Password               {{.Password}}
  (the certificate is self-signed: confirm the exception at the first message)

The same folder with the next hop of its own configuration, without the demo:

  postern serve --config {{.Config}}

Ctrl-C ends the demo. The folder stays, and so do its password and its mail.
`, "\n")))

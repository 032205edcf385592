package sqldb

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// libpq accepts every character but a slash in the password of a URL.
func TestPasswordsInURLs(t *testing.T) {
	for dsn, password := range map[string]string{
		"postgres://postern:se?cret@db:5433/mail":                        "se?cret",
		"postgres://postern:se#cret@db:5433/mail?sslmode=disable":        "se#cret",
		"postgresql://postern:?a=b&c@db:5433/mail":                       "?a=b&c",
		"postgres://postern:12?34@db:5433/mail":                          "12?34",
		"postgres://postern:se@cret@db:5433/mail":                        "se@cret",
		"postgres://postern:a%3Fb@db:5433/mail":                          "a?b",
		"host=db port=5433 user=postern password='a b?#@/%' dbname=mail": "a b?#@/%",
		"postgres://db:5433/mail?user=postern&password=se@cret":          "se@cret",
	} {
		cfg, err := pgconn.ParseConfig(inUTF8(encodeUserinfo(dsn)))
		if err != nil {
			t.Errorf("%s: %v", dsn, err)
			continue
		}
		if cfg.Password != password || cfg.Host != "db" || cfg.Port != 5433 || cfg.User != "postern" || cfg.RuntimeParams["client_encoding"] != "UTF8" {
			t.Errorf("%s: host %s, port %d, user %s, password %q", dsn, cfg.Host, cfg.Port, cfg.User, cfg.Password)
		}
	}
}

// The error of a DSN shows the form of its driver and nothing of the DSN.
func TestForms(t *testing.T) {
	for _, tt := range []struct {
		driver    Driver
		dsn, want string
	}{
		{Postgres, "postgres://postern:topse/cret@db/mail", "write it with its number (%25 for %"},
		{Postgres, "postgres://postern:topse%cret@db/mail", "write it with its number (%25 for %"},
		{Postgres, "postern:topsecret@tcp(db:5432)/mail", "has the form of MySQL; write host=HOST"},
		{Postgres, "mysql://postern:topsecret@db/mail", "a URL of another database; write host=HOST"},
		{Postgres, "jdbc:postgresql://db/topsecret", "a URL of another database"},
		{Postgres, "topsecret", "has no KEY=VALUE; write host=HOST"},
		{Postgres, "host=db password='topsecret", "a quote in the DSN is not closed"},
		{Postgres, "host=db sslmode=topsecret", "does not know; write host=HOST"},
		{MySQL, "postern:topsecret@localhost/mail", "without its protocol, tcp(HOST:3306); write USER:PASSWORD@tcp(HOST:3306)/DATABASE"},
		{MySQL, "postern:topsecret@db.example.org:3306/mail", "without its protocol"},
		{MySQL, "mysql://postern:topsecret@db/mail", "is a URL"},
		{MySQL, "host=db user=postern password=topsecret", "has the form of PostgreSQL"},
		{MySQL, "postern:topsecret@tcp(db:3306)", "no /DATABASE after the parenthesis"},
		{MySQL, "topsecret", "has no /DATABASE"},
		{MySQL, "postern:topsecret@tcp(db)/mail?parseTime=topsecret", "a parameter that the driver of MySQL does not know"},
	} {
		file := filepath.Join(t.TempDir(), "dsn")
		if err := os.WriteFile(file, []byte(tt.dsn), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := Defaults()
		cfg.Driver, cfg.DSNFile = tt.driver, file
		q, err := ParseQuery("select {user}", Key{"user", "login", "username"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(cfg, q, 1, func(Result) (bool, error) { return true, nil })
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "dsn_file: ") {
			t.Errorf("%s: %v, want %q", tt.dsn, err, tt.want)
		}
		if err != nil && (strings.Contains(err.Error(), "topse") || strings.Contains(err.Error(), "cret@")) {
			t.Errorf("the DSN is in %v", err)
		}
	}
}

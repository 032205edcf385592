package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows lists the packages of this module that a package may import. "x/*" are the
// packages below x, which may not import each other. docs/architecture.md has
// the picture.
var arrows = map[string][]string{
	"cmd/postern": nil, // everything

	"cmd/postern/internal/*": nil, // everything

	"server":        {"server/auth", "server/auth/throttle", "policy", "relay", "relay/message", "server/smtpd"},
	"server/smtpd":  {},
	"server/auth":   {"server/auth/hash", "server/auth/semaphore", "server/auth/throttle"}, // tools that know nothing of it
	"policy":        {"policy/lookup"},
	"policy/lookup": {},
	"relay":         {"relay/message"},
	"relay/message": {},
	"certs":         {},

	"server/auth/hash":      {"server/auth/semaphore"},
	"server/auth/semaphore": {},
	"server/auth/throttle":  {"server/auth/hash"},
	"server/auth/*":         {"server/auth", "server/auth/hash", "server/auth/semaphore", "server/auth/throttle"}, // backends share the tools, not each other
	"server/auth/pam":       {"server/auth", "server/auth/saslauthd"},                                             // the helper uses its protocol
	"relay/relaytest":       {"test/kit"},
	"relay/*":               {"relay", "relay/message"},

	"internal/*":   {}, // leaf packages, which every package but another leaf may import
	"internal/dsn": {"internal/text"},

	"test":         {}, // its tests know what they test
	"test/fault":   {},
	"test/kit":     {},
	"test/postfix": {},
	"bench":        {"certs", "test/postfix"},
}

// commands are the packages that have a command line and end the process.
var commands = []string{"cmd/postern", "bench"}

// only lists what few packages may import, besides tests.
var only = map[string][]string{
	"github.com/BurntSushi/toml": {"cmd/postern/internal/config"},
	"github.com/spf13/cobra":     {"cmd/postern"},
	"flag":                       {"cmd/postern", "test/kit"},
	"log":                        {"cmd/postern"},
	"log/syslog":                 {"cmd/postern/internal/logging"},
	"testing":                    {"relay/relaytest", "test/kit"},
	module + "/relay/relaytest":  {},
	module + "/test/kit":         {"relay/relaytest"},
}

const module = "postern"

// drivers are the packages that are imported for their effects: package sql
// knows no other way.
var drivers = []string{"github.com/go-sql-driver/mysql", "github.com/jackc/pgx/v5/stdlib", "modernc.org/sqlite"}

func TestArchitecture(t *testing.T) {
	files := sources(t, "../..")
	if len(files) < 50 {
		t.Fatalf("only %d files: this does not look at the module", len(files))
	}
	for _, f := range files {
		f.checkImports(t)
		f.checkFunctions(t)
	}
}

// A source is a Go file that is no test, whatever it is built for.
type source struct {
	name string
	pkg  string // its folder
	tree *ast.File
}

func sources(t *testing.T, root string) (all []source) {
	t.Helper()
	walk := func(name string, entry fs.DirEntry, err error) error {
		hidden := strings.HasPrefix(entry.Name(), ".") && name != root
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (hidden || entry.Name() == "testdata"):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		tree, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		rel = filepath.ToSlash(rel)
		all = append(all, source{name: rel, pkg: path.Dir(rel), tree: tree})
		return err
	}
	if err := filepath.WalkDir(root, walk); err != nil {
		t.Fatal(err)
	}
	return all
}

func (f source) checkImports(t *testing.T) {
	allowed, known := arrows[f.pkg]
	if !known {
		allowed, known = arrows[path.Dir(f.pkg)+"/*"]
	}
	if !known {
		t.Errorf("%s: package %s has no place in the house; see the table of this test", f.name, f.pkg)
		return
	}
	for _, spec := range f.tree.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		if spec.Name != nil && spec.Name.Name == "_" && !slices.Contains(drivers, imported) {
			t.Errorf("%s imports %s for its effects", f.name, imported)
		}
		if imported == "flag" && slices.Contains(commands, f.pkg) {
			continue
		}
		if owners, ok := only[imported]; ok && !slices.Contains(owners, f.pkg) {
			t.Errorf("%s imports %s, which is for tests and %q", f.name, imported, owners)
		}
		inner, ours := strings.CutPrefix(imported, module+"/")
		leaf := strings.HasPrefix(inner, "internal/") && !strings.HasPrefix(f.pkg, "internal/")
		if ours && !strings.HasPrefix(f.pkg, "cmd/postern") && !leaf && !slices.Contains(allowed, inner) {
			t.Errorf("%s imports %s; %s may import %q only", f.name, imported, f.pkg, allowed)
		}
	}
}

// checkFunctions finds what runs by itself, and what ends the process from
// outside main.
func (f source) checkFunctions(t *testing.T) {
	for _, decl := range f.tree.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			t.Errorf("%s has an init function", f.name)
		}
	}
	f.checkServer(t)
	if slices.Contains(commands, f.pkg) {
		return
	}
	ast.Inspect(f.tree, func(n ast.Node) bool {
		if call, ok := n.(*ast.SelectorExpr); ok && call.Sel.Name == "Exit" {
			if x, ok := call.X.(*ast.Ident); ok && x.Name == "os" {
				t.Errorf("%s calls os.Exit", f.name)
			}
		}
		return true
	})
}

// checkServer finds uses of go-smtp's server: postern's is server/smtpd. Only tests
// compare the two.
func (f source) checkServer(t *testing.T) {
	ast.Inspect(f.tree, func(n ast.Node) bool {
		if use, ok := n.(*ast.SelectorExpr); ok {
			x, ok := use.X.(*ast.Ident)
			if ok && x.Name == "smtp" && (use.Sel.Name == "NewServer" || use.Sel.Name == "Server" || use.Sel.Name == "Backend") {
				t.Errorf("%s uses the server of go-smtp", f.name)
			}
		}
		return true
	})
}

package main

import (
	"fmt"
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

// This file states the rules of docs/architecture.md for all code that is not a test:
//
//   - Packages import only what mayImport allows. server/auth, policy, relay and certs
//     import neither each other nor server.
//   - Only relay uses the client of go-smtp, and nothing uses its server.
//   - There is no init function, no mutable state of a package, and no import for its
//     effects.
//   - Only the main packages end the process.
//   - Below cmd, a *slog.Logger is passed in. Elsewhere only NewLog takes one: everything
//     else reports events.

// mayImport lists the packages of this module that a package may import. "x/*" are the
// packages below x that have no row; they may not import each other. Leaf packages,
// internal/*, may be imported by all packages but other leaf packages.
var mayImport = map[string][]string{
	"server":        {"server/auth", "server/auth/throttle", "policy", "relay", "relay/message", "server/smtpd"},
	"server/smtpd":  {},
	"server/auth":   {"server/auth/hash", "server/auth/throttle"}, // which do not import it
	"policy":        {"policy/lookup"},
	"policy/lookup": {},
	"relay":         {"relay/message"},
	"relay/message": {},
	"certs":         {},

	"server/auth/hash":     {},
	"server/auth/throttle": {"server/auth/hash"},
	"server/auth/*":        {"server/auth", "server/auth/hash", "server/auth/throttle"}, // backends
	"server/auth/pam":      {"server/auth", "server/auth/saslauthd"},                    // the helper uses its protocol
	"relay/relaytest":      {"relay/message", "test/kit"},
	"relay/*":              {"relay", "relay/message"},

	"internal/*":                   {}, // leaf packages
	"internal/access":              {"internal/fileperm"},
	"internal/dsn":                 {"internal/text"},
	"internal/ldapclient":          {"internal/access", "internal/fileperm", "internal/hosturl", "internal/neterr", "internal/pemfile", "internal/semaphore", "internal/text"},
	"internal/ldapclient/ldaptest": {},
	"internal/neterr":              {"internal/fileperm", "internal/text"},
	"internal/pemfile":             {"internal/fileperm"},
	"internal/share":               {"internal/netprefix"},
	"internal/sqldb":               {"internal/access", "internal/fileperm", "internal/neterr", "internal/pemfile", "internal/text"},

	"test":         {},
	"test/fault":   {},
	"test/kit":     {},
	"test/postfix": {},
	"bench":        {"certs", "test/postfix"},

	"packaging/sbom": {},
}

// anything is the path below which packages may import every package.
const anything = "cmd/postern"

// programs are the packages that have a command line and end the process.
var programs = []string{"cmd/postern", "bench", "packaging/sbom"}

// onlyIn lists imports that only few packages may have, besides tests.
var onlyIn = map[string][]string{
	"github.com/BurntSushi/toml": {"cmd/postern/internal/config"},
	"github.com/spf13/cobra":     {"cmd/postern"},
	"flag":                       {"cmd/postern", "test/kit"},
	"log":                        {"cmd/postern"},
	"log/syslog":                 {"cmd/postern/internal/logging"},
	"testing":                    {"cmd/postern/internal/apptest", "internal/ldapclient/ldaptest", "relay/relaytest", "test/kit"},
	module + "/relay/relaytest":  {},

	module + "/internal/ldapclient/ldaptest": {},
	module + "/cmd/postern/internal/apptest": {},
	module + "/test/kit":                     {"cmd/postern/internal/apptest", "relay/relaytest"},
}

const module = "postern"

func TestArchitecture(t *testing.T) {
	files := sources(t, "../..")
	if len(files) < 50 {
		t.Fatalf("only %d files: these are not all of the module", len(files))
	}
	rooms := []string{"server", "server/auth", "policy", "relay", "certs"}
	for _, room := range rooms[1:] {
		for _, other := range rooms {
			if slices.Contains(mayImport[room], other) {
				t.Errorf("the row of %s must not have %s", room, other)
			}
		}
	}
	packages := make(map[string][]source)
	for _, f := range files {
		f.checkImports(t)
		f.checkUses(t)
		f.checkLoggers(t)
		packages[f.pkg] = append(packages[f.pkg], f)
	}
	for _, files := range packages {
		checkState(t, files)
	}
}

// Each rule reports a source that breaks it.
func TestArchitectureRules(t *testing.T) {
	for text, want := range map[string]string{
		`import _ "os"`:                                                     "imports os for its effects",
		`import "postern/server"`:                                           "may import",
		`import "github.com/BurntSushi/toml"`:                               "is only for",
		`func init() {}`:                                                    "has an init function",
		`import "os"; func f() { os.Exit(1) }`:                              "calls os.Exit",
		`func f() { smtp.NewServer(nil) }`:                                  "uses the server of go-smtp",
		`func f() { smtp.NewClient(nil) }`:                                  "uses the client of go-smtp",
		`var x int; func f() { x = 1 }`:                                     "changes the variable x of the package",
		`var x = map[int]int{}; func f() { x[1]++ }`:                        "changes the variable x of the package",
		`var x struct{ y int }; func f() { x.y = 1 }`:                       "changes the variable x of the package",
		`var x sync.Mutex`:                                                  "the variable x of the package is mutable",
		`var x = make(map[int]int)`:                                         "the variable x of the package is mutable",
		`var x atomic.Int64`:                                                "the variable x of the package is mutable",
		`type T struct { log *slog.Logger }`:                                "uses *slog.Logger",
		`func New(l *slog.Logger) {}`:                                       "uses *slog.Logger",
		`func NewLog(l *slog.Logger) {}; var x sync.Pool`:                   "",
		`type eventLog struct { *slog.Logger }`:                             "",
		`var x = 1; func f() { x := 2; x++; var y struct{x int}; y.x = 3 }`: "",
	} {
		tree, err := parser.ParseFile(token.NewFileSet(), "x.go", "package relay; "+text, 0)
		if err != nil {
			t.Fatal(err)
		}
		r := &recorder{TB: t}
		f := source{name: "policy/x.go", pkg: "policy", tree: tree}
		f.checkImports(r)
		f.checkUses(r)
		f.checkLoggers(r)
		checkState(r, []source{f})
		if got := strings.Join(r.errors, "; "); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: reported %q, want %q", text, got, want)
		}
	}
}

// A recorder keeps the errors of a test.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// A source is a Go file that is not a test, for whatever system it is built.
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
		tree, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
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

func (f source) checkImports(t testing.TB) {
	allowed, known := mayImport[f.pkg]
	if !known {
		allowed, known = mayImport[path.Dir(f.pkg)+"/*"]
	}
	everything := f.pkg == anything || strings.HasPrefix(f.pkg, anything+"/")
	if !known && !everything {
		t.Errorf("%s: package %s has no row in mayImport", f.name, f.pkg)
		return
	}
	for _, spec := range f.tree.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		if spec.Name != nil && spec.Name.Name == "_" {
			t.Errorf("%s imports %s for its effects", f.name, imported)
		}
		flags := imported == "flag" && slices.Contains(programs, f.pkg)
		if owners, ok := onlyIn[imported]; ok && !flags && !slices.Contains(owners, f.pkg) {
			t.Errorf("%s imports %s, which is only for tests and %q", f.name, imported, owners)
		}
		inner, ours := strings.CutPrefix(imported, module+"/")
		leaf := strings.HasPrefix(inner, "internal/") && !strings.HasPrefix(f.pkg, "internal/")
		if ours && !everything && !leaf && !slices.Contains(allowed, inner) {
			t.Errorf("%s imports %s; %s may import %q only", f.name, imported, f.pkg, allowed)
		}
	}
}

// checkUses finds init functions, the end of the process, and go-smtp's two sides.
func (f source) checkUses(t testing.TB) {
	ast.Inspect(f.tree, func(n ast.Node) bool {
		if fn, ok := n.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			t.Errorf("%s has an init function", f.name)
		}
		use, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, _ := use.X.(*ast.Ident)
		if pkg == nil || pkg.Obj != nil { // a variable
			return true
		}
		switch name := pkg.Name + "." + use.Sel.Name; {
		case name == "os.Exit" && !slices.Contains(programs, f.pkg):
			t.Errorf("%s calls os.Exit", f.name)
		case slices.Contains([]string{"smtp.NewServer", "smtp.Server", "smtp.Backend"}, name):
			t.Errorf("%s uses the server of go-smtp", f.name)
		case slices.Contains([]string{"smtp.NewClient", "smtp.Client"}, name), strings.HasPrefix(name, "smtp.Dial"):
			if f.pkg != "relay" {
				t.Errorf("%s uses the client of go-smtp", f.name)
			}
		}
		return true
	})
}

// ownLoggers are the packages outside of cmd that have a logger: the PAM helper is another
// process, and the others are tools.
var ownLoggers = []string{"server/auth/pam", "bench", "test/kit", "relay/relaytest"}

// checkLoggers finds *slog.Logger outside of NewLog and of what it returns.
func (f source) checkLoggers(t testing.TB) {
	if strings.HasPrefix(f.pkg, "cmd/") || slices.Contains(ownLoggers, f.pkg) {
		return
	}
	for _, decl := range f.tree.Decls {
		name := ""
		switch d := decl.(type) {
		case *ast.FuncDecl:
			name = d.Name.Name
			if d.Recv != nil {
				name = typeName(d.Recv.List[0].Type)
			}
		case *ast.GenDecl:
			if spec, ok := d.Specs[0].(*ast.TypeSpec); ok && len(d.Specs) == 1 {
				name = spec.Name.Name
			}
		}
		if slices.Contains([]string{"NewLog", "newEventLog", "eventLog", "sessionLog"}, name) {
			continue
		}
		ast.Inspect(decl, func(n ast.Node) bool {
			if use, ok := n.(*ast.SelectorExpr); ok && use.Sel.Name == "Logger" {
				if x, ok := use.X.(*ast.Ident); ok && x.Name == "slog" {
					t.Errorf("%s: %s uses *slog.Logger; report an event instead", f.name, name)
				}
			}
			return true
		})
	}
}

func typeName(e ast.Expr) string {
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

// checkState finds variables of the package that change: those of mutable types, and
// those that a function assigns to. A sync.Pool is a cache of the runtime. What a
// function does through a pointer is not found.
func checkState(t testing.TB, files []source) {
	variables := make(map[string]bool)
	for _, f := range files {
		for _, decl := range f.tree.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.VAR {
				continue
			}
			for _, spec := range d.Specs {
				v := spec.(*ast.ValueSpec)
				for i, name := range v.Names {
					variables[name.Name] = name.Name != "_"
					if isMutable(v.Type) || i < len(v.Values) && isMutable(v.Values[i]) {
						t.Errorf("%s: the variable %s of the package is mutable", f.name, name.Name)
					}
				}
			}
		}
	}
	for _, f := range files {
		for _, decl := range f.tree.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				for _, target := range assigned(n) {
					if id := root(target); id != nil && variables[id.Name] && !f.isLocal(id) {
						t.Errorf("%s: %s changes the variable %s of the package", f.name, fn.Name.Name, id.Name)
					}
				}
				return true
			})
		}
	}
}

// isMutable reports whether a type or a value can only be meant to change.
func isMutable(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.ChanType:
		return true
	case *ast.SelectorExpr:
		x, _ := e.X.(*ast.Ident)
		return x != nil && (x.Name == "atomic" || x.Name == "sync" && e.Sel.Name != "Pool")
	case *ast.CallExpr:
		fn, _ := e.Fun.(*ast.Ident)
		return fn != nil && (fn.Name == "make" || fn.Name == "new")
	case *ast.IndexExpr: // atomic.Pointer[T]
		return isMutable(e.X)
	}
	return false
}

// assigned returns what a statement assigns to.
func assigned(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	}
	return nil
}

// root returns the variable of x, x.y, x[i] or *x.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

// isLocal reports whether the parser has found the declaration of id in a function. The
// variables of the package are in the scope of the file, or in another file.
func (f source) isLocal(id *ast.Ident) bool {
	return id.Obj != nil && f.tree.Scope.Lookup(id.Name) != id.Obj
}

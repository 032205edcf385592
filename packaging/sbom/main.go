// Sbom prints the bill of materials of a Go program, as CycloneDX 1.5 in JSON: the module
// of the program, the Go release and all modules in it, with their versions and checksums.
// The linker wrote these into the program (as "go version -m" prints them), so the list
// has what is in it, and not what go.mod allows. It has no time and no random number: the
// same program gives the same bytes.
//
//	go run ./packaging/sbom PROGRAM
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
)

// The types are parts of the schema of CycloneDX 1.5.
type (
	document struct {
		Format     string      `json:"bomFormat"`
		Spec       string      `json:"specVersion"`
		Version    int         `json:"version"`
		Metadata   metadata    `json:"metadata"`
		Components []component `json:"components"`
	}
	metadata struct {
		Component component `json:"component"`
	}
	component struct {
		Type       string     `json:"type"`
		Name       string     `json:"name"`
		Version    string     `json:"version,omitempty"`
		PURL       string     `json:"purl,omitempty"`
		Hashes     []hash     `json:"hashes,omitempty"`
		Properties []property `json:"properties,omitempty"`
	}
	hash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: sbom PROGRAM")
		os.Exit(64)
	}
	if err := write(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// write writes the bill of materials of the program at path.
func write(out io.Writer, path string) error {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(document{
		Format:     "CycloneDX",
		Spec:       "1.5",
		Version:    1,
		Metadata:   metadata{program(filepath.Base(path), info, sum[:])},
		Components: libraries(info),
	})
}

// program describes the program itself. The settings are those of the build: tags,
// architecture, flags of the linker with the version.
func program(name string, info *debug.BuildInfo, sum []byte) component {
	c := component{Type: "application", Name: name, Hashes: []hash{{"SHA-256", hex.EncodeToString(sum)}}}
	for _, s := range info.Settings {
		c.Properties = append(c.Properties, property{"go:build:" + s.Key, s.Value})
	}
	return c
}

// libraries returns the standard library and the modules.
func libraries(info *debug.BuildInfo) []component {
	release := strings.TrimPrefix(info.GoVersion, "go")
	all := []component{{Type: "library", Name: "std", Version: release, PURL: "pkg:golang/std@" + release}}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		c := component{
			Type:    "library",
			Name:    module.Path,
			Version: module.Version,
			PURL:    "pkg:golang/" + strings.ToLower(module.Path) + "@" + strings.ReplaceAll(module.Version, "+", "%2B"),
		}
		// "h1:" is a SHA-256 of the list of files, in Base64 (golang.org/x/mod/sumdb/dirhash).
		if digest, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(module.Sum, "h1:")); err == nil && len(digest) == sha256.Size {
			c.Properties = []property{{"go:sum", module.Sum}}
		}
		all = append(all, c)
	}
	return all
}

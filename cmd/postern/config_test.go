package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestEmptyFileIsTheDefaults(t *testing.T) {
	cfg, err := parseConfig("config.toml", "")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(cfg, newConfig()) {
		t.Errorf("an empty file gives %+v", cfg)
	}
}

var update = flag.Bool("update", false, "write the .err files anew")

// Each testdata/config/NAME.toml has one kind of mistake, and NAME.err is what
// an administrator reads about it.
func TestConfigErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/config/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files in testdata/config", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { checkConfigError(t, file) })
	}
}

func checkConfigError(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = parseConfig(filepath.Base(file), string(text))
	var broken *configError
	if !errors.As(err, &broken) {
		t.Fatalf("got %v, want a *configError", err)
	}
	got := broken.Error() + "\n"
	golden := strings.TrimSuffix(file, ".toml") + ".err"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

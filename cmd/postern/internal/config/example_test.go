package config

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func readExample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../../config.toml.example")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// An administrator may copy the example and change nothing.
func TestExampleIsTheDefaults(t *testing.T) {
	got, err := Parse("config.toml.example", readExample(t))
	if err != nil {
		t.Fatal(err)
	}
	example, defaults := fieldsOf(reflect.ValueOf(*got)), fieldsOf(reflect.ValueOf(*Default()))
	for section, value := range example {
		got, want := value.Interface(), defaults[section].Interface()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("[%s] is %+v in the example, and %+v by default", section, got, want)
		}
	}
}

var exampleSetting = regexp.MustCompile(`(?m)^#(\[|[a-z_.]+ = )`)

// wholeExample is the example with the settings that are commented out.
func wholeExample(t *testing.T) string {
	return exampleSetting.ReplaceAllString(readExample(t), "$1")
}

func TestExampleHoldsEveryKey(t *testing.T) {
	text := wholeExample(t)
	if _, err := Parse("config.toml.example", text); err != nil {
		t.Fatalf("with the settings that are commented out:\n%v", err)
	}
	found := make(map[string]bool)
	for path := range locate(text) {
		found[elementNumber.ReplaceAllString(path, "[]")] = true
	}
	// These are described where they are first met.
	elsewhere := strings.NewReplacer("listener[].limits.", "server.limits.", "listener[].tls.", "tls.", "listener[].auth.", "auth.",
		"listener[].policy.", "policy.", "listener[].relay.", "relay.")
	for _, key := range allKeys() {
		if !found[key] && !found[elsewhere.Replace(key)] {
			t.Errorf("%s is missing", key)
		}
	}
}

package main

import (
	"os"
	"strings"
	"testing"
)

// The images are labelled with the version of this source, unless a build names another one.
func TestImagesHaveTheRelease(t *testing.T) {
	for _, file := range []string{"../../Dockerfile", "../../packaging/docker/pam.Dockerfile"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "\nARG VERSION="+release+"\n") {
			t.Errorf("%s does not have ARG VERSION=%s", file, release)
		}
	}
}

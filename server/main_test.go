package server

import (
	"os"
	"testing"

	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

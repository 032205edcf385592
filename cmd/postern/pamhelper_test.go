package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"postern/cmd/postern/internal/process"
	"postern/server/auth/pam"
)

// runPAMHelper runs the command alone.
func runPAMHelper(args ...string) error {
	cmd := pamHelperCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	return cmd.Execute()
}

// A program without libpam names the program with it.
func TestPAMHelperNotBuilt(t *testing.T) {
	err := runPAMHelper("--timeout", "1ms") // a program with libpam refuses it
	if pam.Available {
		if process.Status(err) != process.ExitUsage {
			t.Errorf("%v", err)
		}
		return
	}
	if process.Status(err) != process.ExitConfig || !strings.Contains(err.Error(), "postern-pam") {
		t.Errorf("%v", err)
	}
}

func TestPAMHelperSocketConfig(t *testing.T) {
	tests := []struct {
		name string
		o    pamHelper
		want string // in the error
	}{
		{"defaults", pamHelper{mode: "0660"}, ""},
		{"numbers", pamHelper{mode: "600", users: []string{"0", "root"}, group: "0"}, ""},
		{"numbers without a user or group", pamHelper{mode: "600", users: []string{"2000000123"}, group: "2000000124"}, ""},
		{"no number", pamHelper{mode: "600", users: []string{"-1"}}, "-1"},
		{"mode", pamHelper{mode: "rw-rw----"}, "--mode"},
		{"set-user-id", pamHelper{mode: "4755"}, "--mode"},
		{"user", pamHelper{mode: "0660", users: []string{"no-such-user"}}, "no-such-user"},
		{"group", pamHelper{mode: "0660", group: "no-such-group"}, "no-such-group"},
	}
	for _, tt := range tests {
		cfg, err := tt.o.socketConfig()
		if tt.want == "" {
			if err != nil || len(cfg.Users) != len(tt.o.users) {
				t.Errorf("%s: %+v, %v", tt.name, cfg, err)
			}
			continue
		}
		if err == nil || process.Status(err) != process.ExitUsage || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// The group of the socket is that of the first user of --allow-user.
func TestPAMHelperGroup(t *testing.T) {
	nobody, err := process.LookupAccount("nobody")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		o    pamHelper
		want int
	}{
		{pamHelper{mode: "0660"}, os.Getegid()},
		{pamHelper{mode: "0660", users: []string{"nobody", "root"}}, nobody.GID},
		{pamHelper{mode: "0660", users: []string{"nobody"}, group: "root"}, 0},
		{pamHelper{mode: "0660", users: []string{"2000000123"}}, os.Getegid()},
		{pamHelper{mode: "0660", users: []string{"2000000123"}, group: "2000000124"}, 2000000124},
	} {
		if cfg, err := tt.o.socketConfig(); err != nil || cfg.GID != tt.want {
			t.Errorf("%+v: %+v, %v", tt.o, cfg, err)
		}
	}
}

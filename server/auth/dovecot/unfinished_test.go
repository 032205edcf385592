package dovecot

import (
	"testing"

	"postern/server/auth"
)

// An exchange of SCRAM is unfinished between Dovecot's first challenge and the client's answer.
func TestUnfinished(t *testing.T) {
	for _, tt := range []struct {
		mech    string
		answers []string
		steps   []step
		want    string
	}{
		{"SCRAM-SHA-256", []string{"CONT\t%ID\tcg==\n"}, []step{{response: []byte("n,,n=u,r=1"), challenge: "r"}}, "u"},
		{"SCRAM-SHA-256", []string{"CONT\t%ID\t\n", "CONT\t%ID\tcg==\n"},
			[]step{{response: nil}, {response: []byte("n,,n=u,r=1"), challenge: "r"}}, "u"},
		{"SCRAM-SHA-256", []string{"CONT\t%ID\t\n"}, []step{{response: nil}}, ""},
		{"SCRAM-SHA-256", []string{"CONT\t%ID\tcg==\n", "FAIL\t%ID\n"},
			[]step{{response: []byte("n,,n=u,r=1"), challenge: "r"}, {response: []byte("c"), err: &auth.Failure{}}}, ""},
		{"SCRAM-SHA-256", []string{"CONT\t%ID\tcg==\n", "CONT\t%ID\tdg==\n"},
			[]step{{response: []byte("n,,n=u,r=1"), challenge: "r"}, {response: []byte("c"), challenge: "v"}}, ""},
		{"LOGIN", []string{"CONT\t%ID\tUGFzc3dvcmQ6\n"}, []step{{response: []byte("u"), challenge: "Password:"}}, ""},
	} {
		x, err := startFake(t, goodGreeting, inOrder(tt.answers)).proxy(t).Start(t.Context(), peer(), tt.mech)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range tt.steps {
			s.run(t, x)
		}
		x.Close()
		if got, ok := auth.Unfinished(x); got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s, %d steps: %q, %v", tt.mech, len(tt.steps), got, ok)
		}
	}
}

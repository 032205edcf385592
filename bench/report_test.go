package main

import (
	"strings"
	"testing"
)

func serverNamed(t *testing.T, name string) server {
	t.Helper()
	for _, s := range servers {
		if s.name == name {
			return s
		}
	}
	t.Fatalf("no server %s", name)
	return server{}
}

func scenarioNamed(t *testing.T, name string) scenario {
	t.Helper()
	for _, sc := range scenarios {
		if sc.name == name {
			return sc
		}
	}
	t.Fatalf("no scenario %s", name)
	return scenario{}
}

// figures are the rounds of one server in one scenario.
type figures struct {
	scenario, server string
	rounds           []float64
}

func reportOf(t *testing.T, all []figures) string {
	t.Helper()
	var r report
	for _, f := range all {
		var rounds []measure
		for _, figure := range f.rounds {
			rounds = append(rounds, measure{figure: figure})
		}
		r.add(scenarioNamed(t, f.scenario), serverNamed(t, f.server), rounds)
	}
	var b strings.Builder
	r.write(&b)
	return b.String()
}

func TestReportOfFloors(t *testing.T) {
	tests := []struct {
		name string
		all  []figures
		want string // the table, or nothing
	}{
		{"both floors", []figures{
			{"S1", "floor", []float64{100, 90, 300}},
			{"S1", "rote", []float64{400}},
			{"S1", "postern", []float64{500}},
			{"S2", "rote", []float64{80}},
			{"S2", "postern", []float64{60}},
			{"S2", "dovecot", []float64{900}},
		}, "\n| postern in multiples of | S1 | S2 |\n|---|--:|--:|\n| floor | 5.0 |  |\n| rote | 1.2 | 0.75 |\n"},
		{"a scenario without floors", []figures{
			{"S2", "postern", []float64{60}},
			{"S4", "rote", []float64{24}},
			{"S4", "postern", []float64{30}},
		}, "\n| postern in multiples of | S4 |\n|---|--:|\n| rote | 1.2 |\n"},
		{"no postern", []figures{{"S1", "rote", []float64{400}}}, ""},
		{"no floor", []figures{{"S1", "postern", []float64{400}}}, ""},
		{"another postern", []figures{{"S1", "rote", []float64{400}}, {"S1", "postern-no-tickets", []float64{500}}}, ""},
		{"nothing", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := reportOf(t, tt.all)
			if tt.want == "" {
				if strings.Contains(got, "multiples") {
					t.Errorf("got a table of floors:\n%s", got)
				}
			} else if !strings.Contains(got, tt.want) {
				t.Errorf("got\n%s\nwant in it\n%s", got, tt.want)
			}
		})
	}
}

// Variants of a server take part only where a login is repeated, and the
// handshake floor only where floors do.
func TestScenariosOfServers(t *testing.T) {
	for name, want := range map[string]string{
		"floor":                 "S1 S5",
		"rote":                  "S1 S1a S1c S2 S3 S4 S5 S6",
		"postern":               "S1 S1a S1c S2 S3 S4 S5 S6",
		"postern-no-tickets":    "S1 S1a S5",
		"postfix+dovecot-cache": "S1 S1a S5",
		"dovecot-fast":          "S1 S1a S1c S2 S3 S4 S5 S6",
	} {
		var fits []string
		for _, sc := range scenarios {
			if sc.fits(serverNamed(t, name)) {
				fits = append(fits, sc.name)
			}
		}
		if got := strings.Join(fits, " "); got != want {
			t.Errorf("%s takes part in %s, want %s", name, got, want)
		}
	}
}

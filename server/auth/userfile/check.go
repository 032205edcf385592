package userfile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"postern/server/auth"
)

// Check reads the file, without changing the users of the store. It returns its errors, joined:
// one for each cause that prevents logins.
func (s *Store) Check(context.Context) error {
	users, found, err := s.inspect()
	if err != nil {
		return err
	}
	var errs []error
	if p := found.of(skipped); len(p) > 0 {
		errs = append(errs, errors.New(p.summary()))
	}
	errs = append(errs, found.of(unusable).byReason()...)
	if p := found.of(spelling); len(p) > 0 {
		errs = append(errs, p.spellings())
	}
	if len(errs) == 0 && len(users.accounts) == 0 {
		errs = append(errs, fmt.Errorf("has no user; add one with: postern passwd %s NAME", s.path))
	}
	for i, err := range errs {
		errs[i] = fmt.Errorf("user file %s: %w", s.path, err)
	}
	return errors.Join(errs...)
}

// inspect reads the file.
func (s *Store) inspect() (*table, problems, error) {
	text, _, err := readFile(s.path, openChecked)
	if err != nil {
		return nil, nil, err
	}
	users, found, err := parse(text, s.fold)
	if err != nil {
		return nil, nil, fmt.Errorf("user file %s: %w", s.path, err)
	}
	return users, found, nil
}

// byReason returns one error for each reason, in the order of the file.
func (p problems) byReason() (errs []error) {
	lines := make(map[string]problems)
	var reasons []string
	for _, one := range p {
		if lines[one.why] == nil {
			reasons = append(reasons, one.why)
		}
		lines[one.why] = append(lines[one.why], one)
	}
	for _, why := range reasons[:min(len(reasons), maxListed)] {
		some := lines[why]
		errs = append(errs, fmt.Errorf("%s: %s", some.get454(), why))
	}
	if len(reasons) > maxListed {
		errs = append(errs, fmt.Errorf("and %d more reasons of the same kind", len(reasons)-maxListed))
	}
	return errs
}

// get454 returns "2 users get 454 (lines 3, 7)".
func (p problems) get454() string {
	if len(p) == 1 {
		return "1 user gets 454 (line " + p.lines() + ")"
	}
	return fmt.Sprintf("%d users get 454 (lines %s)", len(p), p.lines())
}

// spellings returns the error for lines with different names that fold to one.
func (p problems) spellings() error {
	var pairs []string
	for _, one := range p[:min(len(p), maxListed)] {
		pairs = append(pairs, fmt.Sprintf("lines %d and %d", one.first, one.line))
	}
	if len(p) > maxListed {
		pairs = append(pairs, fmt.Sprintf("%d more lines", len(p)-maxListed))
	}
	return fmt.Errorf("%s: their names are spellings of one login, which gets 454; delete one of the two lines, "+
		"or set fold = \"none\" in the store if they are two users", strings.Join(pairs, ", "))
}

// Remarks returns what is worth knowing of the file, and prevents no login.
func (s *Store) Remarks() (remarks []auth.Remark) {
	users, found, err := s.inspect()
	if err != nil {
		return nil // Check returns it
	}
	if p := found.of(repetition); len(p) > 0 {
		remarks = append(remarks, auth.Remark{Warning: true, Text: fmt.Sprintf("user file %s: only the first line of a user is used; delete the others: %s", s.path, p.repetitions())})
	}
	if p := found.of(cut); len(p) > 0 {
		remarks = append(remarks, auth.Remark{Warning: true, Text: fmt.Sprintf("user file %s: %s", s.path, p.summary())})
	}
	if n := len(users.accounts); len(users.weak) > 0 {
		remarks = append(remarks, auth.Remark{Text: fmt.Sprintf("user file %s: the passwords of %s can be found quickly if the file gets into wrong hands: %s\n"+
			"replace their hashes when they set a new password: postern passwd %s NAME", s.path, share(sum(users.weak), n), counts(users.weak), s.path)})
	}
	return remarks
}

// repetitions returns "line 4 (first in line 2), line 6 (first in line 1)".
func (p problems) repetitions() string {
	var lines []string
	for _, one := range p[:min(len(p), maxListed)] {
		lines = append(lines, fmt.Sprintf("line %d (first in line %d)", one.line, one.first))
	}
	if len(p) > maxListed {
		lines = append(lines, fmt.Sprintf("and %d more lines", len(p)-maxListed))
	}
	return strings.Join(lines, ", ")
}

func share(some, all int) string {
	if some == all && all == 1 {
		return "the only user"
	}
	return fmt.Sprintf("%d of %d users", some, all)
}

func sum(counts map[string]int) (all int) {
	for _, n := range counts {
		all += n
	}
	return all
}

// counts returns "2 clear text, 1 md5 without a salt".
func counts(of map[string]int) string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%d %s", of[what], what))
	}
	return strings.Join(parts, ", ")
}

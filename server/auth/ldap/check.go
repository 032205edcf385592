package ldap

import (
	"context"
	"errors"
	"fmt"

	"postern/internal/fileperm"
)

// Check connects to every server once more, apart from what is being served,
// and says what is wrong and what to do about it.
func (s *Store) Check(ctx context.Context) error {
	var errs []error
	for i, one := range s.servers.servers {
		ctx, cancel := context.WithTimeout(ctx, share(ctx, len(s.servers.servers)-i))
		errs = append(errs, s.checkServer(ctx, one))
		cancel()
	}
	return errors.Join(errs...)
}

func (s *Store) checkServer(ctx context.Context, one *server) error {
	c, err := one.dialer.dial(ctx, forSearches)
	if err == nil {
		defer c.close()
		err = c.within(ctx, s.checkBase)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", one.dialer.url, fileperm.ExplainDial(err))
	}
	return nil
}

// checkBase looks whether the place to search in is there.
func (s *Store) checkBase(c *conn) error {
	if s.cfg.SearchBase.text == "" {
		return nil
	}
	_, err := c.entry(s.cfg.SearchBase.text, noAttributes)
	return err
}

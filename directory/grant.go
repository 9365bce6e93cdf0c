package directory

import (
	"context"
	"fmt"

	"github.com/larder-cache/larder/fsm"
)

// The counted bits of a version (R3), and how many changes before their end a new grant is asked for.
const (
	counterMask    = 1<<44 - 1
	counterReserve = 1 << 32
)

// grant sees to it that a shard which this node leads has what the table grants it, and the feature
// level that the table has for shards. The grant comes first: the shard serves with it, and the raise
// follows at once.
func (s *Service) grant(sh Shard, level uint8, has fsm.Stats) {
	g := sh.Grant()
	raise := func(ctx context.Context) error {
		if level <= has.Level {
			return nil
		}
		return s.host.Raise(ctx, sh.ID, level)
	}
	switch {
	case newerGrant(g, has):
		s.duties.try(fmt.Sprintf("grant shard %d", sh.ID), func(ctx context.Context) error {
			if err := s.host.Grant(ctx, sh.ID, g); err != nil {
				return err
			}
			return raise(ctx)
		})
	case level > has.Level:
		s.duties.try(fmt.Sprintf("raise shard %d", sh.ID), raise)
	case g.TableVersion > has.TableVersion:
		s.duties.try(fmt.Sprintf("limit shard %d", sh.ID), func(ctx context.Context) error {
			return s.host.SetLimit(ctx, sh.ID, g.Limit, g.TableVersion)
		})
	case has.VersionBits() == g.VersionBits && has.Version&counterMask >= counterMask-counterReserve:
		s.duties.try(fmt.Sprintf("regrant shard %d", sh.ID), func(ctx context.Context) error {
			return s.proposeDuty(ctx, Command{Regrant: &Regrant{Shard: sh.ID, Expect: g.VersionBits}})
		})
	}
}

// newerGrant reports whether g would change a machine that reports has, by the order of grants (see
// fsm.Grant): generation, epoch, version bits. The bits must be new whatever else is.
func newerGrant(g fsm.Grant, has fsm.Stats) bool {
	switch {
	case has.Generation != 0 && g.VersionBits <= has.VersionBits():
		return false
	case g.Generation != has.Generation:
		return g.Generation > has.Generation
	case g.Epoch != has.Epoch:
		return g.Epoch > has.Epoch
	}
	return g.VersionBits > has.VersionBits()
}

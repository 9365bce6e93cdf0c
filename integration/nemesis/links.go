package nemesis

import (
	"errors"
	"maps"
	"slices"
	"time"
)

// pair is a link.
type pair struct{ from, to string }

func (p pair) String() string { return p.from + ">" + p.to }

// cut makes what this act cuts exactly those links. Links that another act has cut, too, stay cut.
func (a *Act) cut(links []pair) error {
	n := a.n
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.cuts[a]
	n.cuts[a] = links
	if len(links) == 0 {
		delete(n.cuts, a)
	}
	var err error
	for _, p := range before {
		if !n.isCutLocked(p) {
			err = errors.Join(err, n.sys.Mend(p.from, p.to))
		}
	}
	for _, p := range links {
		if !slices.Contains(before, p) {
			err = errors.Join(err, n.sys.Cut(p.from, p.to))
		}
	}
	return err
}

// isCutLocked reports whether an act has cut a link, n.mu being held.
func (n *Nemesis) isCutLocked(p pair) bool {
	for links := range maps.Values(n.cuts) {
		if slices.Contains(links, p) {
			return true
		}
	}
	return false
}

// uncut heals what this act cut.
func (a *Act) uncut() error { return a.cut(nil) }

// around returns all links of a node, in both directions.
func (a *Act) around(node string) []pair {
	return apart([]string{node}, a.others(node))
}

// apart returns the links between any of one side and any of the other, in both directions.
func apart(one, other []string) []pair {
	var links []pair
	for _, x := range one {
		for _, y := range other {
			if x != y {
				links = append(links, pair{x, y}, pair{y, x})
			}
		}
	}
	return links
}

// all returns every link.
func (a *Act) all() []pair {
	var links []pair
	for _, x := range a.n.sys.Nodes() {
		for _, y := range a.others(x) {
			links = append(links, pair{x, y})
		}
	}
	return links
}

// others returns all nodes but those.
func (a *Act) others(nodes ...string) []string {
	return slices.DeleteFunc(slices.Clone(a.n.sys.Nodes()), func(x string) bool { return slices.Contains(nodes, x) })
}

// each calls f for every link of links and joins the errors.
func each(links []pair, f func(from, to string) error) error {
	var err error
	for _, p := range links {
		err = errors.Join(err, f(p.from, p.to))
	}
	return err
}

// plainLinks ends all that was set for links, but cuts.
func (a *Act) plainLinks(links []pair) error {
	s := a.n.sys
	return each(links, func(from, to string) error {
		return errors.Join(
			supported(s.SetDelay(from, to, time.Duration(0))), supported(s.SetLoss(from, to, 0)),
			supported(s.SetDuplicate(from, to, 0)), supported(s.SetReorder(from, to, 0)), supported(s.SetRate(from, to, 0)))
	})
}

// supported drops the error of what can't be done here, and so was not.
func supported(err error) error {
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

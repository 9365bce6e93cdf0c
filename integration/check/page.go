package check

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"

	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/model"
)

// Page writes an HTML page that shows the operations on a key, the longest order of them that was found, and the faults. Of a key
// without an order it shows the shortest history that has none.
func Page(w io.Writer, r *history.Run, key string, o Options) error {
	group := byKey(r.Ops)[key]
	evicts := traitsOf(r.Ops, r.Meta.Mode)[key].evicts
	if checkKey(group, evicts, o.KeyLimit) == porcupine.Illegal {
		cut := shortest(group, evicts, o.KeyLimit)
		group = group[:0]
		for i := range cut {
			group = append(group, &cut[i])
		}
	}
	if len(group) == 0 {
		return fmt.Errorf("nobody used key %q", key)
	}
	m := model.Law(evicts)
	_, info := porcupine.CheckOperationsVerbose(m, intervals(group), o.KeyLimit)
	first := slices.MinFunc(group, func(a, b *history.Operation) int { return int(a.Invoke - b.Invoke) }).Invoke
	last := slices.MaxFunc(group, func(a, b *history.Operation) int { return int(a.Return - b.Return) }).Return
	var notes []porcupine.Annotation
	for _, f := range r.Faults {
		end := f.Healed
		if end == 0 {
			end = last
		}
		if end < first || f.Start > last {
			continue
		}
		notes = append(notes, porcupine.Annotation{Tag: f.Class, Start: int64(f.Start), End: int64(end),
			Description: f.Name + " of " + strings.Join(f.Targets, ", "), Details: f.Effect, BackgroundColor: "#e8c6dc"})
	}
	info.AddAnnotations(notes)
	return porcupine.Visualize(m, info, w)
}

// BadKeys are those that Linearizable complains of, and the undecided ones.
func (r Report) BadKeys() (keys []string) {
	for _, v := range r.Violations {
		if v.Check == "linearizable" && len(v.Ops) > 0 && !slices.Contains(keys, v.Ops[0].Key) {
			keys = append(keys, v.Ops[0].Key)
		}
	}
	return append(keys, r.Undecided...)
}

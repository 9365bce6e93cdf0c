package directory

import "fmt"

// SetSettings replaces the cluster-wide settings. Precondition: the table has version Expect, so that
// what was judged is what is changed; the feature level is 2 or more, for another number of replicas 4; what only the first start can
// choose is as it was.
type SetSettings struct {
	Expect   uint64   `json:"expect"`
	Settings Settings `json:"settings"`
}

func (c *SetSettings) apply(t *Table) (*Table, string) {
	switch {
	case !t.Founded():
		return nil, "the cluster is not founded yet"
	case t.Level < settingsLevel:
		return nil, fmt.Sprintf("the feature level is %d, settings change from %d on", t.Level, settingsLevel)
	case t.Version != c.Expect:
		return nil, fmt.Sprintf("the table has version %d, not %d", t.Version, c.Expect)
	case c.Settings.InitialShards != t.Settings.InitialShards || c.Settings.MemoryOnly != t.Settings.MemoryOnly:
		return nil, "initial-shards and memory-only are for the first start"
	case c.Settings.Replicas != t.Settings.Replicas && t.Level < countLevel:
		return nil, fmt.Sprintf("the feature level is %d, the number of replicas changes from %d on", t.Level, countLevel)
	case c.Settings == t.Settings:
		return nil, ""
	}
	next := t.clone()
	next.Version++
	next.Settings, next.SettingsVersion = c.Settings, next.Version
	if err := next.validateSettings(); err != nil {
		return nil, err.Error()
	}
	return next, ""
}

// settingsVersion is the table version of the last change of the settings.
func (t *Table) settingsVersion() uint64 {
	return max(t.SettingsVersion, min(t.Version, initialVersion))
}

package directory

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestParseSize ensures that sizes are read exactly, and that anything doubtful is refused.
func TestParseSize(t *testing.T) {
	for text, want := range map[string]uint64{
		"1":          1,
		"17B":        17,
		"64KiB":      64 << 10,
		"512MiB":     512 << 20,
		"1.5GiB":     3 << 29,
		"0.5KiB":     512,
		"2TiB":       2 << 40,
		"1073741824": 1 << 30,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "B", "MiB", "0", "0MiB", "-1", "+1", "1e3", "0x10", "1 MiB", "1MB", "1G", "1mib", "1.5", "0.3KiB",
		".5GiB", "1.GiB", "1/2GiB", "99999999TiB", "9223372036854775808", "60%", strings.Repeat("9", 100),
	} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", text, got)
		}
	}
}

// TestParseMemory ensures that shares are taken exactly and without overflow, and that a size never
// exceeds the whole.
func TestParseMemory(t *testing.T) {
	for _, row := range []struct {
		text        string
		whole, want uint64
	}{
		{"60%", 1 << 30, 644245094},
		{"12.5%", 800, 100},
		{"100%", math.MaxUint64, math.MaxUint64},
		{"0.1%", math.MaxUint64, math.MaxUint64 / 1000},
		{"512MiB", 1 << 30, 512 << 20},
		{"2GiB", 1 << 30, 1 << 30},
	} {
		m, err := ParseMemory(row.text)
		if err != nil {
			t.Errorf("ParseMemory(%q): %v", row.text, err)
		} else if got := m.Of(row.whole); got != row.want {
			t.Errorf("%q of %d is %d, want %d", row.text, row.whole, got, row.want)
		}
	}
	for _, text := range []string{"", "%", "0%", "0.0%", "100.1%", "101%", "-5%", "12.55%", "1.%", ".5%", "60 %", "lots"} {
		if m, err := ParseMemory(text); err == nil {
			t.Errorf("ParseMemory(%q) = %v, want an error", text, m)
		}
	}
}

// TestMemoryShareNeverExceedsWhole ensures that a share is at most the whole and grows with it.
func TestMemoryShareNeverExceedsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Memory{permille: rapid.Uint64Range(1, 1000).Draw(t, "permille")}
		whole := rapid.Uint64().Draw(t, "whole")
		if got := m.Of(whole); got > whole || whole < math.MaxUint64 && m.Of(whole+1) < got {
			t.Fatalf("%d permille of %d is %d", m.permille, whole, got)
		}
	})
}

// TestSettingsValidate ensures that each setting has bounds, and that the defaults are within them.
func TestSettingsValidate(t *testing.T) {
	if err := (Settings{}).WithDefaults().Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for name, s := range map[string]Settings{
		"initial-shards": {InitialShards: 16385},
		"replicas":       {Replicas: 10},
		"cache-memory":   {CacheMemory: "60 percent"},
	} {
		if err := s.WithDefaults().Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v, want an error that names %s", s, err, name)
		}
	}
}

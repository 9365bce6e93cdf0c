package directory

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestSettingsWith ensures that each setting takes what a user may write, shows it in one form, and
// refuses the rest with its name and a reason.
func TestSettingsWith(t *testing.T) {
	before := Settings{InitialShards: 4, Replicas: 3, CacheMemory: "40%", ShardBytes: 1 << 20, DefaultTTL: "1h", TouchInterval: "1s"}
	text := func(s string) *string { return &s }
	for _, row := range []struct {
		name  string
		value *string
		want  string // "": refused
	}{
		{"cache-memory", text("12.5%"), "12.5%"},
		{"cache-memory", text("512MiB"), "512MiB"},
		{"cache-memory", text("1048576"), "1048576"},
		{"cache-memory", nil, "60%"},
		{"cache-memory", text("60 percent"), ""},
		{"cache-memory", text("0%"), ""},
		{"cache-memory", text(""), ""},
		{"shard-bytes", text("0"), "0"},
		{"shard-bytes", text("64KiB"), "65536"},
		{"shard-bytes", nil, "0"},
		{"shard-bytes", text("-1"), ""},
		{"shard-bytes", text("10%"), ""},
		{"default-ttl", text("90m"), "1h30m"},
		{"default-ttl", text("1500ms"), "1.5s"},
		{"default-ttl", text("none"), "none"},
		{"default-ttl", text("0"), "none"},
		{"default-ttl", text("0s"), "none"},
		{"default-ttl", nil, "none"},
		{"default-ttl", text("-1s"), ""},
		{"default-ttl", text("1us"), ""},
		{"default-ttl", text("60"), ""},
		{"default-ttl", text(""), ""},
		{"default-ttl", text("87600h1ms"), ""},
		{"default-ttl", text("87600h"), "87600h"},
		{"touch-interval", text("10ms"), "10ms"},
		{"touch-interval", text("60s"), "1m"},
		{"touch-interval", text("0"), "0s"},
		{"touch-interval", text("100ms"), "100ms"},
		{"touch-interval", nil, "100ms"},
		{"touch-interval", text("9ms"), ""},
		{"touch-interval", text("61s"), ""},
		{"touch-interval", text("none"), ""},
		{"touch-interval", text("10.5ms"), ""},
		{"snapshot-bandwidth", text("16MiB"), "16MiB"},
		{"snapshot-bandwidth", text("0"), "0"},
		{"snapshot-bandwidth", nil, "32MiB"},
		{"snapshot-bandwidth", text("65535"), ""},
		{"snapshot-bandwidth", text("fast"), ""},
		{"initial-shards", text("4"), "4"},
		{"initial-shards", text("5"), ""},
		{"initial-shards", nil, ""},
		{"replicas", text("3"), "3"},
		{"replicas", text("4"), "4"},
		{"replicas", text("10"), ""},
		{"replicas", text("0"), ""},
		{"colour", text("red"), ""},
	} {
		shown := "null"
		if row.value != nil {
			shown = *row.value
		}
		after, err := before.With(map[string]*string{row.name: row.value})
		if row.want == "" {
			var refused *SettingError
			if !errors.As(err, &refused) || refused.Name != row.name || refused.Reason == "" {
				t.Errorf("%s=%s: %v, want a refusal", row.name, shown, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s=%s: %v", row.name, shown, err)
			continue
		}
		if err := after.Validate(); err != nil {
			t.Errorf("%s=%s: %v", row.name, shown, err)
		}
		for _, o := range options {
			want := o.text(before)
			if o.Name == row.name {
				want = row.want
			}
			if got := o.text(after); got != want {
				t.Errorf("%s=%s: %s is %q, want %q", row.name, shown, o.Name, got, want)
			}
		}
	}
}

// TestSettingsWithSeveral ensures that of several values all are taken, and of several errors always the
// same one is told.
func TestSettingsWithSeveral(t *testing.T) {
	value := func(s string) *string { return &s }
	s, err := smallSettings.With(map[string]*string{"default-ttl": value("1m"), "touch-interval": value("1s"), "cache-memory": value("1GiB")})
	if want := (Settings{InitialShards: 4, Replicas: 3, CacheMemory: "1GiB", DefaultTTL: "1m", TouchInterval: "1s"}); err != nil || s != want {
		t.Errorf("%+v, %v, want %+v", s, err, want)
	}
	for range 20 {
		_, err := smallSettings.With(map[string]*string{"b": nil, "a": nil, "c": nil})
		if err == nil || !strings.HasPrefix(err.Error(), "a: ") {
			t.Fatal(err)
		}
	}
}

// TestOptionsRoundTrip ensures that what a setting shows is taken as the same value, and that each
// setting shows its default as Options describes it.
func TestOptionsRoundTrip(t *testing.T) {
	for _, o := range Options() {
		if got := o.text(Settings{}.WithDefaults()); got != o.Default || o.Meaning == "" {
			t.Errorf("%s: shows %q, its default is %q; meaning %q", o.Name, got, o.Default, o.Meaning)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := smallSettings
		s.ShardBytes = rapid.Uint64Range(0, 1<<62).Draw(t, "bytes")
		if ms := rapid.Int64Range(0, MaxTTL.Milliseconds()).Draw(t, "ttl"); ms > 0 {
			s.DefaultTTL = formatDuration(time.Duration(ms) * time.Millisecond)
		}
		for _, o := range options {
			again := s
			if err := o.set(&again, o.text(s)); err != nil || again != s {
				t.Fatalf("%s: %q is read as %+v, %v, was %+v", o.Name, o.text(s), again, err, s)
			}
		}
	})
}

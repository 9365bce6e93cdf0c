package shard

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func openIdentity(t *testing.T, dir, node string) *IdentityFile {
	t.Helper()
	f, err := OpenIdentity(dir, node)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// Ensures that a folder keeps the incarnation of its first start, and that two folders differ.
func TestIdentityLasts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "yet", "there")
	f := openIdentity(t, dir, "a")
	first := f.Identity()
	must(t, f.Close())
	must(t, f.Close())
	if first.Node != "a" || len(first.Incarnation) != 32 || first.Cluster != "" {
		t.Errorf("got %+v", first)
	}
	if again := openIdentity(t, dir, "a").Identity(); again.Incarnation != first.Incarnation {
		t.Errorf("incarnation changed from %s to %s", first.Incarnation, again.Incarnation)
	}
	if other := openIdentity(t, t.TempDir(), "a").Identity(); other.Incarnation == first.Incarnation {
		t.Error("two folders have the same incarnation")
	}
}

// Ensures that a folder serves one user at a time and one node for ever, and says so.
func TestIdentityRefuses(t *testing.T) {
	dir := t.TempDir()
	f := openIdentity(t, dir, "a")
	if _, err := OpenIdentity(dir, "a"); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("second user: got %v", err)
	}
	must(t, f.Close())
	if _, err := OpenIdentity(dir, "b"); err == nil || !strings.Contains(err.Error(), "belongs to node a, not to b") {
		t.Errorf("other node: got %v", err)
	}
	openIdentity(t, dir, "a") // the refusal let go of the lock
	for _, node := range []string{"", "a/b", "a b"} {
		if _, err := OpenIdentity(t.TempDir(), node); err == nil {
			t.Errorf("node id %q was accepted", node)
		}
	}
}

// Ensures that a cluster is formed once, durably, and never changed.
func TestIdentityForm(t *testing.T) {
	dir := t.TempDir()
	f := openIdentity(t, dir, "b")
	founders := []Founder{{"c", "3"}, {"a", "1"}, {"b", f.Identity().Incarnation}}
	cluster := ClusterID(founders)
	if err := f.Form(cluster, founders[:2]); err == nil {
		t.Error("a list that does not give the cluster id was accepted")
	}
	if err := f.Form("", nil); err == nil {
		t.Error("a cluster without id was accepted")
	}
	must(t, f.Form(cluster, founders))
	must(t, f.Form(cluster, founders))
	must(t, f.Close())
	if err := f.Form(cluster, founders); !errors.Is(err, ErrStopped) {
		t.Errorf("after Close: got %v", err)
	}
	f = openIdentity(t, dir, "b")
	got := f.Identity()
	if got.Cluster != cluster || !equal(got.Initial, []Founder{{"a", "1"}, founders[2], {"c", "3"}}) {
		t.Errorf("got %+v", got)
	}
	got.Initial[0].Node = "changed"
	if f.Identity().Initial[0].Node != "a" {
		t.Error("the caller's copy is the file's own")
	}
	other := []Founder{{"x", "1"}}
	if err := f.Form(ClusterID(other), other); !errors.Is(err, ErrWrongCluster) {
		t.Errorf("other cluster: got %v, want %v", err, ErrWrongCluster)
	}
	must(t, f.Form(cluster, nil)) // as a node that joined repeats it
}

// Ensures that the cluster id depends on each name and incarnation, and not on the order.
func TestClusterID(t *testing.T) {
	a, b := Founder{"a", "1"}, Founder{"b", "2"}
	id := ClusterID([]Founder{a, b})
	if id != "4016e0316f40793b933598c4fcbcd0b4" {
		t.Errorf("the id of a known list changed to %s", id)
	}
	if ClusterID([]Founder{b, a}) != id {
		t.Error("the order matters")
	}
	for _, other := range [][]Founder{nil, {a}, {a, a}, {a, {"b", "3"}}, {{"a", "1b"}, {"", "2"}}, {{"a1", ""}, b}} {
		if ClusterID(other) == id {
			t.Errorf("%v has the same id", other)
		}
	}
	list := []Founder{b, a}
	ClusterID(list)
	if list[0] != b {
		t.Error("the caller's list was sorted")
	}
}

// Ensures that a crash within the first start or within a later write leaves a folder that opens,
// with the old or the new content.
func TestIdentityCrash(t *testing.T) {
	t.Run("before the identity", func(t *testing.T) {
		dir := t.TempDir()
		must(t, saveNotes(dir, nil)) // the first of the two files
		must(t, os.WriteFile(filepath.Join(dir, identityFile+unfinished), []byte(`{"form`), 0o600))
		f := openIdentity(t, dir, "a")
		if _, err := openManifest(dir); err != nil || len(f.Identity().Incarnation) != 32 {
			t.Errorf("got %+v, %v", f.Identity(), err)
		}
	})
	t.Run("within Form", func(t *testing.T) {
		dir := t.TempDir()
		f := openIdentity(t, dir, "a")
		want := f.Identity()
		must(t, f.Close())
		must(t, os.WriteFile(filepath.Join(dir, identityFile+unfinished), []byte(`{"form`), 0o600))
		f = openIdentity(t, dir, "a")
		if got := f.Identity(); got.Incarnation != want.Incarnation || got.Cluster != "" {
			t.Errorf("got %+v, want %+v", got, want)
		}
		must(t, f.Form("feed", nil))
	})
}

// Ensures that a folder with a part missing or damaged is not taken for a new one.
func TestIdentityDamage(t *testing.T) {
	tests := map[string]func(t *testing.T, dir string){
		"identity missing, replicas noted": func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, identityFile)))
		},
		"identity and folders missing, replicas noted": func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, identityFile)))
			must(t, os.RemoveAll(filepath.Join(dir, replicasDir)))
		},
		"identity and notes missing, folders there": func(t *testing.T, dir string) {
			must(t, os.Remove(filepath.Join(dir, identityFile)))
			must(t, os.Remove(filepath.Join(dir, manifestName)))
		},
		"identity is no JSON": func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, identityFile), []byte("{"), 0o600))
		},
		"incarnation is cut": func(t *testing.T, dir string) {
			must(t, writeJSON(filepath.Join(dir, identityFile), identityRecord{folderFormat, Identity{Node: "a", Incarnation: "12"}}))
		},
		"founders do not give the cluster": func(t *testing.T, dir string) {
			must(t, writeJSON(filepath.Join(dir, identityFile), identityRecord{folderFormat, Identity{
				Node: "a", Incarnation: strings.Repeat("ab", 16), Cluster: "feed", Initial: []Founder{{"a", "1"}}}}))
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := openIdentity(t, dir, "a")
			m, err := openManifest(dir)
			must(t, err)
			_, err = m.begin(1, 1, 0)
			must(t, err)
			must(t, f.Close())
			damage(t, dir)
			if _, err := OpenIdentity(dir, "a"); !errors.Is(err, ErrDataLost) {
				t.Errorf("got %v, want %v", err, ErrDataLost)
			}
		})
	}
	t.Run("later format", func(t *testing.T) {
		dir := t.TempDir()
		must(t, writeJSON(filepath.Join(dir, identityFile), identityRecord{folderFormat + 1, Identity{}}))
		if _, err := OpenIdentity(dir, "a"); err == nil || errors.Is(err, ErrDataLost) {
			t.Errorf("got %v, want an error about the format", err)
		}
	})
}

package integration

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module is the server's import path.
const module = "github.com/larder-cache/larder"

// layers are the folders of the server, from the bottom: each may import those before it.
var layers = []string{"fsm", "shard", "directory", "httpapi", "cmd"}

// topLevel is all that may lie in the root of the repository beside dotfiles and what .gitignore names.
var topLevel = []string{
	"cmd", "shard", "fsm", "directory", "httpapi", "scripts", "integration",
	"go.mod", "go.sum", "Makefile", "README.md", "LICENSE", "CHANGELOG.md",
}

// forbidden names packages that the folder of a layer, and what it imports of ours, must not import
// itself, since its code has to be deterministic.
var forbidden = map[string][]string{
	"fsm": {"time", "math/rand", "math/rand/v2", "crypto/rand", "hash/maphash", "os", "net", "log", "log/slog"},
}

// fsmHash is the one library of the state machine. Its results are the same on all machines.
const fsmHash = "github.com/zeebo/xxh3"

// onlyIn names modules that one layer alone may import.
var onlyIn = map[string]string{
	"github.com/hashicorp/raft":        "shard",
	"github.com/hashicorp/raft-boltdb": "shard",
	"github.com/cockroachdb/pebble":    "shard",
	"github.com/gorilla/mux":           "httpapi",
}

// listed is what go list tells of a package.
type listed struct {
	ImportPath   string
	Dir          string
	Standard     bool
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// list runs go list on the module in dir: the server's is in "..", this one in ".".
func list(t *testing.T, dir string, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-C", dir, "-json=ImportPath,Dir,Standard,Imports,TestImports,XTestImports"}, args...)...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, &complaints)
	}
	var packages []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// layerOf returns the folder of the root that a package of ours lies in, "" for the packages of others.
func layerOf(path string) string {
	rest, ok := strings.CutPrefix(path, module+"/")
	if !ok {
		return ""
	}
	layer, _, _ := strings.Cut(rest, "/")
	return layer
}

// TestImportDirections ensures that imports of the server go one way, cmd to httpapi to directory
// to shard to fsm, and that each library stays where it belongs. Tests count too.
func TestImportDirections(t *testing.T) {
	packages := list(t, "..", "./...")
	if len(packages) < len(layers) {
		t.Fatalf("go list tells of %d packages only", len(packages))
	}
	for _, p := range packages {
		for _, violation := range violations(p) {
			t.Error(violation)
		}
	}
}

// violations returns what is wrong with the imports of p.
func violations(p listed) []string {
	var wrong []string
	layer := layerOf(p.ImportPath)
	level := slices.Index(layers, layer)
	// The client of users is a library: it must not pull in the server.
	if p.ImportPath == module+"/httpapi/client" {
		level = -1
	}
	for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
		to := layerOf(path)
		switch {
		case to == layer && !strings.HasPrefix(path, module+"/cmd/"):
		case to == "fsm" && p.ImportPath == module+"/httpapi/client" && !slices.Contains(p.Imports, path):
			// Its tests hold its slots against those of the servers.
		case layer == "scripts" && (to == "fsm" || to == "directory"):
			// The demo sizes its cluster by what an entry costs, and by the plan of shards.
		case to != "" && level < 0:
			wrong = append(wrong, p.ImportPath+" imports "+path+", but is not part of the server")
		case to != "" && (slices.Index(layers, to) >= level):
			wrong = append(wrong, p.ImportPath+" imports "+path+", which is not below it")
		}
		for library, owner := range onlyIn {
			if (path == library || strings.HasPrefix(path, library+"/")) && layer != owner {
				wrong = append(wrong, p.ImportPath+" imports "+path+", which is for "+owner+" alone")
			}
		}
	}
	for _, path := range p.Imports { // tests of a deterministic package may look at a clock
		if p.ImportPath == module+"/httpapi/client" && strings.Contains(path, ".") && layerOf(path) == "" {
			wrong = append(wrong, p.ImportPath+" imports "+path+", which is not the standard library")
		}
		if slices.Contains(forbidden[layer], path) {
			wrong = append(wrong, p.ImportPath+" imports "+path+", which is not deterministic")
		}
		if layer == "fsm" && strings.Contains(path, ".") && layerOf(path) != "fsm" && path != fsmHash {
			wrong = append(wrong, p.ImportPath+" imports "+path+", which is not the standard library")
		}
	}
	return wrong
}

// TestForbiddenImportsAreFound ensures that the check of imports sees each kind of violation.
func TestForbiddenImportsAreFound(t *testing.T) {
	at := func(path string) string { return module + "/" + path }
	for _, tt := range []struct {
		from, to string
		ok       bool
	}{
		{"cmd/larder", at("httpapi"), true},
		{"directory", at("shard"), true},
		{"shard", at("fsm"), true},
		{"shard", "github.com/hashicorp/raft", true},
		{"shard", "github.com/hashicorp/raft-boltdb/v2", true},
		{"fsm", "encoding/binary", true},
		{"shard", "time", true},
		{"httpapi", at("httpapi/client"), true},
		{"fsm", at("shard"), false},
		{"shard", at("directory"), false},
		{"directory", at("httpapi"), false},
		{"httpapi", at("cmd/larder"), false},
		{"httpapi/client", at("shard"), false},
		{"httpapi/client", at("fsm"), false},
		{"httpapi/client", "github.com/gorilla/mux", false},
		{"httpapi/client", "net/http", true},
		{"directory", "github.com/hashicorp/raft", false},
		{"cmd/larder", "github.com/hashicorp/raft-boltdb/v2", false},
		{"fsm", "time", false},
		{"fsm", "math/rand/v2", false},
		{"fsm/inner", "net", false},
		{"fsm", "golang.org/x/sys/unix", false},
		{"scripts/demo", at("fsm"), true},
		{"scripts/demo", at("shard"), false},
		{"scripts/demo", at("httpapi"), false},
	} {
		got := violations(listed{ImportPath: at(tt.from), Imports: []string{tt.to}})
		if (len(got) == 0) != tt.ok {
			t.Errorf("%s imports %s: %v, want ok %t", tt.from, tt.to, got, tt.ok)
		}
	}
}

// TestPackageDocs ensures that each package of the repository says once what it is: the commands in
// their main file, the others in doc.go where they have more than one file.
func TestPackageDocs(t *testing.T) {
	dirs := map[string]string{}
	for _, p := range list(t, "..", "./...") {
		dirs[p.Dir] = p.ImportPath
	}
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			if sources, _ := filepath.Glob(filepath.Join(path, "*.go")); len(sources) > 0 {
				dirs[path] = "integration/" + path
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, path := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		var docs []string
		for _, file := range files {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				docs = append(docs, filepath.Base(file))
			}
		}
		if len(docs) != 1 {
			t.Errorf("%s has %d package docs %v, want 1", path, len(docs), docs)
		}
	}
}

// TestNoReplace ensures that the server builds for everybody from its go.mod alone. This module and that of the benchmark beside
// others take the server from where it lies, for the benchmarks, and replace nothing else.
func TestNoReplace(t *testing.T) {
	type replacement struct {
		Old, New struct{ Path, Version string }
	}
	for file, allowed := range map[string][]string{
		"../go.mod": nil, "go.mod": {module + " => ../"},
		"bench/peers/go.mod": {module + " => ../../..", module + "/integration => ../.."},
	} {
		cmd := exec.Command("go", "mod", "edit", "-json", file)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		var mod struct{ Replace []replacement }
		if err := json.Unmarshal(out, &mod); err != nil {
			t.Fatal(err)
		}
		var replaced []string
		for _, r := range mod.Replace {
			replaced = append(replaced, r.Old.Path+r.Old.Version+" => "+r.New.Path+r.New.Version)
		}
		if !slices.Equal(replaced, allowed) {
			t.Errorf("%s replaces %q, want %q", file, replaced, allowed)
		}
	}
}

// TestOracleIndependence ensures that what judges the server shares no code with it. Benchmarks judge nothing
// that the server answers, and need its packages; what measures the Go client has it for its subject.
func TestOracleIndependence(t *testing.T) {
	packages := list(t, ".", "./...")
	bench := 0
	for _, p := range packages {
		if strings.HasPrefix(p.ImportPath, module+"/integration/bench/") {
			bench++
		}
		for _, violation := range oracleViolations(p) {
			t.Error(violation)
		}
	}
	if bench == 0 || bench == len(packages) {
		t.Fatalf("%d of %d packages are benchmarks", bench, len(packages))
	}
	judge, benchmark := listed{ImportPath: module + "/integration/check"}, listed{ImportPath: module + "/integration/bench/fsm"}
	for _, p := range []*listed{&judge, &benchmark} {
		p.TestImports = []string{module + "/fsm", module + "/integration/model", "os"}
	}
	if len(oracleViolations(judge)) != 1 || len(oracleViolations(benchmark)) != 0 {
		t.Errorf("of a judge: %q, of a benchmark: %q", oracleViolations(judge), oracleViolations(benchmark))
	}
	subject := listed{TestImports: []string{goClient, module + "/fsm"}}
	for path, want := range map[string]int{module + "/integration/goclient": 1, module + "/integration": 2} {
		if subject.ImportPath = path; len(oracleViolations(subject)) != want {
			t.Errorf("of %s, which imports the Go client and more: %q, want %d", path, oracleViolations(subject), want)
		}
	}
}

// goClient is the subject of integration/goclient.
const goClient = module + "/httpapi/client"

// oracleViolations returns what p of this module must not import.
func oracleViolations(p listed) []string {
	if strings.HasPrefix(p.ImportPath, module+"/integration/bench/") {
		return nil
	}
	var wrong []string
	for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
		if path == goClient && p.ImportPath == module+"/integration/goclient" {
			continue
		}
		if layer := layerOf(path); layer != "" && layer != "integration" || strings.HasPrefix(path, module+"/integration/bench/") {
			wrong = append(wrong, p.ImportPath+" imports "+path+": an oracle that shares code with its subject agrees with its bugs")
		}
	}
	return wrong
}

// TestTopLevel ensures that nothing gathers in the root of the repository.
func TestTopLevel(t *testing.T) {
	ignored, err := os.ReadFile("../.gitignore")
	if err != nil {
		t.Fatal(err)
	}
	var built []string // names that the build leaves there: "/name/" or "/name"
	for line := range strings.Lines(string(ignored)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "/"); ok {
			built = append(built, strings.TrimSuffix(name, "/"))
		}
	}
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, ".") && !slices.Contains(topLevel, name) && !slices.Contains(built, name) {
			t.Errorf("%s does not belong in the root of the repository", name)
		}
	}
}

package report

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// Save writes figures to a file as JSON, for a program.
func Save(path string, figures any) error {
	data, err := json.MarshalIndent(figures, "", "\t")
	if err != nil {
		return err
	}
	return WriteFile(path, append(data, '\n'))
}

// WriteFile writes a file that a run leaves, and the folder that it is in.
func WriteFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

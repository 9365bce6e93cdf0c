package httpapi

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/larder-cache/larder/directory"
)

// recoverShard begins the next generation of a shard that has lost its quorum, or, without "unsafe", says what that would do.
func (s *server) recoverShard(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id, err := shardOf(r)
	if err != nil {
		return err
	}
	if err := refuseConditions(r.Header, false); err != nil {
		return err
	}
	if err := checkJSONType(r.Header); err != nil {
		return err
	}
	ctx, cancel, err := bounded(r)
	if err != nil {
		return err
	}
	defer cancel()
	body, err := s.smallBody(ctx, w, r)
	if err != nil {
		return err
	}
	request, err := parseRecovery(body)
	if err != nil {
		return err
	}
	request.Shard = id
	view, err := s.cfg.Admin.RecoverShard(ctx, request)
	if err != nil {
		return err
	}
	if !view.Done {
		return writeJSON(w, r, view, "")
	}
	return goesOn(w, "/v1/shards/"+strconv.FormatUint(uint64(id), 10), view)
}

// rebuildDirectory begins the directory anew on this node, or, without "unsafe", says what that would do.
func (s *server) rebuildDirectory(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if err := refuseConditions(r.Header, false); err != nil {
		return err
	}
	if err := checkJSONType(r.Header); err != nil {
		return err
	}
	ctx, cancel, err := bounded(r)
	if err != nil {
		return err
	}
	defer cancel()
	body, err := s.smallBody(ctx, w, r)
	if err != nil {
		return err
	}
	var request directory.Rebuild
	given, err := parseWord(body, map[string]*bool{"unsafe": &request.Unsafe, "force": &request.Force}, "version", &request.Version)
	if err != nil {
		return err
	}
	if request.Unsafe && !given {
		return kindPreconditionRequired.problem(
			"Give the version of the newest known table, as the answer without unsafe shows it, so that a repeat does not rebuild the directory again.")
	}
	view, err := s.cfg.Admin.RebuildDirectory(ctx, request)
	if err != nil {
		return err
	}
	if !view.Done {
		return writeJSON(w, r, view, "")
	}
	return goesOn(w, "/v1/shards/0", view)
}

// parseRecovery reads {"unsafe":true,"generation":1,"force":false,"keep_data":false}.
func parseRecovery(body []byte) (request directory.Recovery, err error) {
	given, err := parseWord(body, map[string]*bool{"unsafe": &request.Unsafe, "force": &request.Force, "keep_data": &request.KeepData}, "generation", &request.Generation)
	if err == nil && request.Unsafe && !given {
		err = kindPreconditionRequired.problem(
			"Give the generation that is to end, as the answer without unsafe shows it, so that a repeat does not end the one that follows.")
	}
	return request, err
}

// parseWord reads an operator's word: a JSON object of flags and one number, each at most once, and tells whether the number was given. encoding/json by itself would
// take other spellings, and the last of several.
func parseWord(body []byte, flags map[string]*bool, number string, value *uint64) (given bool, err error) {
	names := strings.Join(append(slices.Sorted(maps.Keys(flags)), number), ", ")
	bad := kindBadBody.problem(`The body is a JSON object with any of the members %s, each once: {"unsafe":true,"%s":1}.`, names, number)
	if !utf8.Valid(body) || !json.Valid(body) {
		return false, bad
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return false, bad
	}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		name, ok := token.(string)
		if err != nil || !ok || seen[name] {
			return false, bad
		}
		seen[name] = true
		if token, err = decoder.Token(); err != nil {
			return false, bad
		}
		flag, isFlag := flags[name]
		switch v := token.(type) {
		case bool:
			if !isFlag {
				return false, bad
			}
			*flag = v
		case json.Number:
			if *value, ok = decimal(v.String()); !ok || name != number {
				return false, bad
			}
		default:
			return false, bad
		}
	}
	if _, err := decoder.Token(); err != nil {
		return false, bad
	}
	if _, err := decoder.Token(); err != io.EOF {
		return false, bad
	}
	return seen[number], nil
}

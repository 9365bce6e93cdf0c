package httpapi

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
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

// parseRecovery reads {"unsafe":true,"generation":1,"force":false,"keep_data":false}. encoding/json by itself would take other spellings, and the last of several.
func parseRecovery(body []byte) (request directory.Recovery, err error) {
	bad := kindBadBody.problem(`The body is a JSON object with any of the members unsafe, keep_data, generation and force, each once: {"unsafe":true,"generation":1}.`)
	if !utf8.Valid(body) || !json.Valid(body) {
		return request, bad
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return request, bad
	}
	flags := map[string]*bool{"unsafe": &request.Unsafe, "force": &request.Force, "keep_data": &request.KeepData}
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		name, ok := token.(string)
		if err != nil || !ok || seen[name] {
			return request, bad
		}
		seen[name] = true
		if token, err = decoder.Token(); err != nil {
			return request, bad
		}
		flag, isFlag := flags[name]
		switch value := token.(type) {
		case bool:
			if !isFlag {
				return request, bad
			}
			*flag = value
		case json.Number:
			if request.Generation, ok = decimal(value.String()); !ok || name != "generation" {
				return request, bad
			}
		default:
			return request, bad
		}
	}
	if _, err := decoder.Token(); err != nil {
		return request, bad
	}
	if _, err := decoder.Token(); err != io.EOF {
		return request, bad
	}
	if request.Unsafe && !seen["generation"] {
		return request, kindPreconditionRequired.problem(
			"Give the generation that is to end, as the answer without unsafe shows it, so that a repeat does not end the one that follows.")
	}
	return request, nil
}

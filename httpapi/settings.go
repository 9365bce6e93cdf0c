package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/larder-cache/larder/directory"
)

// defaultTTL is the time to live of a value that is stored without a word about it, 0 for none. The
// node that a request came to fills it in, by the settings as it knows them.
func (s *server) defaultTTL() time.Duration { return s.cfg.Directory.DefaultTTL() }

// showSettings serves the cluster-wide settings. Their ETag is the table version of their last change.
func (s *server) showSettings(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if err := s.cfg.Directory.Known(); err != nil {
		return err
	}
	view := s.cfg.Directory.Settings()
	return writeJSON(w, r, view, formatETag(view.Version))
}

// patchSettings changes those settings that the body has; null is the default. It answers with all of them.
func (s *server) patchSettings(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if err := refuseConditions(r.Header, true); err != nil {
		return err
	}
	version, err := settingsCondition(r.Header)
	if err != nil {
		return err
	}
	if err := checkJSONType(r.Header, mergePatch); err != nil {
		w.Header().Set("Accept-Patch", mergePatch)
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
	values, err := parseSettings(body)
	if err != nil {
		return err
	}
	view, err := s.cfg.Admin.ChangeSettings(ctx, directory.SettingsChange{Values: values, Version: version})
	if err != nil {
		return err
	}
	answer, err := json.Marshal(view)
	if err != nil {
		return err
	}
	writeJSONBytes(w, append(answer, '\n'), formatETag(view.Version), nil)
	return nil
}

// smallBody reads the JSON body of a change to the cluster.
func (s *server) smallBody(ctx context.Context, w http.ResponseWriter, r *http.Request) ([]byte, error) {
	deadline, _ := ctx.Deadline()
	return readBody(w, r, maxJSONBody, deadline, kindBodyTooLarge.problem("The body may have %d bytes.", maxJSONBody))
}

// settingsCondition is the version of the settings that a change is made for: that of If-Match, 0 for any.
func settingsCondition(h http.Header) (uint64, error) {
	lines := h.Values("If-Match")
	if len(lines) == 0 {
		return 0, nil
	}
	list, ok := parseTags(lines)
	if ok && list.any {
		return 0, nil // there are settings
	}
	if ok && len(list.tags) == 1 && !list.tags[0].weak {
		if version, ok := parseVersion(list.tags[0].opaque); ok {
			return version, nil
		}
	}
	return 0, kindBadHeader.problem(`If-Match takes * or the one strong ETag of the settings, such as "17".`)
}

// parseSettings reads the values of {"cache-memory":"40%","shard-bytes":null}, numbers as they are written;
// nil for null. encoding/json by itself would take the last of several values of a name.
func parseSettings(body []byte) (map[string]*string, error) {
	bad := func() (map[string]*string, error) {
		return nil, kindBadBody.problem(`The body is a JSON object of settings and their new values, each once: {"cache-memory":"40%%","default-ttl":null}.`)
	}
	if !utf8.Valid(body) || !json.Valid(body) {
		return bad()
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return bad()
	}
	values := map[string]*string{}
	for decoder.More() {
		token, err := decoder.Token()
		name, ok := token.(string)
		if _, twice := values[name]; err != nil || !ok || twice {
			return bad()
		}
		if token, err = decoder.Token(); err != nil {
			return bad()
		}
		var text string
		switch value := token.(type) {
		case nil:
			values[name] = nil
			continue
		case string:
			text = value
		case json.Number:
			text = value.String()
		default:
			return nil, kindBadSetting.problem("The value of %s is a string, a number or null.", name)
		}
		values[name] = &text
	}
	if _, err := decoder.Token(); err != nil {
		return bad()
	}
	if _, err := decoder.Token(); err != io.EOF {
		return bad()
	}
	return values, nil
}

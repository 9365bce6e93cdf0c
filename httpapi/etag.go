package httpapi

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/larder-cache/larder/fsm"
)

// formatETag is the entity tag of an entry of that version. It is strong: a version is never used
// for another value of the key.
func formatETag(version uint64) string {
	var buf [22]byte
	text := append(strconv.AppendUint(append(buf[:0], '"'), version, 10), '"')
	return string(text)
}

// entityTag is one entity tag (RFC 9110 8.8.3).
type entityTag struct {
	weak   bool
	opaque string // with its quotes
}

// tagList is the value of If-Match or If-None-Match: "*", or a list of tags.
type tagList struct {
	any  bool
	tags []entityTag
}

// parseTags parses all the lines of such a header; ok is false where they don't follow the grammar.
func parseTags(lines []string) (list tagList, ok bool) {
	s := strings.Join(lines, ",")
	if strings.Trim(s, " \t") == "*" {
		return tagList{any: true}, true
	}
	for {
		// A list may have empty elements (RFC 9110 5.6.1).
		s = strings.TrimLeft(s, " \t,")
		if s == "" {
			return list, len(list.tags) > 0
		}
		var tag entityTag
		s, tag.weak = strings.CutPrefix(s, "W/")
		if !strings.HasPrefix(s, `"`) {
			return tagList{}, false
		}
		end := strings.IndexByte(s[1:], '"')
		if end < 0 {
			return tagList{}, false
		}
		tag.opaque, s = s[:end+2], s[end+2:]
		if strings.ContainsFunc(tag.opaque, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
			return tagList{}, false
		}
		list.tags = append(list.tags, tag)
		s = strings.TrimLeft(s, " \t")
		if s != "" && s[0] != ',' {
			return tagList{}, false
		}
	}
}

// matchesWeakly compares as If-None-Match does: a weak tag equals a strong one.
func (l tagList) matchesWeakly(etag string) bool {
	if l.any {
		return true
	}
	for _, tag := range l.tags {
		if tag.opaque == etag {
			return true
		}
	}
	return false
}

// readTags parses the If-None-Match of a read; nil when there is none. If-Match on a read is refused: it would
// ask for a 412 that a reader has no use for, and ignoring a condition is not allowed.
func readTags(h http.Header) (*tagList, error) {
	if len(h["If-Match"]) > 0 {
		return nil, kindBadHeader.problem("If-Match is for writes; reads take If-None-Match.")
	}
	lines := h["If-None-Match"]
	if len(lines) == 0 {
		return nil, nil
	}
	list, ok := parseTags(lines)
	if !ok {
		return nil, kindBadHeader.problem(`If-None-Match takes * or a list of quoted entity tags such as "17".`)
	}
	return &list, nil
}

// writeCondition translates the conditional headers of a write into the condition that the
// state machine decides, Larder-Fill being one of them. What it can't decide exactly is refused here, never approximated: a list
// of tags, and tags that Larder never gave out (a weak one can't match by RFC 9110 13.1.1, and tells
// that something on the way changed it).
func writeCondition(r *http.Request) (fsm.Cond, error) {
	match, noneMatch := r.Header["If-Match"], r.Header["If-None-Match"]
	fill := r.Header["Larder-Fill"]
	switch {
	case len(match) > 0 && len(noneMatch) > 0:
		return fsm.Cond{}, kindBadHeader.problem("If-Match and If-None-Match exclude each other.")
	case len(fill) > 0:
		if r.Method != http.MethodPut || len(match) > 0 || len(noneMatch) > 0 {
			return fsm.Cond{}, kindBadHeader.problem("Larder-Fill is for PUT, and is a condition by itself: without If-Match and If-None-Match.")
		}
		token, err := strconv.ParseUint(fill[0], 10, 64)
		if err != nil || token == 0 || strconv.FormatUint(token, 10) != fill[0] || len(fill) > 1 {
			return fsm.Cond{}, kindBadHeader.problem("Larder-Fill takes the token that a read with fill was answered, a decimal number.")
		}
		return fsm.Cond{Kind: fsm.CondFill, Version: token}, nil
	case len(noneMatch) > 0:
		list, ok := parseTags(noneMatch)
		if !ok || !list.any || r.Method != http.MethodPut {
			return fsm.Cond{}, kindBadHeader.problem("On a write If-None-Match is for PUT, and takes * alone.")
		}
		return fsm.Cond{Kind: fsm.CondAbsent}, nil
	case len(match) > 0:
		list, ok := parseTags(match)
		if ok && list.any {
			return fsm.Cond{Kind: fsm.CondPresent}, nil
		}
		if !ok || len(list.tags) != 1 {
			return fsm.Cond{}, kindBadHeader.problem(`If-Match takes * or one quoted entity tag such as "17".`)
		}
		tag := list.tags[0]
		if tag.weak {
			return fsm.Cond{}, kindBadHeader.problem(
				`If-Match never matches a weak tag. Send the ETag as Larder gave it, without W/; a proxy that weakens it must not.`)
		}
		version, ok := parseVersion(tag.opaque)
		if !ok {
			return fsm.Cond{}, kindBadHeader.problem("%s is not an ETag of this cache: they are decimal numbers in quotes.", tag.opaque)
		}
		return fsm.Cond{Kind: fsm.CondVersion, Version: version}, nil
	}
	return fsm.Cond{Kind: fsm.CondAlways}, nil
}

// parseVersion is the inverse of formatETag. Versions start above 0.
func parseVersion(opaque string) (uint64, bool) {
	version, err := strconv.ParseUint(strings.Trim(opaque, `"`), 10, 64)
	return version, err == nil && version > 0 && formatETag(version) == opaque
}

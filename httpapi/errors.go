package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// Applied answers the question that a caller of a failed request has: did it happen?
type Applied string

const (
	// AppliedNo: certainly not; the request may be sent again.
	AppliedNo Applied = "no"
	// AppliedYes: it happened, although the answer is an error.
	AppliedYes Applied = "yes"
	// AppliedUnknown: it may have happened, or may still happen.
	AppliedUnknown Applied = "unknown"
)

// problemType is the media type of every error body (RFC 9457).
const problemType = "application/problem+json"

// Problem is the body of every answer with a status of 400 or above. Clients branch on Type and
// Applied, never on Title or Detail.
type Problem struct {
	Type    string  `json:"type"` // stable, relative: "/problems/" and a name
	Title   string  `json:"title"`
	Status  int     `json:"status"`
	Detail  string  `json:"detail"`
	Applied Applied `json:"applied"`
	// ETag is the current one of the key, the shard's members or the settings, with a precondition that failed;
	// empty when the key is absent.
	ETag string `json:"etag,omitempty"`

	retry  bool        // send Retry-After
	hangUp bool        // the rest of the request is unread: close the connection
	header http.Header // further headers that HTTP asks for: Allow, Larder-Leader
}

func (p *Problem) Error() string { return p.Title + ": " + p.Detail }

// with adds a header to the answer.
func (p *Problem) with(name, value string) *Problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(name, value)
	return p
}

// hangingUp has the connection closed after the answer.
func (p *Problem) hangingUp() *Problem {
	p.hangUp = true
	return p
}

// retryAfter is the number of seconds that Retry-After names: an election takes about as long.
const retryAfter = 1

// write sends p. To a HEAD net/http sends the same headers and no body.
func (p *Problem) write(w http.ResponseWriter) {
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and a number always encode
	}
	h := w.Header()
	for name, values := range p.header {
		h[name] = values
	}
	if p.ETag != "" {
		h.Set("ETag", p.ETag)
	}
	if p.retry {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	if p.hangUp {
		h.Set("Connection", "close")
	}
	// An error says nothing of the next request. A 404 would else be cached by a rule of thumb
	// (RFC 9111 4.2.2), and a precondition's answer holds for one instant only.
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Type", problemType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	w.Write(body) // the client that doesn't hear it has gone
}

// kind is a class of problems: everything of a Problem but its detail.
type kind struct {
	name    string
	title   string
	status  int
	applied Applied
	retry   bool
}

// problem makes a Problem of the kind.
func (k kind) problem(format string, args ...any) *Problem {
	return &Problem{
		Type:    "/problems/" + k.name,
		Title:   k.title,
		Status:  k.status,
		Detail:  fmt.Sprintf(format, args...),
		Applied: k.applied,
		retry:   k.retry,
	}
}

// All kinds there are. The names are a contract with clients: append, never rename.
var (
	// What is wrong with the request itself.
	kindMalformed            = kind{"malformed-request", "Malformed request", 400, AppliedNo, false}
	kindBadKey               = kind{"bad-key", "Bad key", 400, AppliedNo, false}
	kindBadParameter         = kind{"bad-parameter", "Bad query parameter", 400, AppliedNo, false}
	kindBadHeader            = kind{"bad-header", "Bad header", 400, AppliedNo, false}
	kindBadBody              = kind{"bad-body", "Bad body", 400, AppliedNo, false}
	kindUnknownPath          = kind{"unknown-path", "No such resource", 404, AppliedNo, false}
	kindMethod               = kind{"method-not-allowed", "Method not allowed", 405, AppliedNo, false}
	kindBodyTimeout          = kind{"request-timeout", "The request's body came too slowly", 408, AppliedNo, false}
	kindValueTooLarge        = kind{"value-too-large", "Value too large", 413, AppliedNo, false}
	kindBadBatch             = kind{"bad-batch", "Batch refused", 422, AppliedNo, false}
	kindBatchTooLarge        = kind{"batch-too-large", "Batch too large", 413, AppliedNo, false}
	kindBodyTooLarge         = kind{"body-too-large", "Body too large", 413, AppliedNo, false}
	kindKeyTooLong           = kind{"key-too-long", "Key too long", 414, AppliedNo, false}
	kindContentEncoding      = kind{"content-encoding", "Content coding not kept", 415, AppliedNo, false}
	kindMediaType            = kind{"media-type", "Media type not understood", 415, AppliedNo, false}
	kindExpectation          = kind{"expectation-failed", "Expectation failed", 417, AppliedNo, false}
	kindPreconditionRequired = kind{"precondition-required", "Precondition required", 428, AppliedNo, false}
	kindHeadersTooLarge      = kind{"headers-too-large", "Headers too large", 431, AppliedNo, false}
	kindTransferEncoding     = kind{"transfer-encoding", "Transfer coding not understood", 501, AppliedNo, false}
	kindHTTPVersion          = kind{"http-version", "HTTP version not supported", 505, AppliedNo, false}
	kindNotBuilt             = kind{"not-built", "Not built in this version", 501, AppliedNo, false}

	// What the cluster answered.
	kindAbsent           = kind{"not-found", "Key not found", 404, AppliedNo, false}
	kindBadSetting       = kind{"bad-setting", "Setting refused", 422, AppliedNo, false}
	kindUnknownShard     = kind{"unknown-shard", "No such shard", 404, AppliedNo, false}
	kindUnknownNode      = kind{"unknown-node", "No such node", 404, AppliedNo, false}
	kindUnknownOperation = kind{"unknown-operation", "No such operation", 404, AppliedNo, false}
	kindConflict         = kind{"conflict", "The cluster's state does not allow it", 409, AppliedNo, false}
	kindPrecondition     = kind{"precondition-failed", "Precondition failed", 412, AppliedNo, false}
	kindEntryTooBig      = kind{"entry-too-large", "Entry too large for its shard", 413, AppliedNo, false}
	kindAnswerTooLarge   = kind{"answer-too-large", "Values too large for one answer", 413, AppliedNo, false}
	kindSpansShards      = kind{"batch-spans-shards", "The batch spans several shards", 422, AppliedNo, false}
	kindAborted          = kind{"aborted", "Not applied because of another operation", 424, AppliedNo, false}
	kindNotAttempted     = kind{"not-attempted", "Not attempted", 503, AppliedNo, true}
	kindNotInteger       = kind{"not-an-integer", "Not an integer", 422, AppliedNo, false}
	kindKeyReused        = kind{"idempotency-key-reused", "Idempotency key of another change", 422, AppliedNo, false}
	kindKeyTooNew        = kind{"idempotency-key-too-new", "Idempotency key from the future", 422, AppliedNo, false}
	kindKeyTooOld        = kind{"idempotency-key-too-old", "Idempotency key too old", 422, AppliedUnknown, false}
	kindKeysFull         = kind{"idempotency-keys-full", "Too many idempotency keys", 429, AppliedNo, true}
	kindMisdirected      = kind{"misdirected", "Another node serves this key", 421, AppliedNo, false}
	kindOverloaded       = kind{"overloaded", "Overloaded", 429, AppliedNo, true}
	kindNoLeader         = kind{"no-leader", "The shard has no leader now", 503, AppliedNo, true}
	kindMoved            = kind{"moved", "The key's range is moving", 503, AppliedNo, true}
	kindDiverged         = kind{"diverged", "The replicas differ", 503, AppliedNo, true}
	kindUnavailable      = kind{"unavailable", "Unavailable", 503, AppliedNo, true}
	kindDeadline         = kind{"deadline", "Not done in time", 503, AppliedNo, true}
	kindExhausted        = kind{"versions-exhausted", "The shard waits for new versions", 503, AppliedNo, true}
	kindUnknown          = kind{"outcome-unknown", "Outcome unknown", 504, AppliedUnknown, false}

	// What must not happen. After a write nothing is certain.
	kindInternalRead  = kind{"internal", "Internal error", 500, AppliedNo, false}
	kindInternalWrite = kind{"internal", "Internal error", 500, AppliedUnknown, false}
)

// lookAdvice is for who doesn't know whether a change happened.
const lookAdvice = "Read what it was to change to learn whether it happened."

// errorRow maps one error of the packages below to its kind; advice is what the caller can do.
type errorRow struct {
	is     func(error) bool
	kind   kind
	advice string
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// unknown matches the directory's refusal of what there is not.
func unknown(what string) func(error) bool {
	return func(err error) bool {
		var e *directory.UnknownError
		return errors.As(err, &e) && e.What == what
	}
}

// errorTable is the one place that says what an error of the packages below is over HTTP. The first row
// that matches decides: an error may wrap others, as a deadline does the last refusal. A shard that
// this node doesn't host is no 404 here, since to a reader that would say that the key is absent.
var errorTable = []errorRow{
	{as[*directory.NotAttemptedError], kindNotAttempted, "Send it again once you know what became of the earlier ones."}, // it tells of an unknown outcome
	{is(shard.ErrOutcomeUnknown), kindUnknown, lookAdvice},
	{as[*directory.SpansShardsError], kindSpansShards, "Nothing was done. Keys with the same {tag} are always in one shard."},
	{is(shard.ErrAnswerTooLarge), kindAnswerTooLarge, "Read it in another batch, or by itself."},
	{as[*directory.ConflictError], kindConflict, "Nothing was changed."},
	{as[*directory.ConfError], kindPrecondition, "Look at its members again before deciding."},
	{as[*directory.SettingsVersionError], kindPrecondition, "Look at them again before deciding."},
	{as[*directory.SettingError], kindBadSetting, "Nothing was changed."},
	{unknown("shard"), kindUnknownShard, "GET /v1/shards lists them."},
	{unknown("node"), kindUnknownNode, "GET /v1/nodes lists them."},
	{unknown("operation"), kindUnknownOperation, "GET /v1/operations lists them."},
	{is(directory.ErrNoTable), kindUnavailable, "Try again; /readyz tells what this node waits for."},
	{is(shard.ErrDiverged), kindDiverged, "Try again; where it lasts, \"larder status\" tells which replicas differ."},
	{is(shard.ErrOverloaded), kindOverloaded, "Send fewer requests at a time, or try again later."},
	{is(shard.ErrNoLeader), kindNoLeader, "Try again: an election takes a second or two."},
	{as[*shard.NotLeaderError], kindNoLeader, "Try again: leadership is changing hands."},
	{as[*shard.NotOwnerError], kindMoved, "Try again."},
	{is(shard.ErrUnknownShard), kindUnavailable, "Try again, or on another node."},
	{is(shard.ErrStopped), kindUnavailable, "Try again, on another node if this one is going down."},
	{is(shard.ErrRetired), kindUnavailable, "Try again, or on another node."},
	{is(shard.ErrConfChanged), kindUnavailable, "Look at the shard's members, and try again."},
	{is(shard.ErrUnreachable), kindUnavailable, "Try again, or on another node."},
	{is(shard.ErrWrongCluster), kindUnavailable, "The nodes are set up wrongly: look at their logs."},
	{is(shard.ErrDataLost), kindUnavailable, "A node lost its data folder: look at its log."},
	{is(shard.ErrDeadline), kindDeadline, "Try again, or allow more time with Larder-Timeout."},
}

// problemOf is what err, returned for a read or for a write, is over HTTP. A Problem is itself.
// A read can't change anything, so its outcome is never unknown; a write whose error has no row
// may have happened.
func problemOf(err error, read bool) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	if read && errors.Is(err, shard.ErrOutcomeUnknown) {
		return kindUnavailable.problem("The read could not be confirmed (%v). Try again.", err)
	}
	for _, row := range errorTable {
		if row.is(err) {
			p := row.kind.problem("%s. %s", sentence(err, read), row.advice)
			var settings *directory.SettingsVersionError
			if errors.As(err, &settings) && row.kind == kindPrecondition {
				p.ETag = formatETag(settings.Version)
			}
			var conf *directory.ConfError
			if row.kind == kindPrecondition && errors.As(err, &conf) {
				p.ETag = confTag(conf.Conf)
			}
			return p
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		if read {
			return kindDeadline.problem("%s. Try again, or allow more time with Larder-Timeout.", sentence(err, read))
		}
		return kindUnknown.problem("%s. %s", sentence(err, read), lookAdvice)
	}
	if read {
		return kindInternalRead.problem("%s.", sentence(err, read))
	}
	return kindInternalWrite.problem("%s. %s", sentence(err, read), lookAdvice)
}

// sentence is err's text with a capital letter. ErrDeadline speaks of proposals, which reads are not.
func sentence(err error, read bool) string {
	text := err.Error()
	if read {
		text = strings.ReplaceAll(text, shard.ErrDeadline.Error(), "the time is over")
	}
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// statusProblem is what the state machine's verdict on a write is over HTTP, nil when it applied.
func statusProblem(resp shard.Response) *Problem {
	switch resp.Status {
	case fsm.StatusOK:
		return nil
	case fsm.StatusCondition:
		if resp.Version == 0 {
			return kindPrecondition.problem("The key is absent.")
		}
		p := kindPrecondition.problem("The key is there, with the version that the ETag tells.")
		p.ETag = formatETag(resp.Version)
		return p
	case fsm.StatusTooLarge:
		return kindEntryTooBig.problem("The entry would take more than an eighth of its shard's memory.")
	case fsm.StatusExhausted:
		return kindExhausted.problem("The directory is about to grant the shard new ones. Try again.")
	case fsm.StatusNotFound:
		return kindAbsent.problem("There is no live entry under this key.")
	case fsm.StatusNotInteger:
		return kindNotInteger.problem("The value is no decimal integer of 64 bits, or the sum would be none.")
	case fsm.StatusKeyReused:
		return kindKeyReused.problem("Another change was made under this Idempotency-Key. Each change takes a key of its own.")
	case fsm.StatusKeyTooOld:
		return kindKeyTooOld.problem("Changes under an Idempotency-Key of that age are forgotten: whether this one was made before is not known. It was not made now. %s", lookAdvice)
	case fsm.StatusKeyTooNew:
		return kindKeyTooNew.problem("The time in the Idempotency-Key lies too far ahead of the cluster's. Set the clock right, or use a key that does not begin with a time.")
	case fsm.StatusKeysFull:
		return kindKeysFull.problem("The shard has no room to remember another Idempotency-Key. Try again later, or begin keys with their time.")
	case fsm.StatusAborted:
		return kindAborted.problem("Another operation of the atomic batch was refused, so none was applied.")
	case fsm.StatusNotOwner:
		return problemOf(&shard.NotOwnerError{Epoch: resp.Epoch}, false)
	default:
		return kindInternalWrite.problem("The state machine answered a write with status %d.", resp.Status)
	}
}

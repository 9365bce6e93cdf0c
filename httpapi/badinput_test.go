package httpapi

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// badInputs are requests that are refused, each with its documented status and type.
var badInputs = []struct {
	what    string
	method  string
	target  string
	headers []string // whole lines
	status  int
	name    string
}{
	{"empty key", "GET", "/v1/kv/", nil, 400, "bad-key"},
	{"empty key", "PUT", "/v1/kv/", nil, 400, "bad-key"},
	{"empty key", "DELETE", "/v1/kv/?", nil, 400, "bad-key"},
	{"over-long key", "PUT", "/v1/kv/" + strings.Repeat("k", 1025), nil, 414, "key-too-long"},
	{"over-long key", "GET", "/v1/kv/" + strings.Repeat("%6b", 1025), nil, 414, "key-too-long"},
	{"over-long key", "HEAD", "/v1/kv/" + strings.Repeat("k", 1025), nil, 414, "key-too-long"},
	{"over-long key", "GET", "/v1/locate/" + strings.Repeat("k", 1025), nil, 414, "key-too-long"},
	{"malformed percent-encoding", "PUT", "/v1/kv/a%zz", nil, 400, "malformed-request"},
	{"malformed percent-encoding", "GET", "/v1/kv/%", nil, 400, "malformed-request"},
	{"malformed percent-encoding", "GET", "/v1/locate/%1", nil, 400, "malformed-request"},
	{"malformed percent-encoding in the query", "PUT", "/v1/kv/k?ttl=%zz", nil, 400, "bad-parameter"},
	{"semicolon in the query", "PUT", "/v1/kv/k?ttl=1s;a=b", nil, 400, "bad-parameter"},

	{"ttl without unit", "PUT", "/v1/kv/k?ttl=60", nil, 400, "bad-parameter"},
	{"zero ttl", "PUT", "/v1/kv/k?ttl=0s", nil, 400, "bad-parameter"},
	{"negative ttl", "PUT", "/v1/kv/k?ttl=-1s", nil, 400, "bad-parameter"},
	{"ttl that is no duration", "PUT", "/v1/kv/k?ttl=soon", nil, 400, "bad-parameter"},
	{"empty ttl", "PUT", "/v1/kv/k?ttl=", nil, 400, "bad-parameter"},
	{"ttl below a millisecond", "PUT", "/v1/kv/k?ttl=1500us", nil, 400, "bad-parameter"},
	{"ttl above ten years", "PUT", "/v1/kv/k?ttl=87601h", nil, 400, "bad-parameter"},
	{"ttl beyond all durations", "PUT", "/v1/kv/k?ttl=99999999999h", nil, 400, "bad-parameter"},
	{"two ttls", "PUT", "/v1/kv/k?ttl=1s&ttl=2s", nil, 400, "bad-parameter"},
	{"ttl and max-age that differ", "PUT", "/v1/kv/k?ttl=1s", []string{"Cache-Control: max-age=2"}, 400, "bad-parameter"},
	{"max-age=0", "PUT", "/v1/kv/k", []string{"Cache-Control: max-age=0"}, 400, "bad-header"},
	{"max-age of a fraction", "PUT", "/v1/kv/k", []string{"Cache-Control: max-age=1.5"}, 400, "bad-header"},
	{"max-age without a value", "PUT", "/v1/kv/k", []string{"Cache-Control: max-age"}, 400, "bad-header"},
	{"spaces around max-age", "PUT", "/v1/kv/k", []string{"Cache-Control: max-age = 60"}, 400, "bad-header"},
	{"space before max-age's value", "PUT", "/v1/kv/k", []string{"Cache-Control: no-store, Max-Age= 60"}, 400, "bad-header"},
	{"space after max-age", "PUT", "/v1/kv/k", []string{"Cache-Control: max-age =60"}, 400, "bad-header"},
	{"max-age with a colon", "PUT", "/v1/kv/k", []string{"Cache-Control: max-age: 60"}, 400, "bad-header"},
	{"negative max-age", "PUT", "/v1/kv/k", []string{"Cache-Control: max-age=-1"}, 400, "bad-header"},
	{"max-age above ten years", "PUT", "/v1/kv/k", []string{"Cache-Control: max-age=315360001"}, 400, "bad-header"},
	{"two max-ages", "PUT", "/v1/kv/k", []string{"Cache-Control: max-age=1", "Cache-Control: max-age=2"}, 400, "bad-header"},
	{"ttl on a read", "GET", "/v1/kv/k?ttl=1s", nil, 400, "bad-parameter"},
	{"ttl on a delete", "DELETE", "/v1/kv/k?ttl=1s", nil, 400, "bad-parameter"},

	{"unknown consistency", "GET", "/v1/kv/k?consistency=eventual", nil, 400, "bad-parameter"},
	{"empty consistency", "GET", "/v1/kv/k?consistency=", nil, 400, "bad-parameter"},
	{"consistency on a write", "PUT", "/v1/kv/k?consistency=linearizable", nil, 400, "bad-parameter"},
	{"staleness without a bound", "GET", "/v1/kv/k?consistency=any&max-staleness=2s", nil, 400, "bad-parameter"},
	{"no staleness", "GET", "/v1/kv/k?consistency=bounded&max-staleness=0s", nil, 400, "bad-parameter"},
	{"staleness too fine", "GET", "/v1/kv/k?consistency=bounded&max-staleness=10us", nil, 400, "bad-parameter"},
	{"staleness too long", "HEAD", "/v1/kv/k?consistency=bounded&max-staleness=999h", nil, 400, "bad-parameter"},
	{"lease of an old read", "GET", "/v1/kv/k?consistency=any&lease=never", nil, 400, "bad-parameter"},
	{"bad staleness", "GET", "/v1/kv/k?consistency=bounded&max-staleness=2", nil, 400, "bad-parameter"},
	{"staleness of a linearizable read", "GET", "/v1/kv/k?max-staleness=2s", nil, 400, "bad-parameter"},
	{"bad lease", "GET", "/v1/kv/k?lease=always", nil, 400, "bad-parameter"},
	{"bad touch", "GET", "/v1/kv/k?touch=1", nil, 400, "bad-parameter"},
	{"bad route", "GET", "/v1/kv/k?route=away", nil, 400, "bad-parameter"},
	{"unknown parameter", "GET", "/v1/kv/k?colour=red", nil, 400, "bad-parameter"},
	{"unknown parameter", "PUT", "/v1/kv/k?TTL=1s", nil, 400, "bad-parameter"},
	{"unknown parameter", "DELETE", "/v1/kv/k?x", nil, 400, "bad-parameter"},
	{"unknown parameter", "GET", "/v1/directory?x=1", nil, 400, "bad-parameter"},
	{"unknown parameter", "GET", "/livez?x=1", nil, 400, "bad-parameter"},
	{"bad fill", "GET", "/v1/kv/k?fill=5", nil, 400, "bad-parameter"},
	{"zero fill", "GET", "/v1/kv/k?fill=0s", nil, 400, "bad-parameter"},
	{"over-long fill", "GET", "/v1/kv/k?fill=31s", nil, 400, "bad-parameter"},
	{"fill below a millisecond", "HEAD", "/v1/kv/k?fill=1500us", nil, 400, "bad-parameter"},
	{"fill of an old read", "GET", "/v1/kv/k?fill=5s&consistency=any", nil, 400, "bad-parameter"},
	{"fill of a PUT", "PUT", "/v1/kv/k?fill=5s", nil, 400, "bad-parameter"},
	{"bad return", "PUT", "/v1/kv/k?return=new", nil, 400, "bad-parameter"},
	{"return of a DELETE", "DELETE", "/v1/kv/k?return=old", nil, 400, "bad-parameter"},
	{"unquoted idempotency key", "PUT", "/v1/kv/k", []string{`Idempotency-Key: a`}, 400, "bad-header"},
	{"empty idempotency key", "PUT", "/v1/kv/k", []string{`Idempotency-Key: ""`}, 400, "bad-header"},
	{"idempotency key without its end", "DELETE", "/v1/kv/k", []string{`Idempotency-Key: "a`}, 400, "bad-header"},
	{"idempotency key with an escaped end", "DELETE", "/v1/kv/k", []string{`Idempotency-Key: "a\"`}, 400, "bad-header"},
	{"idempotency key with a quote", "DELETE", "/v1/kv/k", []string{`Idempotency-Key: "a"b"`}, 400, "bad-header"},
	{"idempotency key with a bad escape", "DELETE", "/v1/kv/k", []string{`Idempotency-Key: "a\b"`}, 400, "bad-header"},
	{"idempotency key with parameters", "PUT", "/v1/kv/k", []string{`Idempotency-Key: "a";b`}, 400, "bad-header"},
	{"idempotency key beyond ASCII", "PUT", "/v1/kv/k", []string{"Idempotency-Key: \"\xc3\xa4\""}, 400, "bad-header"},
	{"two idempotency keys", "PUT", "/v1/kv/k", []string{`Idempotency-Key: "a"`, `Idempotency-Key: "a"`}, 400, "bad-header"},
	{"over-long idempotency key", "PUT", "/v1/kv/k", []string{`Idempotency-Key: "` + strings.Repeat("k", 65) + `"`}, 400, "bad-header"},
	{"idempotency key of a touch", "POST", "/v1/kv/k?op=touch", []string{`Idempotency-Key: "a"`}, 400, "bad-header"},
	{"bad fill token", "PUT", "/v1/kv/k", []string{`Larder-Fill: t`}, 400, "bad-header"},
	{"fill token with zeros before", "PUT", "/v1/kv/k", []string{`Larder-Fill: 07`}, 400, "bad-header"},
	{"fill token 0", "PUT", "/v1/kv/k", []string{`Larder-Fill: 0`}, 400, "bad-header"},
	{"two fill tokens", "PUT", "/v1/kv/k", []string{`Larder-Fill: 7`, `Larder-Fill: 7`}, 400, "bad-header"},
	{"fill token and If-Match", "PUT", "/v1/kv/k", []string{`Larder-Fill: 7`, `If-Match: "7"`}, 400, "bad-header"},
	{"fill token and If-None-Match", "PUT", "/v1/kv/k", []string{`Larder-Fill: 7`, `If-None-Match: *`}, 400, "bad-header"},
	{"fill token of a DELETE", "DELETE", "/v1/kv/k", []string{`Larder-Fill: 7`}, 400, "bad-header"},
	{"fill token of a POST", "POST", "/v1/kv/k?op=incr", []string{`Larder-Fill: 7`}, 400, "bad-header"},

	{"PATCH without a body", "PATCH", "/v1/kv/k", nil, 400, "bad-body"},
	{"PATCH of a form", "PATCH", "/v1/kv/k", []string{"Content-Type: application/x-www-form-urlencoded"}, 415, "media-type"},
	{"PATCH of a JSON patch", "PATCH", "/v1/kv/k", []string{"Content-Type: application/json-patch+json"}, 415, "media-type"},
	{"coded PATCH", "PATCH", "/v1/kv/k", []string{"Content-Type: application/merge-patch+json", "Content-Encoding: gzip"}, 415, "content-encoding"},
	{"over-long PATCH, announced", "PATCH", "/v1/kv/k", []string{"Content-Length: 4097"}, 413, "body-too-large"},
	{"If-None-Match on PATCH", "PATCH", "/v1/kv/k", []string{`If-None-Match: *`}, 400, "bad-header"},
	{"ttl in the query of a PATCH", "PATCH", "/v1/kv/k?ttl=5s", nil, 400, "bad-parameter"},
	{"POST without op", "POST", "/v1/kv/k", nil, 400, "bad-parameter"},
	{"unknown op", "POST", "/v1/kv/k?op=decr", nil, 400, "bad-parameter"},
	{"by that is no integer", "POST", "/v1/kv/k?op=incr&by=1.5", nil, 400, "bad-parameter"},
	{"empty by", "POST", "/v1/kv/k?op=incr&by=", nil, 400, "bad-parameter"},
	{"by over 64 bits", "POST", "/v1/kv/k?op=incr&by=9223372036854775808", nil, 400, "bad-parameter"},
	{"by of an append", "POST", "/v1/kv/k?op=append&by=1", nil, 400, "bad-parameter"},
	{"ttl of a touch", "POST", "/v1/kv/k?op=touch&ttl=5s", nil, 400, "bad-parameter"},
	{"bad ttl of an incr", "POST", "/v1/kv/k?op=incr&ttl=5", nil, 400, "bad-parameter"},
	{"condition of a touch", "POST", "/v1/kv/k?op=touch", []string{`If-Match: "1"`}, 400, "bad-header"},
	{"If-None-Match on POST", "POST", "/v1/kv/k?op=incr", []string{`If-None-Match: *`}, 400, "bad-header"},
	{"body of an incr", "POST", "/v1/kv/k?op=incr", []string{"Content-Length: 1"}, 400, "bad-body"},
	{"body of a touch", "POST", "/v1/kv/k?op=touch", []string{"Content-Length: 1"}, 400, "bad-body"},
	{"coded append", "POST", "/v1/kv/k?op=append", []string{"Content-Encoding: gzip"}, 415, "content-encoding"},
	{"append over the limit, announced", "POST", "/v1/kv/k?op=append", []string{"Content-Length: 1048577"}, 413, "value-too-large"},
	{"ttl=none and max-age", "PUT", "/v1/kv/k?ttl=none", []string{"Cache-Control: max-age=2"}, 400, "bad-parameter"},

	{"both conditions", "PUT", "/v1/kv/k", []string{`If-Match: "1"`, "If-None-Match: *"}, 400, "bad-header"},
	{"If-None-Match with a tag", "PUT", "/v1/kv/k", []string{`If-None-Match: "1"`}, 400, "bad-header"},
	{"If-None-Match on DELETE", "DELETE", "/v1/kv/k", []string{`If-None-Match: *`}, 400, "bad-header"},
	{"If-Match on GET", "GET", "/v1/kv/k", []string{`If-Match: "1"`}, 400, "bad-header"},
	{"weak tag", "PUT", "/v1/kv/k", []string{`If-Match: W/"1"`}, 400, "bad-header"},
	{"list of tags", "PUT", "/v1/kv/k", []string{`If-Match: "1", "2"`}, 400, "bad-header"},
	{"unquoted tag", "DELETE", "/v1/kv/k", []string{`If-Match: 1`}, 400, "bad-header"},
	{"empty If-Match", "DELETE", "/v1/kv/k", []string{`If-Match:`}, 400, "bad-header"},
	{"foreign tag", "PUT", "/v1/kv/k", []string{`If-Match: "abc"`}, 400, "bad-header"},
	{"tag 0", "PUT", "/v1/kv/k", []string{`If-Match: "0"`}, 400, "bad-header"},
	{"tag with zeros before", "PUT", "/v1/kv/k", []string{`If-Match: "01"`}, 400, "bad-header"},
	{"tag over 64 bits", "PUT", "/v1/kv/k", []string{`If-Match: "18446744073709551616"`}, 400, "bad-header"},

	{"Content-Encoding", "PUT", "/v1/kv/k", []string{"Content-Encoding: gzip"}, 415, "content-encoding"},
	{"Content-Range", "PUT", "/v1/kv/k", []string{"Content-Range: bytes 0-1/2"}, 400, "bad-header"},
	{"over-long Content-Type", "PUT", "/v1/kv/k", []string{"Content-Type: a/" + strings.Repeat("b", 255)}, 400, "bad-header"},
	{"two Content-Types", "PUT", "/v1/kv/k", []string{"Content-Type: a/b", "Content-Type: a/c"}, 400, "bad-header"},
	{"bad timeout", "PUT", "/v1/kv/k", []string{"Larder-Timeout: 5"}, 400, "bad-header"},
	{"zero timeout", "GET", "/v1/kv/k", []string{"Larder-Timeout: 0s"}, 400, "bad-header"},
	{"negative timeout", "GET", "/v1/kv/k", []string{"Larder-Timeout: -1s"}, 400, "bad-header"},
	{"over-long timeout", "DELETE", "/v1/kv/k", []string{"Larder-Timeout: 61s"}, 400, "bad-header"},
	{"two timeouts", "DELETE", "/v1/kv/k", []string{"Larder-Timeout: 1s", "Larder-Timeout: 2s"}, 400, "bad-header"},
	{"value over the limit, announced", "PUT", "/v1/kv/k", []string{"Content-Length: 1048577"}, 413, "value-too-large"},

	{"member change without a condition", "PUT", "/v1/shards/1/members/b", nil, 428, "precondition-required"},
	{"member change without a condition", "DELETE", "/v1/shards/1/members/b?force=false", nil, 428, "precondition-required"},
	{"bad force", "PUT", "/v1/shards/1/members/b?force=1", nil, 400, "bad-parameter"},
	{"bad force", "DELETE", "/v1/shards/1/members/b?force", []string{`If-Match: "1-7"`}, 400, "bad-parameter"},
	{"two forces", "DELETE", "/v1/shards/1/members/b?force=true&force=true", nil, 400, "bad-parameter"},
	{"force and If-Match", "PUT", "/v1/shards/1/members/b?force=true", []string{`If-Match: "1-7"`}, 400, "bad-parameter"},
	{"weak conf tag", "PUT", "/v1/shards/1/members/b", []string{`If-Match: W/"1-7"`}, 400, "bad-header"},
	{"list of conf tags", "PUT", "/v1/shards/1/members/b", []string{`If-Match: "1-7", "1-8"`}, 400, "bad-header"},
	{"two conf tags", "PUT", "/v1/shards/1/members/b", []string{`If-Match: "1-7"`, `If-Match: "1-7"`}, 400, "bad-header"},
	{"any conf", "DELETE", "/v1/shards/1/members/b", []string{`If-Match: *`}, 400, "bad-header"},
	{"unquoted conf", "DELETE", "/v1/shards/1/members/b", []string{`If-Match: 1-7`}, 400, "bad-header"},
	{"empty conf", "PUT", "/v1/shards/1/members/b", []string{`If-Match: ""`}, 400, "bad-header"},
	{"conf without generation", "PUT", "/v1/shards/1/members/b", []string{`If-Match: "7"`}, 400, "bad-header"},
	{"conf of three parts", "PUT", "/v1/shards/1/members/b", []string{`If-Match: "1-7-1"`}, 400, "bad-header"},
	{"conf with zeros before", "PUT", "/v1/shards/1/members/b", []string{`If-Match: "1-07"`}, 400, "bad-header"},
	{"conf with a sign", "PUT", "/v1/shards/1/members/b", []string{`If-Match: "+1-7"`}, 400, "bad-header"},
	{"negative conf", "PUT", "/v1/shards/1/members/b", []string{`If-Match: "1--7"`}, 400, "bad-header"},
	{"conf over 64 bits", "PUT", "/v1/shards/1/members/b", []string{`If-Match: "1-18446744073709551616"`}, 400, "bad-header"},
	{"If-None-Match on a member", "PUT", "/v1/shards/1/members/b?force=true", []string{"If-None-Match: *"}, 400, "bad-header"},
	{"body on a member", "PUT", "/v1/shards/1/members/b?force=true", []string{"Content-Length: 2"}, 400, "bad-body"},
	{"body on a member", "DELETE", "/v1/shards/1/members/b?force=true", []string{"Content-Length: 2"}, 400, "bad-body"},
	{"bad timeout", "PUT", "/v1/shards/1/members/b?force=true", []string{"Larder-Timeout: 5"}, 400, "bad-header"},
	{"bad timeout", "GET", "/v1/shards/1/members", []string{"Larder-Timeout: 0s"}, 400, "bad-header"},
	{"bad timeout", "GET", "/v1/operations", []string{"Larder-Timeout: x"}, 400, "bad-header"},
	{"bad timeout", "GET", "/v1/operations/5", []string{"Larder-Timeout: 61s"}, 400, "bad-header"},
	{"bad timeout", "DELETE", "/v1/operations/5", []string{"Larder-Timeout: -1s"}, 400, "bad-header"},
	{"bad timeout", "DELETE", "/v1/nodes/a", []string{"Larder-Timeout: 1s", "Larder-Timeout: 1s"}, 400, "bad-header"},
	{"If-Match on a list of members", "GET", "/v1/shards/1/members", []string{`If-Match: "1-7"`}, 400, "bad-header"},
	{"bad If-None-Match", "GET", "/v1/shards/1/members", []string{"If-None-Match: 1-7"}, 400, "bad-header"},
	{"bad If-None-Match", "GET", "/v1/operations", []string{`If-None-Match: "a`}, 400, "bad-header"},
	{"bad If-None-Match", "GET", "/v1/directory", []string{`If-None-Match: 42`, "Prefer: wait=5"}, 400, "bad-header"},
	{"If-Match on a leader", "PUT", "/v1/shards/1/leader", []string{`If-Match: "1-7"`}, 400, "bad-header"},
	{"If-Match on an operation", "DELETE", "/v1/operations/5", []string{`If-Match: "1-7"`}, 400, "bad-header"},
	{"If-Match on a node", "DELETE", "/v1/nodes/a", []string{`If-Match: *`}, 400, "bad-header"},
	{"body on an operation", "DELETE", "/v1/operations/5", []string{"Content-Length: 1"}, 400, "bad-body"},
	{"body on a node", "DELETE", "/v1/nodes/a", []string{"Content-Length: 1"}, 400, "bad-body"},
	{"leader without a body", "PUT", "/v1/shards/1/leader", nil, 400, "bad-body"},
	{"over-long leader, announced", "PUT", "/v1/shards/1/leader", []string{"Content-Length: 4097"}, 413, "body-too-large"},
	{"form", "PUT", "/v1/shards/1/leader", []string{"Content-Type: application/x-www-form-urlencoded"}, 415, "media-type"},
	{"two media types", "PUT", "/v1/shards/1/leader", []string{"Content-Type: application/json", "Content-Type: application/json"}, 400, "bad-header"},
	{"coded JSON", "PUT", "/v1/shards/1/leader", []string{"Content-Encoding: gzip"}, 415, "content-encoding"},
	{"signed shard", "GET", "/v1/shards/+1/members", nil, 404, "unknown-shard"},
	{"settings without a body", "PATCH", "/v1/settings", nil, 400, "bad-body"},
	{"settings as a form", "PATCH", "/v1/settings", []string{"Content-Type: application/x-www-form-urlencoded"}, 415, "media-type"},
	{"settings as another patch", "PATCH", "/v1/settings", []string{"Content-Type: application/json-patch+json"}, 415, "media-type"},
	{"coded settings", "PATCH", "/v1/settings", []string{"Content-Encoding: gzip"}, 415, "content-encoding"},
	{"over-long settings, announced", "PATCH", "/v1/settings", []string{"Content-Length: 4097"}, 413, "body-too-large"},
	{"If-None-Match on settings", "PATCH", "/v1/settings", []string{"If-None-Match: *"}, 400, "bad-header"},
	{"weak tag of settings", "PATCH", "/v1/settings", []string{`If-Match: W/"1"`}, 400, "bad-header"},
	{"list of tags of settings", "PATCH", "/v1/settings", []string{`If-Match: "1", "2"`}, 400, "bad-header"},
	{"foreign tag of settings", "PATCH", "/v1/settings", []string{`If-Match: "1-7"`}, 400, "bad-header"},
	{"bad timeout", "PATCH", "/v1/settings", []string{"Larder-Timeout: 0s"}, 400, "bad-header"},
	{"unknown parameter", "PATCH", "/v1/settings?force=true", nil, 400, "bad-parameter"},
	{"If-Match on a look at settings", "GET", "/v1/settings", []string{`If-Match: "1"`}, 400, "bad-header"},
	{"no ttl and max-age", "PUT", "/v1/kv/k?ttl=none", []string{"Cache-Control: max-age=1"}, 400, "bad-parameter"},

	{"shard with zeros before", "PUT", "/v1/shards/01/leader", nil, 404, "unknown-shard"},
	{"shard that is no number", "PUT", "/v1/shards/x/members/a?force=true", nil, 404, "unknown-shard"},
	{"shard over 64 bits", "DELETE", "/v1/shards/18446744073709551616/members/a?force=true", nil, 404, "unknown-shard"},
	{"signed operation", "GET", "/v1/operations/-1", nil, 404, "unknown-operation"},
	{"operation with zeros before", "DELETE", "/v1/operations/05", nil, 404, "unknown-operation"},
	{"unknown parameter", "GET", "/v1/shards/1/members?x=1", nil, 400, "bad-parameter"},
	{"unknown parameter", "PUT", "/v1/shards/1/leader?force=true", nil, 400, "bad-parameter"},
	{"unknown parameter", "DELETE", "/v1/operations/5?force=true", nil, 400, "bad-parameter"},
	{"unknown parameter", "DELETE", "/v1/nodes/a?force=true", nil, 400, "bad-parameter"},
	{"unknown parameter", "GET", "/openapi.json?x", nil, 400, "bad-parameter"},
	{"route on what is no key", "GET", "/v1/directory?route=local", nil, 400, "bad-parameter"},
	{"route on what is no key", "GET", "/v1/shards/1?route=redirect", nil, 400, "bad-parameter"},
	{"route on what is no key", "GET", "/v1/locate/k?route=redirect", nil, 400, "bad-parameter"},
	{"route on what is no key", "GET", "/v1/shards/1/members?route=forward", nil, 400, "bad-parameter"},
	{"route on what is no key", "PUT", "/v1/shards/1/members/b?force=true&route=redirect", nil, 400, "bad-parameter"},
	{"route on what is no key", "GET", "/v1/operations?route=local", nil, 400, "bad-parameter"},
	{"bad wait", "GET", "/v1/directory", []string{"Prefer: wait=soon"}, 400, "bad-header"},
	{"wait without a value", "GET", "/v1/directory", []string{"Prefer: wait", `If-None-Match: "42"`}, 400, "bad-header"},
	{"negative wait", "HEAD", "/v1/directory", []string{"Prefer: wait=-1"}, 400, "bad-header"},
	{"malformed Prefer", "GET", "/v1/directory", []string{`Prefer: a="b`}, 400, "bad-header"},

	{"unknown path", "GET", "/", nil, 404, "unknown-path"},
	{"unknown path", "GET", "/v1/kv", nil, 404, "unknown-path"},
	{"unknown path", "PUT", "/v2/kv/k", nil, 404, "unknown-path"},
	{"unknown path", "HEAD", "/v1/shards/", nil, 404, "unknown-path"},
	{"path that is one only once cleaned", "PUT", "//v1/kv/k", nil, 404, "unknown-path"},
	{"path that is one only once cleaned", "PUT", "/x/../v1/kv/k", nil, 404, "unknown-path"},
	{"path that is one only once decoded", "PUT", "/v1%2fkv/k", nil, 404, "unknown-path"},
	{"asterisk", "OPTIONS", "*", nil, 404, "unknown-path"},
	{"wrong method", "OPTIONS", "/v1/kv/k", nil, 405, "method-not-allowed"},
	{"wrong method", "TRACE", "/v1/kv/k", nil, 405, "method-not-allowed"},
	{"wrong method", "put", "/v1/kv/k", nil, 405, "method-not-allowed"},
	{"wrong method", "PUT", "/v1/directory", nil, 405, "method-not-allowed"},
	{"wrong method", "DELETE", "/livez", nil, 405, "method-not-allowed"},
	{"wrong method", "HEAD", "/v1/batch", nil, 405, "method-not-allowed"},

	{"oversize headers", "PUT", "/v1/kv/k", []string{"X-Big: " + strings.Repeat("x", 100_000)}, 431, "headers-too-large"},
	{"oversize request line", "PUT", "/v1/kv/" + strings.Repeat("k", 100_000), nil, 431, "headers-too-large"},
	{"header without a colon", "PUT", "/v1/kv/k", []string{"nonsense"}, 400, "malformed-request"},
	{"control character in a header", "PUT", "/v1/kv/k", []string{"X-A: a\x01b"}, 400, "malformed-request"},
	{"second Host", "PUT", "/v1/kv/k", []string{"Host: b"}, 400, "malformed-request"},
	{"bad Content-Length", "PUT", "/v1/kv/k", []string{"Content-Length: -1"}, 400, "malformed-request"},
	{"two Content-Lengths", "PUT", "/v1/kv/k", []string{"Content-Length: 1", "Content-Length: 2"}, 400, "malformed-request"},
	{"unknown transfer coding", "PUT", "/v1/kv/k", []string{"Transfer-Encoding: gzip"}, 501, "transfer-encoding"},
	{"unknown expectation", "PUT", "/v1/kv/k", []string{"Expect: miracles"}, 417, "expectation-failed"},
}

// Bad input over a real socket gets its documented status and a problem that says that nothing was
// applied, and nothing reaches the cache.
func TestBadInput(t *testing.T) {
	f := newFixture(t)
	for _, tc := range badInputs {
		t.Run(tc.what+" "+tc.method, func(t *testing.T) {
			got := f.send(t, tc.method, tc.target, nil, false, tc.headers...)
			if tc.method == "HEAD" {
				if got.status != tc.status || len(got.body) != 0 || got.header.Get("Content-Type") != problemType {
					t.Errorf("got %d, %q, body %q, want %d, a problem's header and no body", got.status, got.header.Get("Content-Type"), got.body, tc.status)
				}
			} else {
				checkProblem(t, got.status, got.header, got.body, tc.status, tc.name, AppliedNo)
			}
			if f.data.reached() != 0 {
				t.Errorf("%d requests reached the cache", f.data.reached())
			}
			if calls := f.admin.called(); len(calls) != 0 {
				t.Errorf("%q reached the directory", calls)
			}
		})
	}
}

// Bytes that are no request at all, and a chunked body that is malformed, get a problem too.
func TestMalformedBytes(t *testing.T) {
	f := newFixture(t)
	tests := []struct {
		what, raw string
		status    int
		name      string
	}{
		{"no request line", "hello\r\n\r\n", 400, "malformed-request"},
		{"no version", "GET /v1/kv/k\r\n\r\n", 400, "malformed-request"},
		{"unknown version", "GET /v1/kv/k HTTP/3.0\r\nHost: a\r\n\r\n", 505, "http-version"},
		{"no Host", "PUT /v1/kv/k HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400, "malformed-request"},
		{"bad Host", "PUT /v1/kv/k HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "malformed-request"},
		{"bytes of TLS", "\x16\x03\x01\x00\xa5\x01\x00\x00\r\n\r\n", 400, "malformed-request"},
		{"bad chunk", "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n0\r\n\r\n", 400, "malformed-request"},
		{"length and chunks", "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "malformed-request"},
		{"relative path", "GET v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed-request"},
	}
	for _, tc := range tests {
		t.Run(tc.what, func(t *testing.T) {
			got := f.exchange(t, "", []byte(tc.raw))
			checkProblem(t, got.status, got.header, got.body, tc.status, tc.name, AppliedNo)
			if !got.closed {
				t.Error("the connection stayed open")
			}
			if f.data.reached() != 0 {
				t.Errorf("%d requests reached the cache", f.data.reached())
			}
		})
	}
}

// A body that is cut short stores nothing.
func TestShortBody(t *testing.T) {
	f := newFixture(t)
	conn := f.dial(t)
	fmt.Fprintf(conn, "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhalf")
	conn.(interface{ CloseWrite() error }).CloseWrite()
	got := make([]byte, 1)
	if _, err := conn.Read(got); err == nil && got[0] != 'H' {
		t.Errorf("got %q", got)
	}
	if f.data.reached() != 0 {
		t.Error("half a value reached the cache")
	}
}

// A body that does not come within Larder-Timeout is given up, with 408, and stores nothing.
func TestSlowBody(t *testing.T) {
	f := newFixture(t)
	start := time.Now()
	got := f.exchange(t, "PUT", []byte("PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nLarder-Timeout: 50ms\r\nContent-Length: 10\r\n\r\nhalf"))
	checkProblem(t, got.status, got.header, got.body, 408, "request-timeout", AppliedNo)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	if f.data.reached() != 0 {
		t.Error("half a value reached the cache")
	}
}

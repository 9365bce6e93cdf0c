package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// document is the OpenAPI document, with the parts of that language that it uses and no others.
type document struct {
	OpenAPI string `json:"openapi"`
	Info    struct{ Title, Summary, Version, Description string }
	Servers []struct{ URL, Description string }
	Tags    []struct{ Name, Description string }
	Paths   map[string]struct {
		Parameters []*docParameter
		Get, Head  *docOperation
		Put, Post  *docOperation
		Delete     *docOperation
		Patch      *docOperation
	}
	Components struct {
		Schemas    map[string]json.RawMessage
		Parameters map[string]*docParameter
		Headers    map[string]*docHeader
		Responses  map[string]*docResponse
	}
}

type docOperation struct {
	Status      string `json:"x-larder-status"`
	Tags        []string
	OperationID string `json:"operationId"`
	Summary     string
	Description string
	Parameters  []*docParameter
	RequestBody *struct {
		Description string
		Required    bool
		Content     map[string]docContent
	}
	Responses map[string]*docResponse
}

type docParameter struct {
	Ref         string `json:"$ref"`
	Name, In    string
	Required    bool
	Description string
	Schema      json.RawMessage
}

type docHeader struct {
	Ref         string `json:"$ref"`
	Description string
	Schema      json.RawMessage
}

type docResponse struct {
	Ref         string `json:"$ref"`
	Description string
	Headers     map[string]*docHeader
	Content     map[string]docContent

	at string // JSON pointer to it in the document
}

type docContent struct{ Schema json.RawMessage }

// planned reports whether the operation is promised and not built.
func (op *docOperation) planned() bool { return op.Status != "" }

// contract is the document with its references resolved and its schemas ready.
type contract struct {
	document
	raw        any // as encoding/json has it
	operations map[string]map[string]*docOperation
	patterns   map[string]*regexp.Regexp // what paths a path of the document stands for
	compiler   *jsonschema.Compiler
	mu         sync.Mutex // guards compiler and schemas
	schemas    map[string]*jsonschema.Schema
}

// loadContract parses the document once for all tests.
var loadContract = sync.OnceValues(func() (*contract, error) {
	c := &contract{schemas: map[string]*jsonschema.Schema{}, operations: map[string]map[string]*docOperation{}, patterns: map[string]*regexp.Regexp{}}
	decoder := json.NewDecoder(bytes.NewReader(openAPI))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c.document); err != nil {
		return nil, err
	}
	raw, err := jsonschema.UnmarshalJSON(bytes.NewReader(openAPI))
	if err != nil {
		return nil, err
	}
	c.raw = raw
	strict, err := jsonschema.UnmarshalJSON(bytes.NewReader(openAPI))
	if err != nil {
		return nil, err
	}
	closeObjects(strict)
	c.compiler = jsonschema.NewCompiler()
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource("document.json", strict); err != nil {
		return nil, err
	}
	for path, item := range c.Paths {
		methods := map[string]*docOperation{}
		for method, op := range map[string]*docOperation{
			"GET": item.Get, "HEAD": item.Head, "PUT": item.Put, "POST": item.Post, "DELETE": item.Delete, "PATCH": item.Patch,
		} {
			if op == nil {
				continue
			}
			methods[method] = op
			op.Parameters = append(slices.Clone(item.Parameters), op.Parameters...)
			for i, p := range op.Parameters {
				if op.Parameters[i], err = resolve(p, p.Ref, "parameters", c.Components.Parameters); err != nil {
					return nil, err
				}
			}
			for status, r := range op.Responses {
				at := "/paths/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(path) + "/" + strings.ToLower(method) + "/responses/" + status
				if r.Ref != "" {
					at = strings.TrimPrefix(r.Ref, "#")
				}
				if r, err = resolve(r, r.Ref, "responses", c.Components.Responses); err != nil {
					return nil, err
				}
				r.at = at
				op.Responses[status] = r
				for name, h := range r.Headers {
					if r.Headers[name], err = resolve(h, h.Ref, "headers", c.Components.Headers); err != nil {
						return nil, err
					}
				}
			}
		}
		c.operations[path] = methods
		pattern := regexp.QuoteMeta(path)
		pattern = strings.ReplaceAll(pattern, `\{key\}`, `.*`) // a key is all that follows
		pattern = regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(pattern, `[^/]+`)
		if strings.HasSuffix(path, "/") {
			pattern += ".*"
		}
		if c.patterns[path], err = regexp.Compile("^" + pattern + "$"); err != nil {
			return nil, err
		}
	}
	return c, nil
})

func openContract(t *testing.T) *contract {
	t.Helper()
	c, err := loadContract()
	if err != nil {
		t.Fatalf("openapi.json: %v", err)
	}
	return c
}

// resolve returns what ref refers to, and value itself where there is none.
func resolve[T any](value *T, ref, section string, components map[string]*T) (*T, error) {
	if ref == "" {
		return value, nil
	}
	name, ok := strings.CutPrefix(ref, "#/components/"+section+"/")
	if found := components[name]; ok && found != nil {
		return found, nil
	}
	return nil, fmt.Errorf("there is no %s", ref)
}

// closeObjects forbids members that a schema does not list. The document leaves them open, since clients
// are to bear later additions; what this version answers has none.
func closeObjects(value any) {
	switch value := value.(type) {
	case map[string]any:
		_, listed := value["properties"].(map[string]any)
		if _, set := value["additionalProperties"]; listed && !set {
			value["additionalProperties"] = false
		}
		for _, member := range value {
			closeObjects(member)
		}
	case []any:
		for _, element := range value {
			closeObjects(element)
		}
	}
}

// schema compiles what a JSON pointer into the document leads to.
func (c *contract) schema(at string) (*jsonschema.Schema, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.schemas[at]; ok {
		return s, nil
	}
	s, err := c.compiler.Compile("document.json#" + (&url.URL{Path: at}).EscapedPath())
	if err != nil {
		return nil, err
	}
	c.schemas[at] = s
	return s, nil
}

// pathOf returns the path of the document that a request's path belongs to.
func (c *contract) pathOf(escaped string) (string, bool) {
	for path, pattern := range c.patterns {
		if pattern.MatchString(escaped) {
			return path, true
		}
	}
	return "", false
}

// impossible are answers that only a fake makes the handlers give.
var impossible = []string{"DELETE /v1/kv/{key} 413"}

// commonHeaders belong to any answer: those of its body, and instructions to caches and browsers.
var commonHeaders = []string{"Content-Type", "Content-Length", "Cache-Control", "X-Content-Type-Options", "Content-Security-Policy", "Connection"}

// check returns what an answer has that the document does not.
func (c *contract) check(r *http.Request, status int, header http.Header, body []byte) error {
	path, known := c.pathOf(r.URL.EscapedPath())
	op := c.operations[path][r.Method]
	if op == nil {
		want := http.StatusNotFound
		if known {
			want = http.StatusMethodNotAllowed
		}
		if status != want {
			return fmt.Errorf("it is not declared, and answered with %d", status)
		}
		return c.validate("/components/schemas/Problem", body)
	}
	resp := op.Responses[strconv.Itoa(status)]
	if resp == nil {
		if slices.Contains(impossible, fmt.Sprintf("%s %s %d", r.Method, path, status)) {
			return nil
		}
		return fmt.Errorf("the status %d is not declared", status)
	}
	for name, values := range header {
		if slices.Contains(commonHeaders, name) {
			continue
		}
		declared := ""
		for candidate := range resp.Headers {
			if http.CanonicalHeaderKey(candidate) == name {
				declared = candidate
			}
		}
		if declared == "" {
			return fmt.Errorf("the header %s is not declared with %d", name, status)
		}
		for _, value := range values {
			text, err := json.Marshal(value)
			if err != nil {
				return err
			}
			if n := []byte(value); strings.Contains(string(resp.Headers[declared].Schema), `"integer"`) && json.Valid(n) {
				text = n
			}
			if err := c.validate("/components/headers/"+declared+"/schema", text); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if r.Method == http.MethodHead {
		return nil // net/http sends no body, and the document declares none
	}
	if len(resp.Content) == 0 {
		if len(body) > 0 {
			return fmt.Errorf("no body is declared with %d", status)
		}
		return nil
	}
	if _, ok := resp.Content["*/*"]; ok {
		return nil
	}
	mediaType, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return err
	}
	if _, ok := resp.Content[mediaType]; !ok {
		return fmt.Errorf("the media type %s is not declared with %d", mediaType, status)
	}
	if mediaType == "text/plain" {
		return nil
	}
	if mediaType == ndjson {
		for line := range bytes.Lines(body) {
			if err := c.validate(resp.at+"/content/"+strings.ReplaceAll(mediaType, "/", "~1")+"/schema", line); err != nil {
				return err
			}
		}
		return nil
	}
	return c.validate(resp.at+"/content/"+strings.ReplaceAll(mediaType, "/", "~1")+"/schema", body)
}

// validate holds a JSON text against the schema that a JSON pointer leads to.
func (c *contract) validate(at string, text []byte) error {
	schema, err := c.schema(at)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("the body is no JSON: %w", err)
	}
	return schema.Validate(value)
}

// answer notes what a handler answers.
type answer struct {
	http.ResponseWriter
	status int
	header http.Header
	body   bytes.Buffer
}

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	a.status, a.header = status, a.Header().Clone()
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	a.body.Write(p)
	return a.ResponseWriter.Write(p)
}

// checkAnswers fails the test, at its end, for each answer of next that the document does not describe.
func checkAnswers(t *testing.T, next http.Handler) http.Handler {
	t.Helper()
	c := openContract(t)
	var mu sync.Mutex
	var wrong []string
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, what := range slices.Compact(wrong) {
			t.Error(what)
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &answer{ResponseWriter: w}
		next.ServeHTTP(a, r)
		if err := c.check(r, a.status, a.header, a.body.Bytes()); err != nil {
			mu.Lock()
			defer mu.Unlock()
			wrong = append(wrong, fmt.Sprintf("openapi.json and the answer to %s %s differ: %v", r.Method, r.URL, err))
		}
	})
}

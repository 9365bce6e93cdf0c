package httpapi

import (
	_ "embed"
	"net/http"
)

// openAPI describes this interface (OpenAPI 3.1). It is written by hand; tests hold it against the
// routes, their parameters, all problems, and each answer that any test of this package gets.
//
//go:embed openapi.json
var openAPI []byte

// openAPITag is the ETag of openAPI.
var openAPITag = hashTag(openAPI)

// showOpenAPI serves the description of this interface.
func (s *server) showOpenAPI(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	unless, err := readTags(r.Header)
	if err != nil {
		return err
	}
	writeJSONBytes(w, openAPI, openAPITag, unless)
	return nil
}

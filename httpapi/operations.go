package httpapi

import (
	"net/http"

	"github.com/gorilla/mux"

	"github.com/larder-cache/larder/directory"
)

// operationsPath is the list of operations; each is under it by its number.
const operationsPath = "/v1/operations"

type operationList struct {
	Operations []directory.OperationView `json:"operations"`
}

// showOperations serves the operations that the table keeps.
func (s *server) showOperations(w http.ResponseWriter, r *http.Request) error {
	if err := s.checkOperationRead(r); err != nil {
		return err
	}
	list := operationList{s.cfg.Admin.Operations()}
	if list.Operations == nil {
		list.Operations = []directory.OperationView{}
	}
	return writeJSON(w, r, list, "")
}

// showOperation serves one operation with its progress, all of which is in its ETag.
func (s *server) showOperation(w http.ResponseWriter, r *http.Request) error {
	if err := s.checkOperationRead(r); err != nil {
		return err
	}
	n, err := operationOf(r)
	if err != nil {
		return err
	}
	operation, ok := s.cfg.Admin.Operation(n)
	if !ok {
		return unknownOperation(mux.Vars(r)["n"])
	}
	return writeJSON(w, r, operation, "")
}

// checkOperationRead refuses what a read of operations can't be asked. They are answered from memory:
// a deadline that is well-formed is met.
func (s *server) checkOperationRead(r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if _, err := timeoutOf(r.Header); err != nil {
		return err
	}
	return s.cfg.Directory.Known()
}

// cancelOperation asks for the end of an operation, and answers with how it stands.
func (s *server) cancelOperation(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	n, err := operationOf(r)
	if err != nil {
		return err
	}
	ctx, cancel, err := change(w, r, false)
	if err != nil {
		return err
	}
	defer cancel()
	operation, err := s.cfg.Admin.CancelOperation(ctx, n)
	if err != nil {
		return err
	}
	return accept(w, operation)
}

// operationOf is the number of the operation that the path names.
func operationOf(r *http.Request) (uint64, error) {
	text := mux.Vars(r)["n"]
	n, ok := decimal(text)
	if !ok {
		return 0, unknownOperation(text)
	}
	return n, nil
}

func unknownOperation(text string) error {
	return kindUnknownOperation.problem("There is no operation %q. GET %s lists them.", text, operationsPath)
}

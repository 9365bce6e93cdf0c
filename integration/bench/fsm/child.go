package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// A child process holds one subject. It reads a command per line and answers each with a line of JSON,
// so that the parent can let several take turns.

// answer is what a child says to a command.
type answer struct {
	NS     float64 `json:"ns,omitempty"` // per operation
	Heap   uint64  `json:"heap,omitempty"`
	RSS    uint64  `json:"rss,omitempty"`
	Mixed  *mixed  `json:"mixed,omitempty"`
	Churn  *churn  `json:"churn,omitempty"`
	Result []shot  `json:"result,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// child serves commands until in ends. The first argument names the subject.
func child(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("child %q: want a name", args)
	}
	b := &bench{name: args[0]}
	lines, answers := bufio.NewScanner(in), json.NewEncoder(out)
	for lines.Scan() {
		a, err := b.do(strings.Fields(lines.Text()))
		if err != nil {
			a = answer{Error: err.Error()}
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
	runtime.KeepAlive(sink)
	return lines.Err()
}

// process is the parent's side of a child.
type process struct {
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers *json.Decoder
}

// startChild starts a child; its end of file ends it, or ctx does.
func startChild(ctx context.Context, name string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "child", name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{name, cmd, in, json.NewDecoder(out)}, nil
}

// do sends a command and waits for its answer.
func (p *process) do(words ...any) (answer, error) {
	if _, err := fmt.Fprintln(p.in, words...); err != nil {
		return answer{}, err
	}
	var a answer
	if err := p.answers.Decode(&a); err != nil {
		return a, fmt.Errorf("%s: %v: %w", p.name, words, err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("%s: %v: %s", p.name, words, a.Error)
	}
	return a, nil
}

func (p *process) close() {
	p.in.Close()
	_ = p.cmd.Wait() // it was asked to end, or killed
}

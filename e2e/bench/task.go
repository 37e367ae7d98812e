package main

import (
	"context"
	"fmt"
	"os"
)

// task is what the lab's helpers take for a test: a failure ends the function that [task.try] runs.
type task struct{ ctx context.Context }

// failure is what a failed helper panics with.
type failure struct{ error }

// try runs f and returns its error, or that of a helper that failed in it.
func (t task) try(f func() error) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case failure:
			err = v.error
		default:
			panic(v)
		}
	}()
	return f()
}

// The methods of [lab.T].

func (t task) Helper()                        {}
func (t task) Cleanup(func())                 {} // the lab is closed with all that is in it
func (t task) Context() context.Context       { return t.ctx }
func (t task) Failed() bool                   { return false }
func (t task) Logf(format string, a ...any)   { fmt.Fprintf(os.Stderr, format+"\n", a...) }
func (t task) Errorf(format string, a ...any) { t.Fatalf(format, a...) }
func (t task) Fatalf(format string, a ...any) {
	if err := t.ctx.Err(); err != nil {
		panic(failure{err})
	}
	panic(failure{fmt.Errorf(format, a...)})
}

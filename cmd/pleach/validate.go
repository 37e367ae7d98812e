package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/pleachdev/pleach/gitsync"
	"github.com/pleachdev/pleach/gitsync/manifest"
)

func validateCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "validate [DIR]",
		Short: "Check a config repository, or a folder of manifests, offline",
		Long: `Check a clone of the config repository, or any folder of manifests, as the agents would:
render, decode strictly, fill in defaults and validate as Kubernetes does. Every problem
is a line "file:line: field: reason". No agent and no network is needed, so it fits into
a pre-commit hook or a pipeline. Signatures and changes against what runs are not checked.

It ends with 1 when there are errors; warnings alone end with 0.`,
		Example: `  pleach validate
  pleach validate ./config
  pleach validate -o json . | jq '.errors[].path'`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				return fmt.Errorf("validate: %w", err)
			}
			defer root.Close() // opened for reading
			result := summarize(manifest.Validate(root.FS()))
			switch output {
			case "":
				err = result.print(cmd.OutOrStdout())
			case "json":
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				err = encoder.Encode(result)
			default:
				return usageError{fmt.Errorf("--output %s: want json", output)}
			}
			if err == nil && len(result.Errors) > 0 {
				return quiet{errors.New("there are errors")}
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json for programs")
	return cmd
}

// validation is the result in the form of -o json.
type validation struct {
	Apps     []validatedApp `json:"apps"`
	Errors   []problem      `json:"errors"`
	Warnings []problem      `json:"warnings"`
}

// problem is a manifest.Problem under the names of JSON.
type problem struct {
	App    string `json:"app,omitempty"`
	Path   string `json:"path"`
	Line   int    `json:"line,omitempty"`
	Object string `json:"object,omitempty"`
	Field  string `json:"field,omitempty"`
	Reason string `json:"reason"`
}

func problems(list []manifest.Problem) []problem {
	out := make([]problem, 0, len(list))
	for _, p := range list {
		out = append(out, problem{p.App, p.Path, p.Line, p.Object, p.Field, p.Reason})
	}
	return out
}

func (p problem) String() string {
	return printable(manifest.Problem{Path: p.Path, Line: p.Line, Object: p.Object, Field: p.Field, Reason: p.Reason}.Error())
}

type validatedApp struct {
	Name    string `json:"name"`
	Objects int    `json:"objects"`
	OK      bool   `json:"ok"`
}

func summarize(r manifest.Report) validation {
	v := validation{Apps: []validatedApp{}, Errors: problems(r.Problems), Warnings: []problem{}}
	for i := range v.Errors {
		v.Errors[i].App = cmp.Or(v.Errors[i].App, gitsync.ClusterUnit)
	}
	for _, a := range r.Apps {
		v.Apps = append(v.Apps, validatedApp{a.App.Name, len(a.Result.Objects), len(a.Result.Errors) == 0})
		v.Errors = append(v.Errors, problems(a.Result.Errors)...)
		v.Warnings = append(v.Warnings, problems(a.Result.Warnings)...)
	}
	return v
}

func (v validation) print(w io.Writer) error {
	for _, p := range v.Errors {
		if _, err := fmt.Fprintln(w, p); err != nil {
			return err
		}
	}
	for _, p := range v.Warnings {
		if _, err := fmt.Fprintln(w, "warning: "+p.String()); err != nil {
			return err
		}
	}
	objects := 0
	for _, a := range v.Apps {
		objects += a.Objects
	}
	_, err := fmt.Fprintf(w, "%s in %s: %s, %s\n", count(objects, "good object"), count(len(v.Apps), "app"),
		count(len(v.Errors), "error"), count(len(v.Warnings), "warning"))
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

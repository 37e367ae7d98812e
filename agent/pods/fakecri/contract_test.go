package fakecri_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pleachdev/pleach/agent/pods/cricontract"
	"github.com/pleachdev/pleach/agent/pods/fakecri"
)

// The fake keeps the contract that containerd keeps.
func TestContract(t *testing.T) {
	runtime := fakecri.New()
	runtime.Latency = 5 * time.Millisecond
	runtime.Program = func(_ string, config *runtimeapi.ContainerConfig) fakecri.Program {
		p := fakecri.Program{Exec: execute}
		if len(config.GetCommand()) > 0 {
			p.StartErr = errors.New("no such file or directory")
		}
		if args := config.GetArgs(); len(args) > 0 {
			switch args[0] {
			case "exit":
				code, err := strconv.Atoi(args[1])
				if err != nil {
					t.Error(err)
				}
				p.RunFor, p.ExitCode = time.Millisecond, int32(code)
			case "stubborn":
				p.IgnoreTERM = true
			}
		}
		return p
	}
	runtime.Pull = func(_ context.Context, image string, _ *runtimeapi.AuthConfig) error {
		if strings.Contains(image, "missing") {
			return errors.New("not found")
		}
		return nil
	}
	client := runtime.Connect()
	cricontract.Run(t, cricontract.Subject{
		Runtime: client, Images: client.Images(), Image: "example.org/app:1", NoImage: "example.org/missing:1", LogDir: t.TempDir(),
	})
}

func execute(ctx context.Context, command []string) (string, int32, error) {
	switch command[1] {
	case "exit":
		code, err := strconv.Atoi(command[2])
		return "", int32(code), err
	case "sleep":
		<-ctx.Done()
		return "", 0, ctx.Err()
	}
	return "", 0, nil
}

package node_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestCommands uses a pod with the commands of a person who looks after it.
func TestCommands(t *testing.T) {
	t.Parallel()
	f := newFlock(t)
	f.repo.Write(appDir+"/box.yaml", box)
	f.repo.Write(appDir+"/config.yaml", config("one"))
	f.deploy("a box with configuration")
	f.waitReady("default/box", 1)
	pod := f.podName("default/box")

	f.run("configuration", func(f *flock) {
		if got := f.kubectl("exec", "deploy/box", "--", "cat", "/config/word"); got != "one" {
			f.t.Errorf("the mounted file says %q, want one", got)
		}
		if got := f.kubectl("exec", pod, "--", "sh", "-c", "echo $PASSWORD $POD $LIMIT"); got != "hunter2 "+pod+" 67108864\n" {
			f.t.Errorf("the environment holds %q", got)
		}
		before := f.pids()
		f.repo.Write(appDir+"/config.yaml", config("two"))
		f.deploy("another word")
		f.wait("the mounted file follows", func(context.Context) error {
			if got, err := f.try("exec", pod, "--", "cat", "/config/word"); err != nil || got != "two" {
				return fmt.Errorf("it says %q (%w)", got, err)
			}
			return nil
		})
		f.samePIDs(before)
	})
	f.run("exec", func(f *flock) {
		_, err := f.try("exec", pod, "--", "sh", "-c", "exit 7")
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 7 {
			f.t.Errorf("a command that exits with 7 gave %v", err)
		}
		_, err = f.try("exec", "nobody", "--", "true")
		if err == nil || !strings.Contains(err.Error(), "not found") {
			f.t.Errorf("a pod that is not there gave %v", err)
		}
	})
	f.run("logs", func(f *flock) {
		// The first run writes one line and fails; the second is the one that goes on.
		if got := f.kubectl("logs", pod, "--previous"); got != "first run\n" {
			f.t.Errorf("the log of the run before says %q", got)
		}
		if got := f.kubectl("logs", "deploy/box"); !strings.HasPrefix(got, "second run\n") {
			f.t.Errorf("the log says %q", got)
		}
		ctx, cancel := context.WithTimeout(f.t.Context(), patience)
		defer cancel()
		cmd, err := f.node.Command(ctx, f.program, "logs", "-f", pod)
		must(f.t, err)
		out, err := cmd.StdoutPipe()
		must(f.t, err)
		must(f.t, cmd.Start())
		_, err = f.try("exec", pod, "--", "sh", "-c", "echo written while followed >/proc/1/fd/1")
		must(f.t, err)
		var text strings.Builder
		for buffer := make([]byte, 1024); !strings.Contains(text.String(), "written while followed"); {
			n, err := out.Read(buffer)
			text.Write(buffer[:n])
			if err != nil {
				f.t.Errorf("following gave %q and %v", text.String(), err)
				break
			}
		}
		cancel()
		_ = cmd.Wait()
	})
	f.run("get, describe, explain", func(f *flock) {
		for command, want := range map[string][]string{
			"get deploy,pods -A":                    {"NAMESPACE", "deployment.apps/box", "1/1", "pod/" + pod, "Running"},
			"get pods -l app=box -o yaml":           {"kind: List", "podIP: 10.", "restartCount: 1", "phase: Running"},
			"get cm words -o jsonpath={.data.word}": {"two"},
			"describe pod " + pod:                   {"Image:", "library/box", "Last State:", "Exit Code:", "Events:", "Started"},
			"describe deploy box":                   {appDir + "/box.yaml", "Replicas:", "NewReplicaSetAvailable"},
			"explain deploy/box":                    {appDir + "/box.yaml", nodeName, f.repo.Git("log", "-1", "--format=%h", "--", appDir+"/box.yaml")},
			"get nodes":                             {nodeName, "Ready"},
			"status":                                {"test", "box", nodeName},
		} {
			out := f.kubectl(strings.Fields(command)...)
			for _, w := range want {
				if !strings.Contains(out, w) {
					f.t.Errorf("pleach %s does not say %q:\n%s", command, w, out)
				}
			}
		}
		for _, command := range []string{"get secret password -o yaml", "describe secret password"} {
			if out := f.kubectl(strings.Fields(command)...); strings.Contains(out, "hunter2") || strings.Contains(out, "aHVudGVyMg") {
				f.t.Errorf("pleach %s shows the secret:\n%s", command, out)
			}
		}
	})
	f.run("restarts are as the kubelet's", func(f *flock) {
		status := f.pods("default/box")[0].Status
		c := status.ContainerStatuses[0]
		if last := c.LastTerminationState.Terminated; c.RestartCount != 1 || last == nil || last.ExitCode != 3 || last.Reason != "Error" {
			f.t.Errorf("the container's status is %+v", c)
		}
		types := []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady}
		for _, want := range types {
			if !slices.ContainsFunc(status.Conditions, func(c corev1.PodCondition) bool { return c.Type == want && c.Status == corev1.ConditionTrue }) {
				f.t.Errorf("condition %s is not true in %+v", want, status.Conditions)
			}
		}
	})
}

func config(word string) string {
	return `apiVersion: v1
kind: ConfigMap
metadata:
  name: words
  namespace: default
data:
  word: ` + word + `
---
apiVersion: v1
kind: Secret
metadata:
  name: password
  namespace: default
stringData:
  password: hunter2
`
}

const box = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: box
  namespace: default
spec:
  selector:
    matchLabels:
      app: box
  template:
    metadata:
      labels:
        app: box
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: box
        image: box:1
        command:
        - sh
        - -c
        - |
          if [ ! -e /data/seen ]; then
            echo seen >/data/seen
            echo first run
            exit 3
          fi
          echo second run
          echo ready >/data/ready
          while true; do sleep 1; done
        readinessProbe:
          exec:
            command: [cat, /data/ready]
          periodSeconds: 1
        env:
        - name: PASSWORD
          valueFrom:
            secretKeyRef:
              name: password
              key: password
        - name: POD
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: LIMIT
          valueFrom:
            resourceFieldRef:
              resource: limits.memory
        resources:
          limits:
            cpu: 100m
            memory: 64Mi
        volumeMounts:
        - name: words
          mountPath: /config
        - name: data
          mountPath: /data
      volumes:
      - name: words
        configMap:
          name: words
      - name: data
        emptyDir: {}
`

package node_test

import (
	"strings"
	"testing"
)

// podinfo is the Deployment of podinfo's own repository, with replicas and a version put in.
func podinfo(namespace, version string, replicas string) string {
	return strings.NewReplacer("NAMESPACE", namespace, "VERSION", version, "REPLICAS", replicas).Replace(podinfoManifest)
}

const podinfoManifest = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: podinfo
  namespace: NAMESPACE
spec:
  replicas: REPLICAS
  minReadySeconds: 3
  revisionHistoryLimit: 5
  progressDeadlineSeconds: 60
  strategy:
    rollingUpdate:
      maxUnavailable: 0
    type: RollingUpdate
  selector:
    matchLabels:
      app: podinfo
  template:
    metadata:
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "9797"
      labels:
        app: podinfo
    spec:
      containers:
      - name: podinfod
        image: ghcr.io/stefanprodan/podinfo:VERSION
        imagePullPolicy: IfNotPresent
        ports:
        - name: http
          containerPort: 9898
          protocol: TCP
        - name: http-metrics
          containerPort: 9797
          protocol: TCP
        - name: grpc
          containerPort: 9999
          protocol: TCP
        command:
        - ./podinfo
        - --port=9898
        - --port-metrics=9797
        - --grpc-port=9999
        - --grpc-service-name=podinfo
        - --level=info
        - --random-delay=false
        - --random-error=false
        env:
        - name: PODINFO_UI_COLOR
          value: "#34577c"
        livenessProbe:
          exec:
            command:
            - podcli
            - check
            - http
            - localhost:9898/healthz
          initialDelaySeconds: 5
          timeoutSeconds: 5
        readinessProbe:
          exec:
            command:
            - podcli
            - check
            - http
            - localhost:9898/readyz
          initialDelaySeconds: 5
          timeoutSeconds: 5
        resources:
          limits:
            cpu: 2000m
            memory: 512Mi
          requests:
            cpu: 100m
            memory: 64Mi
        volumeMounts:
          - name: data
            mountPath: /data
      volumes:
        - name: data
          emptyDir: {}
`

func TestRollout(t *testing.T) {
	t.Parallel()
	f := newFlock(t)
	f.repo.Write(appDir+"/podinfo.yaml", podinfo("default", "6.14.1", "3"))
	f.push("deploy")
	f.waitReady("default/podinfo", 3)
	t.Log(f.kubectl("get", "pods", "-o", "wide"), f.pids())
}

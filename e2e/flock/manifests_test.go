package flock

const image, nextImage = "stefanprodan/podinfo:6.14.1", "stefanprodan/podinfo:6.14.2"

// web is six replicas, spread over the nodes, of which none may be missing while they are replaced.
const web = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: default
spec:
  replicas: 6
  strategy:
    rollingUpdate: {maxSurge: 2, maxUnavailable: 0}
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: ScheduleAnyway
        labelSelector: {matchLabels: {app: web}}
      containers:
      - name: web
        image: ` + image + `
        ports:
        - {name: http, containerPort: 9898}
        readinessProbe:
          httpGet: {path: /readyz, port: http}
          periodSeconds: 1
`

package pods

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pleachdev/pleach/agent/pods/fakecri"
)

// BenchmarkStart is what the manager itself takes from Start to Running, beside the runtime's time.
func BenchmarkStart(b *testing.B) {
	runtime := fakecri.New(testImage)
	client := runtime.Connect()
	dir := b.TempDir()
	m := New(Config{Dir: dir, LogDir: dir, Runtime: client, Images: client.Images(), Lookup: &objects{}, NodeName: "n1", Mounts: plain{}})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	var took time.Duration
	for i := 0; b.Loop(); i++ {
		pod := newPod(fmt.Sprintf("web-%d", i))
		began := time.Now()
		if err := m.Start(pod); err != nil {
			b.Fatal(err)
		}
		for ready := false; !ready; <-m.Changed() {
			for _, p := range m.Pods() {
				ready = ready || p.UID == pod.UID && isReady(p)
			}
			if ready {
				break
			}
		}
		took += time.Since(began)
		if err := m.Stop(pod.UID, ""); err != nil {
			b.Fatal(err)
		}
		for len(m.Pods()) > 0 {
			<-m.Changed()
		}
	}
	b.ReportMetric(float64(took.Microseconds())/float64(b.N)/1000, "ms/start")
}

package agent

import "github.com/prometheus/client_golang/prometheus"

// measure registers the metrics of the flock.
func (f *flock) measure(registry prometheus.Registerer) error {
	seen := func(read func(view) int) func() float64 {
		return func() float64 { return float64(read(f.seen())) }
	}
	for _, c := range []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pleach_flock_nodes", Help: "Nodes that the accepted commit enrols.",
		}, seen(func(v view) int { return len(v.enrolled) })),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pleach_flock_members", Help: "Nodes that membership says are alive, this one included.",
		}, seen(func(v view) int { return v.members })),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pleach_flock_documents", Help: "Documents of nodes that are held and count, this one's included.",
		}, seen(func(v view) int { return len(v.documents) })),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "pleach_peer_sent_bytes_total", Help: "Bytes written to the agents of other nodes, encryption included.",
		}, func() float64 { return float64(f.peers.Sent()) }),
	} {
		if err := registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

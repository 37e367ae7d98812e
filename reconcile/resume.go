package reconcile

import "fmt"

// resumeFound says which of the pods that a machine found on its disk when it was started may run again:
// none before all others were heard, and none whose slot went on elsewhere meanwhile. An agent that was
// started on a running machine finds its pods running, and takes them over without asking.
func (p *pass) resumeFound() {
	if len(p.in.Found) == 0 || p.index.unheard != "" && p.in.without != ruleHeard {
		return
	}
	for _, uid := range p.in.Found {
		m := p.index.own[uid]
		if m == nil || !m.live() || p.stopping[uid] {
			continue
		}
		epoch := p.index.epoch(m.Slot)
		beside := false // a surge of this very slot has the higher epoch by right
		for _, o := range p.inSlot(m.Slot) {
			beside = beside || o.Epoch == epoch && o.Revision != m.Revision
		}
		if epoch > m.Epoch && !beside && p.in.without != ruleEpoch {
			p.stop(*m, ByDuplicate, fmt.Sprintf("epoch %d of the slot was given away while the machine was off", epoch))
			continue
		}
		p.resume = append(p.resume, uid)
	}
}

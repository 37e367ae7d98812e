package reconcile

import "slices"

// Rules are those that tests leave out, by name.
var Rules = map[string]rule{
	"evidence": ruleEvidence, "word": ruleWord, "once": ruleOnce, "young": ruleYoung, "token": ruleToken,
	"heard": ruleHeard, "newest": ruleNewest, "previous": rulePrevious, "epoch": ruleEpoch,
}

// Bend leaves a rule out of a decision; nothing when there is no such rule.
func Bend(name string) func(*Input) {
	return func(in *Input) { in.without = Rules[name] }
}

// LeaveOut lets rollouts go on without a condition until restore is called.
func LeaveOut(name string) (restore func()) {
	all := rolloutChecks
	rolloutChecks = slices.DeleteFunc(slices.Clone(all), func(c check) bool { return nameOf(c) == name })
	return func() { rolloutChecks = all }
}

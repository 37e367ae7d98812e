package reconcile

// rule names a rule that tests leave out, to show what goes wrong without it.
type rule int

const (
	noRule         rule = iota
	ruleEvidence        // a pod ends in favour of another on its node's word alone
	ruleWord            // who has given its word does not end the pod for another
	ruleOnce            // a registrar says yes once
	ruleAgain           // an answer that is given again is over before its promise
	ruleYoung           // a node that has just started promises nothing
	ruleToken           // one slot of a workload at a time
	ruleSight           // a registrar counts no pod as ready on a node that it does not see
	ruleHeard           // nothing is claimed before everybody was heard
	ruleNewest          // nothing is claimed of an app at an old commit
	rulePrevious        // a lost slot returns to its last revision
	ruleWave            // claims of the latest causes are planned as if there were none
	ruleClaimed         // also causes of which every slot is claimed
	ruleInPlace         // a pod that is replaced where it is counts there all the while
	ruleRecreate        // what a Recreate starts only later is planned from its commit on
	ruleOlder           // what an older cause opened is planned first
	ruleEpoch           // nothing is started from disk whose slot went on
	ruleFrozen          // nothing is moved from a lost node while many vanish, or from the smaller side
	ruleLeaves          // a pod that no commit changes leaves a drained node
	ruleWithdraw        // a pod that is not ready ends for a junior that is
	ruleStops           // not all slots of a rollout surge
	ruleSurges          // not all of them stop first
	ruleOverdue         // a slot that is not ready for long holds the order no more
	ruleNeighbours      // who stops first out of turn waits for those around it that do so by the order
	ruleRank            // the second best node waits before it claims
	ruleOpen            // the wait of a rank is not begun again by another plan
	ruleDecline         // a node that declined is not waited for
	ruleWhole           // all claims of a pass go out in one version of the document
)

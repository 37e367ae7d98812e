package gossip

// payload is the document on the wire. Numbers of fields are never used again for something else.
//
// What repeats stands once: texts and commits are tables, and fields refer to them by place, from 1;
// 0 is the empty text or no commit. Workloads and instances are written column by column, so that a
// node with many pods does not name every field for each of them; a column without content is left
// out. The name and uid of a pod follow from its identity and are
// written only where they do not.
type payload struct {
	Texts       []string          `cbor:"1,keyasint,omitempty"` // in the order of their first use
	Commits     []commit          `cbor:"2,keyasint,omitempty"`
	Apps        []uint32          `cbor:"3,keyasint,omitempty"` // of the accepted vector: texts
	Accepted    []uint32          `cbor:"4,keyasint,omitempty"` // beside Apps: commits
	Head        uint32            `cbor:"5,keyasint,omitempty"` // commit
	Versions    []int32           `cbor:"6,keyasint,omitempty"`
	Capacity    map[string]string `cbor:"7,keyasint,omitempty"` // quantities
	Allocatable map[string]string `cbor:"8,keyasint,omitempty"`
	Addresses   []address         `cbor:"9,keyasint,omitempty"`
	Conditions  []condition       `cbor:"10,keyasint,omitempty"`
	NodeInfo    nodeInfo          `cbor:"11,keyasint,omitempty"`
	Workloads   workloads         `cbor:"12,keyasint,omitempty"`
	Instances   instances         `cbor:"13,keyasint,omitempty"`
	Releases    []release         `cbor:"14,keyasint,omitempty"`
	Declines    []decline         `cbor:"15,keyasint,omitempty"`
	BackBy      int64             `cbor:"16,keyasint,omitempty"`
}

type commit struct {
	ID    []byte `cbor:"1,keyasint,omitempty"`
	Level int64  `cbor:"2,keyasint,omitempty"`
	Time  int64  `cbor:"3,keyasint,omitempty"` // as all times: microseconds since 1970, 0 for none
}

type address struct {
	Type    string `cbor:"1,keyasint,omitempty"`
	Address string `cbor:"2,keyasint,omitempty"`
}

type condition struct {
	Type       string `cbor:"1,keyasint,omitempty"`
	Status     string `cbor:"2,keyasint,omitempty"`
	Heartbeat  int64  `cbor:"3,keyasint,omitempty"`
	Transition int64  `cbor:"4,keyasint,omitempty"`
	Reason     string `cbor:"5,keyasint,omitempty"`
	Message    string `cbor:"6,keyasint,omitempty"`
}

// nodeInfo is corev1.NodeSystemInfo.
type nodeInfo struct {
	MachineID        string `cbor:"1,keyasint,omitempty"`
	SystemUUID       string `cbor:"2,keyasint,omitempty"`
	BootID           string `cbor:"3,keyasint,omitempty"`
	KernelVersion    string `cbor:"4,keyasint,omitempty"`
	OSImage          string `cbor:"5,keyasint,omitempty"`
	ContainerRuntime string `cbor:"6,keyasint,omitempty"`
	Kubelet          string `cbor:"7,keyasint,omitempty"`
	KubeProxy        string `cbor:"8,keyasint,omitempty"`
	OperatingSystem  string `cbor:"9,keyasint,omitempty"`
	Architecture     string `cbor:"10,keyasint,omitempty"`
	Swap             *int64 `cbor:"11,keyasint,omitempty"` // bytes
	UserNamespace    *bool  `cbor:"12,keyasint,omitempty"`
}

// workloads are those that instances belong to.
type workloads struct {
	UIDs       []byte   `cbor:"1,keyasint,omitempty"` // 16 bytes each
	Kinds      []uint32 `cbor:"2,keyasint,omitempty"` // texts, as the next three
	Namespaces []uint32 `cbor:"3,keyasint,omitempty"`
	Names      []uint32 `cbor:"4,keyasint,omitempty"`
	Apps       []uint32 `cbor:"5,keyasint,omitempty"`
}

// instances has one element for each instance in every column that is there.
type instances struct {
	Workloads []uint32 `cbor:"1,keyasint,omitempty"` // from 0
	Ordinals  []int32  `cbor:"2,keyasint,omitempty"`
	Revisions []string `cbor:"3,keyasint,omitempty"`
	Epochs    []int64  `cbor:"4,keyasint,omitempty"`
	Boots     []int64  `cbor:"5,keyasint,omitempty"` // the document's boot less the instance's
	Claimed   []int64  `cbor:"6,keyasint,omitempty"`
	Causes    []uint32 `cbor:"7,keyasint,omitempty"` // text; 0 for the id of the commit
	Commits   []uint32 `cbor:"8,keyasint,omitempty"`
	States    []byte   `cbor:"9,keyasint,omitempty"`  // the bits below
	Since     []int64  `cbor:"10,keyasint,omitempty"` // ready, after the claim, microseconds
	IPs       [][]byte `cbor:"11,keyasint,omitempty"` // 4 or 16 bytes, or none
	Restarts  []int32  `cbor:"12,keyasint,omitempty"`
	Reasons   []uint32 `cbor:"13,keyasint,omitempty"` // texts
	Messages  []uint32 `cbor:"14,keyasint,omitempty"`
	// Names and UIDs are those of pods that do not follow from their identity, of an agent with
	// another rule.
	Names []uint32 `cbor:"15,keyasint,omitempty"` // texts
	UIDs  [][]byte `cbor:"16,keyasint,omitempty"`
}

// The bits of an instance's state. Above them stands the place of its phase in phases.
const (
	bitReady       = 1 << iota
	bitSince       // Since counts
	bitTerminating // the node has decided to stop it
	bitOwn         // the slot is the node's own, as a DaemonSet's, and has no ordinal
	phaseShift     = iota
)

type release struct {
	UID      []byte `cbor:"1,keyasint,omitempty"`
	Ordinal  int32  `cbor:"2,keyasint,omitempty"` // -1 for the node's own slot
	Revision string `cbor:"3,keyasint,omitempty"`
	Epoch    int64  `cbor:"4,keyasint,omitempty"`
	By       uint32 `cbor:"5,keyasint,omitempty"` // text
	At       int64  `cbor:"6,keyasint,omitempty"`
}

type decline struct {
	UID      []byte `cbor:"1,keyasint,omitempty"`
	Ordinal  int32  `cbor:"2,keyasint,omitempty"`
	Revision string `cbor:"3,keyasint,omitempty"`
	Reason   uint32 `cbor:"4,keyasint,omitempty"` // text
	At       int64  `cbor:"5,keyasint,omitempty"`
}

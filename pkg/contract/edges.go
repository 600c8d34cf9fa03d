package contract

// Party is who writes or reads topics: one of the roles, or people with tools of their own.
type Party string

// The parties.
const (
	Ingest    Party = "ingest"
	Processor Party = "processor"
	Notifier  Party = "notifier"
	Realtime  Party = "realtime"
	Analyst   Party = "analyst"
	Operator  Party = "operator" // sets topics up, reads dead letters and writes them again
)

// Parties returns all parties, roles first.
func Parties() []Party { return []Party{Ingest, Processor, Notifier, Realtime, Analyst, Operator} }

// Edge says who writes and who reads a topic.
type Edge struct {
	Topic   string
	Writers []Party
	Readers []Party
	// Barred are those who may never do anything with it, whatever else somebody lets them
	// do: to be left out of the two lists above is no more than an absence.
	Barred []Party
}

// Edges returns the edges of the graph, one a topic. The rights that topics plan --acls asks for
// follow from them (bus.Rights), so a role that begins to write or read a topic needs its
// place here first, and a topic that is not here is nobody's.
func (t Topics) Edges() []Edge {
	return []Edge{
		{
			Topic:   t.Commands,
			Writers: []Party{Ingest, Processor, Operator}, // accepted; follow-ups; dead letters again
			Readers: []Party{Processor},
			Barred:  []Party{Analyst}, // what people write to each other is here alone
		},
		{
			Topic:   t.Events,
			Writers: []Party{Processor},
			Readers: []Party{Ingest, Realtime, Notifier, Analyst},
		},
		{Topic: t.Couples, Writers: []Party{Processor}, Readers: []Party{Analyst}},
		{Topic: t.Users, Writers: []Party{Processor}, Readers: []Party{Analyst}},
		{Topic: t.Pushes, Writers: []Party{Notifier}, Readers: []Party{Analyst}},
		{Topic: t.Control, Writers: []Party{Ingest, Operator}, Readers: []Party{Ingest, Realtime}},
		{
			Topic:   t.Presence,
			Writers: []Party{Realtime},
			Readers: []Party{Realtime},
			Barred:  []Party{Analyst}, // when somebody is at their phone is between two people
		},
		{Topic: t.DeadLetter, Writers: []Party{Processor, Notifier}, Readers: []Party{Operator}},
	}
}

// Groups holds the names of the consumer groups of one installation.
type Groups struct {
	Processor string // shares the commands topic
	Notifier  string // shares the events topic
	// Analysts is how the names of all groups begin that analysts' tools may join.
	Analysts string
}

// NewGroups returns the group names for a prefix.
func NewGroups(prefix string) Groups {
	return Groups{Processor: prefix + "-processor", Notifier: prefix + "-notifier", Analysts: prefix + "-analyst"}
}

// Membership says who may join which consumer groups.
type Membership struct {
	Group    string
	Prefixed bool // all groups whose names begin with Group
	Member   Party
}

// Memberships returns who joins the groups. Who is not in it cannot join, and so cannot take
// partitions away from those who are. Ingest and realtime read in no group: every
// instance reads all.
func (g Groups) Memberships() []Membership {
	return []Membership{
		{Group: g.Processor, Member: Processor},
		{Group: g.Notifier, Member: Notifier},
		{Group: g.Analysts, Prefixed: true, Member: Analyst},
	}
}

package demo

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	projects = 3
	replicas = 2
	clients  = 4 // of each project, each with its own connections
)

// operation is one thing that a partner wants, and how it is sent.
type operation struct {
	number    int
	endpoint  *endpoint
	project   int
	reference string
	key       string
	body      []byte
	changed   []byte // another request under the same key
	sends     []send
}

// send is one time that the operation is sent.
type send struct {
	replica, client int
	after           time.Duration // since the operation's start, or since its first answer when late
	late            bool          // after the operation was answered
	changed         bool          // with the changed body
	quoted          bool          // with the key in quotes, as the draft asks for; most clients send it bare
	fault           fault         // asked of the server
	cut             cut
	cutAfter        time.Duration // since the request was sent
}

// fault is what the server is asked to do between the writes and the commit, the first time that this send is tried.
type fault struct {
	sleep time.Duration
	panic bool
}

// cut is how the client goes away before the answer, the first time that this send is tried.
type cut int

const (
	cutNone    cut = iota
	cutCancel      // an HTTP client that loses its patience
	cutReset       // the whole request, then a reset of the connection
	cutPartial     // half of the request, then a reset
)

// makePlan returns the operations. The same seed and number give the same plan.
func makePlan(seed uint64, n int) (plan []*operation, slots int) {
	p := planner{random: rand.New(rand.NewPCG(seed, 0)), used: map[identity]bool{}}
	for i := range n {
		p.plan = append(p.plan, p.operation(i))
	}
	return p.plan, p.slots
}

type planner struct {
	random *rand.Rand
	slots  int    // given out so far; every project has all of them
	recent []slot // bookings that can be contested
	plan   []*operation
	used   map[identity]bool
}

// identity is what makes an operation the one that it is.
type identity struct {
	project  int
	endpoint *endpoint
	key      string
}

type slot struct {
	project int
	name    string
}

// chance is true in so many cases of 100.
func (p *planner) chance(percent int) bool { return p.random.IntN(100) < percent }

func (p *planner) upTo(most time.Duration) time.Duration {
	return time.Duration(p.random.Int64N(int64(most)))
}

func (p *planner) operation(i int) *operation {
	op := &operation{number: i, endpoint: p.endpoint(), project: p.random.IntN(projects), key: p.key()}
	// A key belongs to one endpoint of one project, so two operations may share it.
	if len(p.plan) > 0 && p.chance(5) {
		key := p.plan[p.random.IntN(len(p.plan))].key
		if !p.used[identity{op.project, op.endpoint, key}] {
			op.key = key
		}
	}
	p.used[identity{op.project, op.endpoint, op.key}] = true
	op.reference = fmt.Sprintf("%s-%04d", op.endpoint.name, i)

	b := bodyBuilder{reference: op.reference, slot: p.slot(op)}
	s1, s2 := p.random.Uint64(), p.random.Uint64()
	b.random = rand.New(rand.NewPCG(s1, s2))
	op.body = b.build(op.endpoint)
	b.random, b.changed = rand.New(rand.NewPCG(s1, s2)), true
	op.changed = b.build(op.endpoint)

	op.sends = p.sends()
	return op
}

func (p *planner) endpoint() *endpoint {
	n := p.random.IntN(100)
	for _, e := range endpoints {
		if n -= e.weight; n < 0 {
			return e
		}
	}
	panic("demo: the weights do not add up to 100")
}

// key makes a UUID of version 4, as most clients do.
func (p *planner) key() string {
	var u [16]byte
	binary.BigEndian.PutUint64(u[:8], p.random.Uint64())
	binary.BigEndian.PutUint64(u[8:], p.random.Uint64())
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// slot gives every booking a slot of its own, and one in five the slot of another one that is sent at about the same time.
func (p *planner) slot(op *operation) string {
	if op.endpoint.table != "bookings" {
		return ""
	}
	if p.chance(20) {
		for _, s := range p.recent {
			if s.project == op.project {
				return s.name
			}
		}
	}
	p.slots++
	s := slot{op.project, fmt.Sprintf("slot-%04d", p.slots)}
	p.recent = append([]slot{s}, p.recent[:min(len(p.recent), 5)]...)
	return s.name
}

func (p *planner) sends() []send {
	sends := make([]send, 1+p.random.IntN(5))
	panics := p.chance(10)
	slow := p.chance(40)
	for i := range sends {
		s := &sends[i]
		s.replica, s.client, s.quoted = p.random.IntN(replicas), p.random.IntN(clients), p.chance(30)
		if slow {
			s.fault.sleep = 2*time.Millisecond + p.upTo(25*time.Millisecond)
		}
		switch {
		case i == 0 && panics:
			// The others arrive while it is at work, and one of them has to take over.
			s.fault = fault{sleep: s.fault.sleep + p.upTo(5*time.Millisecond), panic: true}
			continue
		case i > 0 && p.chance(12):
			s.changed = true
			s.late = p.chance(70) // else it races with the first one, and either may win
		case i > 0 && p.chance(25):
			s.late = true
		}
		if i > 0 {
			s.after = p.upTo(12 * time.Millisecond)
		}
		if p.chance(14) {
			s.cut = cutCancel + cut(p.random.IntN(3))
			s.cutAfter = p.upTo(15*time.Millisecond) + s.fault.sleep/2
		}
	}
	return sends
}

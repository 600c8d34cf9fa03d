package bus

import (
	"slices"
	"sync"
)

// subscribers are the functions that a tail hands what it reads to.
type subscribers[T any] struct {
	mu   sync.Mutex
	list []*subscriber[T] // replaced, never changed in place
}

type subscriber[T any] struct{ handle func(T) }

// Subscribe adds a function that gets everything from then on, until cancel returns; a
// call under way may end after that. It is called by one goroutine at a time and must not
// block: the tail waits for it.
func (s *subscribers[T]) Subscribe(handle func(T)) (cancel func()) {
	added := &subscriber[T]{handle: handle}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(slices.Clone(s.list), added)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.list = slices.DeleteFunc(slices.Clone(s.list), func(o *subscriber[T]) bool { return o == added })
	}
}

func (s *subscribers[T]) hand(v T) {
	s.mu.Lock()
	list := s.list
	s.mu.Unlock()
	for _, to := range list {
		to.handle(v)
	}
}

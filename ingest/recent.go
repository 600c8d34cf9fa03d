package ingest

import "sync"

// recent remembers the last capacity things put into it. It only saves work and waiting:
// whatever it has forgotten is found elsewhere. Safe for concurrent use.
type recent[K comparable, V any] struct {
	mu    sync.Mutex
	byKey map[K]V
	order []K // ring of the keys in byKey, oldest at next once full
	next  int
}

func newRecent[K comparable, V any](capacity int) *recent[K, V] {
	return &recent[K, V]{byKey: make(map[K]V), order: make([]K, 0, capacity)}
}

func (r *recent[K, V]) get(key K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.byKey[key]
	return v, ok
}

func (r *recent[K, V]) put(key K, value V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.byKey[key]; !known {
		if len(r.order) < cap(r.order) {
			r.order = append(r.order, key)
		} else {
			delete(r.byKey, r.order[r.next])
			r.order[r.next] = key
			r.next = (r.next + 1) % len(r.order)
		}
	}
	r.byKey[key] = value
}

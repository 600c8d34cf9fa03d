package main

import (
	"context"
	"sync"

	"github.com/bondmate/backend/notifier"
	"github.com/bondmate/backend/pkg/bus"
	"github.com/bondmate/backend/processor"
)

// joined notes when a role's consumer group has admitted it: until then it processes
// nothing, so it is not ready.
type joined struct {
	once  sync.Once
	ready chan struct{}
}

func newJoined() *joined { return &joined{ready: make(chan struct{})} }

type generationHandler = func(context.Context, bus.Generation) error

func (j *joined) note(handle generationHandler) generationHandler {
	return func(ctx context.Context, gen bus.Generation) error {
		j.once.Do(func() { close(j.ready) })
		return handle(ctx, gen)
	}
}

// processorBus is the processor's Kafka with a note of the first generation.
type processorBus struct {
	processor.Bus
	joined *joined
}

func (b processorBus) RunGroup(ctx context.Context, cfg bus.GroupConfig, handle generationHandler) error {
	return b.Bus.RunGroup(ctx, cfg, b.joined.note(handle))
}

// notifierBus is the notifier's Kafka with a note of the first generation.
type notifierBus struct {
	notifier.Bus
	joined *joined
}

func (b notifierBus) RunGroup(ctx context.Context, cfg bus.GroupConfig, handle generationHandler) error {
	return b.Bus.RunGroup(ctx, cfg, b.joined.note(handle))
}

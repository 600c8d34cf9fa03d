// Package embedded runs the servers that the system needs when none are configured: a
// PostgreSQL server from binaries on this machine (or fetched once), and a broker that
// speaks the Kafka protocol inside this process.
//
// Both keep their state under one data directory, which exactly one process may hold
// (LockDir). State survives kill -9: Postgres replays its log, the broker its segments.
// The Postgres server dies with the process that started it: on Linux the kernel sees to
// it, elsewhere the next start stops what it finds. Whoever starts a server closes it.
package embedded

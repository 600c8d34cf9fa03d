// Package notifier turns events into pushes: it reads the events topic in a consumer
// group, keeps one due delivery per event and device in Postgres, and sends what is due.
//
// # Guarantee
//
// A push is sent at least once unless acknowledged, expired or withdrawn, and is not
// repeated except where the outcome of a call is unknown (a crash, no answer, an error
// after acceptance). It holds because
//
//   - offsets are committed only after the transaction that holds the batch's deliveries,
//     and a delivery's id comes from the event's and the device's, so a record that is
//     read again inserts nothing;
//   - a row is marked sending, under its lock, before the call, and stays claimable: while
//     sending, due_at is the end of a lease, so the rows of a notifier that died are due
//     again by themselves;
//   - a result is written only over the claim that it belongs to (its attempts number), so
//     a notifier that was stopped beyond its lease changes nothing of its successor's.
//
// A repeat that does happen replaces the first on the phone: both carry one collapse id,
// and the event id is in the data.
//
// Once an ending is committed, no push of what it took back begins (G9), and one that was
// sent by then, or may have been, is replaced on the phone by a silent message with the
// same collapse id: once for each delivery, with the leases and retries of any other. It
// holds because an ending's event is read after its cuts are committed, so that every
// delivery is either marked by it (replace.go) or claimed with the cuts in sight.
//
// What a user has muted by category is settled as suppressed when it is claimed, and what
// comes due in their quiet hours is put off until these end (quiet.go): by the preferences
// of that moment, not of the event's. A replacement heeds neither.
//
// # Outcomes
//
// How each delivery ended is told to the pushes topic at least once, and no push waits for
// that (teller.go): a result is told just before it is settled, within a fraction of a second
// and behind a breaker, and the statement that settles it says whether it was; whatever is
// settled untold, here or by the processor, is told afterwards from the table.
//
// # Parts
//
// The consumer owns the generation's partition readers and the channel they fill. The
// sender owns the claimed rows: one goroutine claims, Config.InFlight workers call, one
// settles; the channels between them hold at most what is claimed, so none of them blocks
// for want of room. Notifier.Run starts both and ends them in order: the consumer stops,
// claiming stops, calls in hand finish or are cut at the drain timeout, results are
// written. Nothing outlives Run.
//
// # Data and links
//
// Every push carries data of strings: v (1), eventId, seq (the inbox sequence), epoch
// (the stream epoch), type (the event's type) and link. A link opens the screen:
//
//	bondmate://requests/{requestId}          a partner request
//	bondmate://partnerships/{partnershipId}  a partnership
//	bondmate://notifications                 the list, for all else
//
// What an ending took back after it was sent is replaced by a message without a
// notification: on iOS a background push, with content-available. Its data are those of
// the push save type, which is withdrawn, and link, which opens the list; unread is how much
// there is to read now, for the app's icon; replaces is the collapse id: the tag (Android) or the identifier (iOS) of what the app takes off the
// screen. A phone that was off gets it instead of the push. It shows, sounds and counts
// nothing.
//
// Every push that shows something says how many entries of the inbox are unread, counted as
// GET /api/notifications does when it is claimed (aps.badge, notification_count). Who reads on
// one device (inbox.read) gets that number on the others by a message that shows nothing; not
// on the device that has acknowledged it, and quiet hours do not hold it up.
//
// Apps open the list for a link that they do not know. Which events are pushed, and how,
// is the table in rule.go.
package notifier

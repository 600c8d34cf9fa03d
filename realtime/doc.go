// Package realtime turns committed events into frames on phones' WebSockets: the
// bondmate.v1 protocol at GET /api/realtime.
//
// # Guarantee (G5)
//
// A socket that says hello with after=N is sent N+1, N+2, … of its user's inbox exactly
// once and in order, whatever the topic drops, repeats, delays or reorders, on whichever
// gateway it connects to; or it is told resync. It is never left with a silent hole.
//
// The reason it holds: the topic is only a hint. A socket knows the one sequence that it
// must be sent next, and an event from the topic goes out only when it carries exactly
// that sequence. Anything else means reading the inbox on the primary from there on: a
// higher sequence (something is missing), one that is too old to send unread (a cut may
// apply by now), another stream epoch, or a head that is ahead of the socket (the lost
// tail, looked for every Config.HeadEvery). Inbox sequences come from a row that is
// locked until commit, and events are published after commit: so whoever knows of
// sequence K finds everything up to K on the primary, and a row missing there is history
// that is gone, which is a resync and not a gap. Replays and the stream are one code
// path: a hello subscribes first, holding events back, and starts as a socket that is
// behind.
//
// A read asks the primary, always, where the inbox ends, in which epoch, whether the session
// lives and whether a cut took back anything after the socket's place (G9). Reads that come
// together go in one statement, behind one breaker, so that a mass reconnect is a few
// statements and no stampede. The events themselves come from the inbox, or from the window:
// the last few minutes of the topic for all users, in memory. From there they come only when
// the primary's answer, one snapshot, leaves no doubt: in its epoch the window holds every
// sequence from the next one to the head or to a page's end, the first of them is still the
// event that the inbox has there, and no cut reaches beyond the socket's place. A cut that is
// committed after the snapshot meets what is queued as it meets a page of the inbox: a frame
// that has waited for Config.ConfirmedFor since the look is read again.
//
// What a socket has been sent but its phone has not received is the phone's to ask for
// again: it resumes with the last sequence it holds.
//
// # Ownership
//
// Gateway.Run owns everything: it subscribes to the events, and every goroutine of a
// socket is counted and waited for before Run returns. A socket has
//
//   - one reader goroutine, started by the HTTP handler, which then returns so that
//     net/http's buffers go. The reader alone ends a socket: it takes it out of the hub
//     and closes the connection;
//   - at most one writer goroutine at any time, which lives only while frames are queued:
//     an idle socket costs one goroutine;
//   - at most one fill goroutine at any time, which reads the inbox while the socket is
//     behind.
//
// Reads of the inbox are sent by up to Config.MaxReads goroutines, which live while reads
// wait. Whoever waits for one of them is a goroutine of a socket, so Run waits for them too.
//
// socket.mu guards a socket's place in the stream and its queue; nothing waits while
// holding it, so the events' subscriber never blocks and a slow socket slows no other:
// its bounded queue overflows and it is closed with 4008, to resume later. A replay is
// no such flood: it waits until the queue has drained before it reads on.
//
// A session that ends closes its sockets twice over: the control topic says so at once, and
// whoever misses that finds it in the database within Config.SessionEvery. Without Kafka the
// second alone holds.
//
// Who is online is presence's (presence.go): one goroutine asks the primary who may see whom
// and makes all frames, another writes to the presence topic; sockets, the events' subscriber
// and the topic's only note what has changed. A presence frame that was not written within
// Config.ConfirmedFor of that answer is dropped and asked for again.
//
// Acknowledgements of all sockets are gathered and written by one goroutine, sessions and
// heads of all sockets are looked up by another, both set-based.
package realtime
